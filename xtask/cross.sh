#!/usr/bin/env bash
# Builds and tries rsalloc for a machine that this one is not.
#
# gate: `golden`, `clippy` and `guest quick`, the gate `aarch64` of `cargo xtask preflight`.
# aarch64, riscv64, s390x, ppc64le: in qemu-user, which has no rseq: the tests of the engine and of the Rust front in the portable form; the
#   engine's unit tests, librsalloc.so and the command in the architecture's own, which takes the atomic path there. See xtask/guest/user.sh.
# clippy: for aarch64, whose architecture no other gate has it read.
# guest: librsalloc.so with its sections, in virtual machines of aarch64: `guest quick` for one, `guest` for all, `guest all
#   TEST..` with tests of rsalloc-core too; `guest machine KERNEL CPUS SUITE` for any, as in `guest machine 6.12-16k 2 trixie`;
#   `guest kernels` for those whose kernels are built here: pages of 64 KiB, and a kernel that aborts no section. See xtask/guest.
# suite: a machine with Debian's compiler and programs: the command's own, the programs' output, the tests. See xtask/guest/debian.sh.
# golden: the instructions of aarch64's hot paths, held against docs/golden-aarch64.md.
# windows: a program with RsAlloc as its global allocator is compiled and linked (RsAlloc is std's System there).
# compiler: fetches Debian sid's compiler only (below), for `cargo xtask dist --arch aarch64`.
#
# Debian packages (installed by apt if this runs as root): gcc and libc6-dev-*-cross for the architecture, qemu-user-static; for guests
# qemu-system-arm, cpio, and for kernels flex, bison, bc, make; gcc-mingw-w64-x86-64-win32.
# Where the toolchain in use has no std for the target (`rustup target add`), Debian sid's compiler is taken, with its
# std for the architecture and with std's sources for Windows: 190 MB, unpacked in target/cross, no root needed.
set -euo pipefail
cd "$(dirname "$0")/.."
cross=$PWD/target/cross
mkdir -p "$cross"
export CARGO_TARGET_DIR=$cross/build

. xtask/debian.sh
. xtask/guest/user.sh
. xtask/guest/debian.sh
. xtask/guest/kernel.sh

# This machine's packages of sid, arm64's of all.
debian_apt() {
    apt_state "$cross/apt" deb amd64,arm64:sid arm64:trixie arm64:bookworm
}

# unpack FOLDER PACKAGE..: once.
unpack() {
    debian_apt
    unpack_debs "$cross/apt" "$@"
}

# The newest package whose name matches, in a suite.
newest() {
    debian_apt
    apt-cache -c "$cross/apt/apt.conf" search --names-only "$1" | sort -V | tail -n 1 | cut -d' ' -f1
}

# A package of this machine's architecture, and all that it depends on.
with_dependencies() {
    apt-cache -c "$cross/apt/apt.conf" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
        --no-replaces --no-enhances "$@" | grep '^[a-z]' | sort -u
}

# The most instructions that the hot path of each function with a section may execute on aarch64.
golden_limits() {
    cat <<'LIMITS'
malloc 23
__libc_malloc 23
rsalloc_own_malloc 23
_Znwm 23
rsalloc_new_nothrow 23
rsalloc_core::allocate_aligned 25
calloc 35
__libc_calloc 35
posix_memalign 33
free 27
__libc_free 27
_ZdlPv 27
free_sized 24
rsalloc_delete_sized 24
rsalloc_core::free_sized 26
rsalloc_core::malloc_counted 35
rsalloc_core::alloc_counted 37
rsalloc_core::calloc_counted 44
sections::pop_cpu 20
sections::pop_cid 23
sections::push_cpu 22
sections::push_cid 25
sections::pop_batch_cpu 35
sections::pop_batch_cid 38
sections::push_batch_cpu 34
sections::push_batch_cid 37
sections::set_bounds_cpu 21
sections::set_bounds_cid 24
sections::add_cpu 18
sections::add_cid 21
LIMITS
}

golden_page() {
    cat <<'PAGE'
# Golden table of aarch64

What each function with a restartable section executes on aarch64, counted as in [the table of x86-64](golden.md), by
`aarch64-linux-gnu-objdump`. `xtask/cross.sh golden` fails when the build differs from this table, passes a limit, or has a
call, an exclusive or atomic instruction, the stack or x18 in a path; `xtask/cross.sh golden write` rewrites it. The gate
`aarch64` runs it (the table: rustc 1.97 of Debian, 2026-11-29).

PAGE
    cat
}

# Every descriptor must belong to a function of the table: as many, and each named function has one.
golden() {
    local library=$CARGO_TARGET_DIR/aarch64-unknown-linux-gnu/release/librsalloc_preload.so table count
    toolchain aarch64
    cargo build --quiet --target aarch64-unknown-linux-gnu --package rsalloc-preload --release
    table=$({ golden_limits; echo ---; aarch64-linux-gnu-objdump -d --demangle=rust --no-show-raw-insn "$library"; } | awk -f xtask/guest/golden.awk)
    echo "$table"
    count=$(descriptors "$library" all | wc -l)
    [ "$count" = "$(golden_limits | wc -l)" ] || { echo "$count functions with sections, not all have a limit" >&2; exit 1; }
    if [ "${1-}" = write ]; then
        golden_page <<<"$table" >docs/golden-aarch64.md
    else
        diff <(golden_page <<<"$table") docs/golden-aarch64.md || { echo "docs/golden-aarch64.md differs" >&2; exit 1; }
    fi
}

# The descriptors of a library with another length: `shorten LIBRARY COPY all` those of all sections, `trial` that of the trial at start.
shorten() {
    local library=$1 copy=$2 which=$3 at
    cp "$library" "$copy"
    descriptors "$library" "$which" | while read -r at; do
        printf '\4\0\0\0\0\0\0\0' | dd of="$copy" bs=1 seek="$at" conv=notrunc status=none
    done
    ! cmp -s "$library" "$copy" || { echo "no descriptor was found in $library" >&2; exit 1; }
}

# Where in the file the lengths are, `post_commit_offset` of struct rseq_cs.
descriptors() {
    local sections address offset size start end
    sections=$(aarch64-linux-gnu-readelf -SW "$1" | tr -d '[]')
    if [ "$2" = all ]; then
        read -r address offset size < <(awk '$2 == "__rseq_cs" { print "0x" $4, "0x" $5, "0x" $6 }' <<<"$sections")
        for ((at = 0; at < size; at += 32)); do echo $((offset + at + 16)); done
        return
    fi
    # The descriptor has relocations to the function `spin`, the first of them for start_ip, 8 bytes before the length.
    read -r start size < <(aarch64-linux-gnu-nm -S "$1" | awk '/self_test.*spin/ { print "0x" $1, "0x" $2; exit }')
    end=$((start + size))
    read -r address offset < <(awk '$2 == ".data.rel.ro" { print "0x" $4, "0x" $5 }' <<<"$sections")
    while read -r at addend; do
        if ((addend >= start && addend < end)); then
            echo $((at - address + offset + 8))
            return
        fi
    done < <(aarch64-linux-gnu-readelf -rW "$1" | awk '/R_AARCH64_RELATIV/ { print "0x" $1, "0x" $4 }')
}

# believe LIBRARY COPY: a copy whose trial at start says without trying that the section was aborted.
believe() {
    local library=$1 copy=$2 function address offset size
    function=$(aarch64-linux-gnu-nm "$library" | awk '/self_test.*spin/ { print "0x" $1; exit }')
    read -r address offset size < <(aarch64-linux-gnu-readelf -SW "$library" | tr -d '[]' | awk '$2 == ".text" { print "0x" $4, "0x" $5, "0x" $6 }')
    ((function >= address && function < address + size)) || { echo "the trial's section was not found in $library" >&2; exit 1; }
    cp "$library" "$copy"
    # mov w0, #1; ret
    printf '\40\0\200\122\300\3\137\326' | dd of="$copy" bs=1 seek=$((function - address + offset)) conv=notrunc status=none
}

# Fetches a kernel of Debian, or builds one of its source, by the names below: its file is `image`.
image_of() {
    local kernel=$1
    case $kernel in
    6.1) unpack "$cross/linux-6.1" "$(newest '^linux-image-6\.1\..*[0-9]-cloud-arm64$')" ;;
    6.12) unpack "$cross/linux-6.12" "$(newest '^linux-image-6\.12\..*[0-9]-cloud-arm64$')" ;;
    6.12-16k) unpack "$cross/linux-6.12-16k" "$(newest '^linux-image-6\.12\..*-arm64-16k$')" ;;
    7) unpack "$cross/linux-7" "$(newest '^linux-binary-7\..*-cloud-arm64$')" ;;
    7-16k) unpack "$cross/linux-7-16k" "$(newest '^linux-binary-7\..*-arm64-16k$')" ;;
    6.12-64k | 7-64k | 7-unsound) build_kernel "$kernel" ;;
    *) echo "no kernel $kernel; there are 6.1, 6.12, 6.12-16k, 6.12-64k, 7, 7-16k, 7-64k and 7-unsound" >&2 && exit 2 ;;
    esac
    image=$(find "$cross/linux-$kernel" -name 'vmlinuz*' -type f | head -n 1)
}

# One machine: KERNEL CPUS GLIBC [PROGRAM..].
boot() {
    local kernel=$1 cpus=$2 glibc=$3 image root=$cross/initramfs-$1 words="rseq_debug=1 cid=1 aborts=10" said
    shift 3
    image_of "$kernel"
    case $kernel in
    6.1) words="rseq_debug=1 cid=0 aborts=10" ;;
    # With rseq_debug=1 such a kernel kills the thread that it should have aborted.
    *-unsound) words="cid=1 aborts=none" ;;
    esac
    unpack "$cross/glibc-$glibc" "libc6:arm64/$glibc" "libgcc-s1:arm64/$glibc"
    unpack "$cross/busybox" busybox-static:arm64/bookworm
    rm -rf "$root"
    mkdir -p "$root/bin" "$root/lib"
    find "$cross/glibc-$glibc" -name '*.so.*' ! -type d -exec cp -L {} "$root/lib" \;
    find "$cross/busybox" -name busybox -type f -perm -1 -exec cp {} "$root/bin" \;
    cp xtask/guest/init.sh "$root/init"
    cp "$cross/hammer" "$@" "$root/bin"
    chmod +x "$root/init"
    (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$root.gz"
    said=$(timeout 600 qemu-system-aarch64 -cpu neoverse-n1 -machine virt,gic-version=3 -accel tcg,thread=multi -smp "$cpus" \
        -m 1024 -kernel "$image" -initrd "$root.gz" -nographic -no-reboot -nodefaults -serial stdio -monitor none \
        -append "console=ttyAMA0 quiet panic=-1 $words rounds=2000" | tr -d '\r') || true
    sed -n "s/^GUEST \(.*\)/\1, glibc of $glibc/p; s/^RAN/   /p; /^FAULT/p" <<<"$said"
    if grep -q ^FAULT <<<"$said" || ! grep -q ^DONE <<<"$said"; then
        echo "FAILED: Linux $kernel, $cpus CPUs, glibc of $glibc" >&2
        tail -n 20 <<<"$said" >&2
        return 1
    fi
}

# guest [quick | machine KERNEL CPUS SUITE | mm_cid | kernels [KERNEL..] | all [TEST..]]: one machine; any one; the same with entries by mm_cid too; those with kernels of our own, which are built first (xtask/guest/kernel.sh), all
# or with the named kernels; or all with Debian's, and tests of rsalloc-core by name.
guest() {
    local target=aarch64-unknown-linux-gnu library programs failed=0 name cell which=${1-}
    needs qemu-system-aarch64 qemu-system-arm
    needs cpio cpio
    toolchain aarch64
    cargo build --quiet --target $target --package rsalloc-preload --release
    library=$cross/librsalloc.so
    cp "$CARGO_TARGET_DIR/$target/release/librsalloc_preload.so" "$library"
    shorten "$library" "$cross/broken.so" all
    shorten "$library" "$cross/untried.so" trial
    aarch64-linux-gnu-gcc -O2 -pthread -o "$cross/hammer" xtask/guest/hammer.c
    aarch64-linux-gnu-gcc -O1 -o "$cross/sweep" xtask/guest/sweep.c
    programs=("$library" "$cross/broken.so" "$cross/sweep")
    shift $(($# > 0))
    case $which in
    quick) boot_with 7 2 sid ;;
    machine) boot_with "$@" ;;
    mm_cid)
        cargo build --quiet --target $target --package rsalloc-preload --release --features mm_cid --target-dir "$CARGO_TARGET_DIR-mm_cid"
        cp "$CARGO_TARGET_DIR-mm_cid/$target/release/librsalloc_preload.so" "$cross/mm_cid.so"
        shorten "$cross/mm_cid.so" "$cross/mm_cid-broken.so" all
        boot 7 2 sid "${programs[@]}" "$cross/mm_cid.so" "$cross/mm_cid-broken.so" "$cross/untried.so"
        ;;
    kernels) guest_kernels "$@" ;;
    '' | all)
        for name in "$@"; do
            rm -f "$CARGO_TARGET_DIR/$target/debug/deps/$name"-*
            cargo test --quiet --no-run --target $target --package rsalloc-core --test "$name"
            cp "$(find "$CARGO_TARGET_DIR/$target/debug/deps" -name "$name-*" -type f -perm -1)" "$cross/test-$name"
            programs+=("$cross/test-$name")
        done
        for cell in "6.1 2 bookworm" "6.12 1 trixie" "6.12 2 bookworm" "6.12 8 trixie" "6.12-16k 2 trixie" \
            "7 1 sid" "7 2 bookworm" "7 4 trixie" "7 8 sid" "7-16k 2 sid"; do
            may_fail boot_with $cell
        done
        return $failed
        ;;
    *) echo "no machines are called $which: quick, machine, mm_cid, kernels or all" >&2 && exit 2 ;;
    esac
}

# boot_with KERNEL CPUS SUITE: boot with what a kernel of this name has to run, in guest's variables.
boot_with() {
    [ $# = 3 ] || { echo "usage: xtask/cross.sh guest machine KERNEL CPUS SUITE" >&2 && exit 2; }
    case $1 in
    *-unsound)
        believe "$library" "$cross/believed.so"
        boot "$@" "$library" "$cross/believed.so" "$cross/sweep"
        ;;
    6.*) boot "$@" "${programs[@]}" ;;
    *) boot "$@" "${programs[@]}" "$cross/untried.so" ;;
    esac
}

# The machines whose kernels are built, with guest's variables.
guest_kernels() {
    local kernels=" ${*:-6.12-64k 7-64k 7-unsound} " kernel
    for kernel in $kernels; do
        case $kernel in 6.12-64k | 7-64k | 7-unsound) ;; *) echo "no kernel $kernel; there are 6.12-64k, 7-64k and 7-unsound" >&2 && exit 2 ;; esac
    done
    for cell in "6.12-64k 2 trixie" "7-64k 2 trixie" "7-64k 2 sid" "7-unsound 2 sid" "7-unsound 2 bookworm"; do
        case $kernels in *" ${cell%% *} "*) ;; *) continue ;; esac
        may_fail boot_with $cell
    done
    return $failed
}

# clippy [PACKAGE..]: what no other gate has it read, the folders of the architecture. Debian's clippy-driver where its rustc is taken.
clippy() {
    local packages
    packages=$(printf -- '--package %s ' ${*:-rsalloc-core rsalloc-preload rsalloc-cli})
    toolchain aarch64
    if [ -z "${RUSTC-}" ]; then
        cargo clippy --quiet --target aarch64-unknown-linux-gnu $packages -- -D warnings
    else
        # As cargo clippy runs it: of these packages only, with its arguments in one word.
        RUSTC_WORKSPACE_WRAPPER=$cross/clippy-driver CLIPPY_ARGS=-Dwarnings__CLIPPY_HACKERY__ CARGO_TARGET_DIR=$CARGO_TARGET_DIR/clippy \
            cargo check --quiet --target aarch64-unknown-linux-gnu $packages
    fi
}

# One after the other: a command that fails ends the script.
gate() {
    golden
    # The command has 150 dependencies, which take minutes.
    clippy rsalloc-core rsalloc-preload
    guest quick
}

windows() {
    local target=x86_64-pc-windows-gnu std=()
    needs x86_64-w64-mingw32-gcc gcc-mingw-w64-x86-64-win32
    has_std $target || { debian_rust; export RUSTC_BOOTSTRAP=1; std=(-Zbuild-std=std,panic_abort); }
    mkdir -p "$cross/program/src"
    printf '[package]\nname = "program"\nedition = "2024"\n[workspace]\n[profile.dev]\npanic = "abort"\n[dependencies]\nrsalloc = { path = "%s" }\n' \
        "$PWD/alloc-global" >"$cross/program/Cargo.toml"
    cp Cargo.lock "$cross/program"
    cat >"$cross/program/src/main.rs" <<'R'
#[global_allocator]
static GLOBAL: rsalloc::RsAlloc = rsalloc::RsAlloc;

fn main() {
    println!("{}", (0..1000).map(|n| n.to_string()).collect::<String>().len());
}
R
    cargo build --manifest-path "$cross/program/Cargo.toml" --target $target "${std[@]}"
    # Without its feature, one line that says so.
    sed -i 's/ }$/, default-features = false }/' "$cross/program/Cargo.toml"
    if cargo check --manifest-path "$cross/program/Cargo.toml" --target $target "${std[@]}" 2>"$cross/refused"; then
        echo "a build without system-elsewhere should have been refused" >&2
        exit 1
    fi
    grep -m1 "rsalloc needs 64-bit Linux" "$cross/refused"
}

case ${1-} in
gate | windows) "$1" ;;
aarch64 | riscv64 | s390x | ppc64le) user "$1" ;;
compiler) debian_rust ;;
clippy | guest | golden | suite) "$@" ;;
*) echo "usage: xtask/cross.sh aarch64 | riscv64 | s390x | ppc64le | clippy [PACKAGE..] | gate | guest [quick | mm_cid | kernels [KERNEL..] | all [TEST..]] | suite [KERNEL [SUITE [PART..]]] | golden [write] | windows | compiler" >&2 && exit 2 ;;
esac
