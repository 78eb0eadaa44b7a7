#!/usr/bin/env bash
# Builds and tries rsalloc for musl on x86-64: `xtask/musl.sh rust`, `tests` or `preload`.
#
# rust: a Rust program on RsAlloc as it is linked by default (static-pie), static and dynamic: threads, destructors of threads, forks,
#   and what `check` and `verbose:1` say of it.
# tests: the tests of rsalloc-core and rsalloc, static-pie; `tests dynamic` dynamically linked.
# preload: librsalloc.so for musl: what it exports, and preloaded into a C program (xtask/guest/libc.c) in each mode.
# programs: the same in a root with nothing but musl: busybox and lua, built by musl-gcc from Debian's sources, must say what they say
#   without it. As root, for chroot.
#
# Needs std for the target (`rustup target add x86_64-unknown-linux-musl`) and musl-gcc (Debian: musl-tools).
set -euo pipefail
cd "$(dirname "$0")/.."
triple=x86_64-unknown-linux-musl
musl=${CARGO_TARGET_DIR:-$PWD/target}/musl
mkdir -p "$musl/lib"
. xtask/debian.sh

# What is skipped inside of the tests says so itself; these are left out here, by name.
left_out() {
    cat <<'LEFT_OUT'
SKIPPED: a_service_that_is_profiled_now_and_then_leaves_nothing_behind (a static build has no plugin among its examples)
SKIPPED: unload (a static program loads no plugin)
LEFT_OUT
}

# form static-pie | static | dynamic: what cargo is to build from now on, in a folder of its own.
form() {
    local flags
    case $1 in
    static-pie) flags="-C target-feature=+crt-static" ;;
    static) flags="-C target-feature=+crt-static -C relocation-model=static" ;;
    dynamic)
        # The unwinder of rustc's own musl: Debian has no libgcc_s for it.
        echo "INPUT($(rustc --print sysroot)/lib/rustlib/$triple/lib/self-contained/libunwind.a)" >"$musl/lib/libgcc_s.so"
        flags="-C target-feature=-crt-static -C linker=musl-gcc -L native=$musl/lib"
        ;;
    esac
    export CARGO_TARGET_DIR=$musl/$1 CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS=$flags
}

rust() {
    local name program kind
    mkdir -p "$musl/program/src"
    cat >"$musl/program/Cargo.toml" <<T
[package]
name = "program"
edition = "2024"
[workspace]
[dependencies]
rsalloc = { path = "$PWD/alloc-global" }
libc = "0.2"
T
    cp Cargo.lock "$musl/program"
    cp xtask/guest/rust_front.rs "$musl/program/src/main.rs"
    for name in static-pie static dynamic; do
        form $name
        cargo build --quiet --manifest-path "$musl/program/Cargo.toml" --target $triple
        program=$CARGO_TARGET_DIR/$triple/debug/program
        kind=$(readelf -hl "$program" | awk '/Type: +(EXEC|DYN)/ { type = $2 } /interpreter:/ { linker = " by " $NF } END { sub(/]$/, "", linker); print type linker }')
        case $name:$kind in
        static-pie:DYN | static:EXEC | dynamic:*ld-musl*) ;;
        *) echo "FAILED: the $name program is $kind" >&2 && exit 1 ;;
        esac
        says "per-CPU on our own rseq registration" env RSALLOC_CONF=verbose:1 "$program" own
        says "atomic path (configured)" env RSALLOC_CONF=verbose:1,mode:atomic "$program" atomic
        says "per-CPU on our own rseq registration, hardened" env RSALLOC_CONF=verbose:1,hardened:1 "$program" own
        # The control: the program sees that it is not in the mode that it was told.
        if RSALLOC_CONF=mode:atomic "$program" own >"$musl/control" 2>&1 || ! grep -q "and not" "$musl/control"; then
            echo "FAILED: the program does not see its mode" >&2 && exit 1
        fi
        echo "$name ($kind): threads, destructors and forks, per CPU on our own registration, atomic, hardened"
    done
}

tests() {
    local left_out=() failed=0
    form "${1:-static-pie}"
    if [ "${1:-static-pie}" = dynamic ]; then
        # Two tests start these.
        cargo build --target $triple --package rsalloc --examples
    else
        left_out
        left_out=(--skip a_service_that_is_profiled_now_and_then_leaves_nothing_behind --skip a_closed_plugin_stays)
    fi
    may_fail cargo test --target $triple --package rsalloc-core --lib --tests --no-fail-fast
    may_fail cargo test --target $triple --package rsalloc --lib --tests --no-fail-fast -- "${left_out[@]}"
    return $failed
}

library() {
    form dynamic
    cargo build --quiet --release --target $triple --package rsalloc-preload
    echo "$CARGO_TARGET_DIR/$triple/release/librsalloc_preload.so"
}

preload() {
    local library mode
    library=$(library)
    says 'Shared library: \[libc.so\]' readelf -d "$library"
    # The same names as the library for glibc; musl knows no versions of symbols.
    diff <(sed -n 's/ RSALLOC.*//; s/^sections //; /^[A-Za-z_]/p' alloc-preload/exports.txt | sort) \
        <(nm -D --defined-only "$library" | awk '{ print $3 }' | sort) || { echo "FAILED: the exports differ" >&2; exit 1; }
    musl-gcc -O1 -Wall -Wextra -Werror -pthread -o "$musl/musl-c" xtask/guest/libc.c
    for mode in verbose:1 mode:atomic hardened:1 guard:4 index:mm_cid profile:on; do
        # Stacks of 4 KiB: musl gives a thread 128 KiB, and less if it asks.
        says "the heap is sound" env LD_PRELOAD="$library" RSALLOC_CONF=$mode "$musl/musl-c" 4096
        echo "librsalloc.so with $mode: libc's memory, small stacks, last destructors, forks"
    done
    says "per-CPU on our own rseq registration" env LD_PRELOAD="$library" RSALLOC_CONF=verbose:1 "$musl/musl-c"
    # The command is for glibc; it finds the library for musl among what cargo has built, or takes the one that it is given.
    CARGO_TARGET_DIR='' cargo build --quiet --package rsalloc-cli --target-dir "$musl/command"
    says "is loaded into\|per-CPU on our own rseq registration" "$musl/command/debug/rsalloc" run --lib "$library" --conf verbose:1 "$musl/musl-c"
    misses_library "$musl/musl-c"
}

# Debian's sources of busybox and lua, built by musl-gcc: nothing is installed.
build_programs() {
    local headers=$musl/headers apt=$musl/apt name
    mkdir -p "$headers" "$musl/source"
    ln -sfn /usr/include/linux "$headers/linux"
    ln -sfn /usr/include/x86_64-linux-gnu/asm "$headers/asm"
    ln -sfn /usr/include/asm-generic "$headers/asm-generic"
    ln -sfn /usr/include/mtd "$headers/mtd"
    apt_state "$apt" deb-src bookworm
    for name in busybox lua5.4; do
        [ -e "$musl/source/$name" ] || (cd "$musl/source" && apt-get -qq -c "$apt/apt.conf" source --download-only $name \
            && mkdir $name.new && tar xf ${name}_*.orig.tar.* -C $name.new --strip-components=1 && mv $name.new $name)
    done
    cd "$musl/source/lua5.4/src"
    [ -x lua ] || make lua CC=musl-gcc MYCFLAGS="-DLUA_USE_POSIX" MYLIBS="-Wl,-E" >"$musl/lua.log" 2>&1
    cd "$musl/source/busybox"
    if [ ! -x busybox ]; then
        make defconfig >"$musl/busybox.log" 2>&1 </dev/null
        # What wants headers that musl does not have.
        sed -i -E 's/^(CONFIG_(TC|FEATURE_UTMP|FEATURE_WTMP))=y/# \1 is not set/' .config
        make -j2 CC="musl-gcc -idirafter $headers" HOSTCC=gcc busybox >>"$musl/busybox.log" 2>&1 </dev/null
    fi
    cd - >/dev/null
}

programs() {
    local library root=$musl/root plain preloaded
    needs make make
    library=$(library)
    (build_programs)
    rm -rf "$root"
    mkdir -p "$root"/{bin,lib,tmp,dev}
    mknod "$root/dev/null" c 1 3
    cp /usr/lib/x86_64-linux-musl/libc.so "$root/lib/ld-musl-x86_64.so.1"
    cp "$library" "$root/lib/librsalloc.so.0"
    cp "$musl/source/busybox/busybox" "$musl/source/lua5.4/src/lua" "$root/bin"
    ln -s ld-musl-x86_64.so.1 "$root/lib/libc.so"
    for name in $("$musl/source/busybox/busybox" --list); do ln -sf busybox "$root/bin/$name"; done
    cp xtask/guest/busybox.sh xtask/guest/objects.lua "$root/tmp"
    plain=$(chroot "$root" /bin/sh /tmp/busybox.sh)
    preloaded=$(chroot "$root" /bin/env LD_PRELOAD=/lib/librsalloc.so.0 /bin/sh /tmp/busybox.sh)
    [ "$(wc -l <<<"$plain")" -ge 20 ] || { echo "FAILED: the programs say too little: $plain" >&2; exit 1; }
    diff <(echo "$plain") <(echo "$preloaded") || { echo "FAILED: the programs say something else on rsalloc" >&2; exit 1; }
    # That it is there at all, in busybox and in lua.
    says "per-CPU on our own rseq registration" chroot "$root" /bin/env LD_PRELOAD=/lib/librsalloc.so.0 RSALLOC_CONF=verbose:1 /bin/busybox true
    says "per-CPU on our own rseq registration" chroot "$root" /bin/env LD_PRELOAD=/lib/librsalloc.so.0 RSALLOC_CONF=verbose:1 /bin/lua -v
    echo "busybox and lua in a root of musl: $(wc -l <<<"$plain") lines, the same with librsalloc.so"
}

has_std() { [ -d "$(rustc --print sysroot)/lib/rustlib/$triple/lib" ]; }
has_std || { echo "no std for musl; run: rustup target add $triple" >&2; exit 1; }
needs musl-gcc musl-tools

case ${1-} in
rust | tests | preload | programs) "$@" ;;
*) echo "usage: xtask/musl.sh rust | tests [dynamic] | preload | programs" >&2 && exit 2 ;;
esac
