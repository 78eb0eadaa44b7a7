# Another architecture in qemu-user, which has no rseq: `xtask/cross.sh ARCH`, which reads this file; and the compilers for it.

# architecture NAME: sets `debian`, `triple`, `target` and `emulator`.
architecture() {
    case $1 in
    aarch64) debian=arm64 triple=aarch64-linux-gnu target=aarch64-unknown-linux-gnu ;;
    riscv64) debian=riscv64 triple=riscv64-linux-gnu target=riscv64gc-unknown-linux-gnu ;;
    s390x) debian=s390x triple=s390x-linux-gnu target=s390x-unknown-linux-gnu ;;
    ppc64le) debian=ppc64el triple=powerpc64le-linux-gnu target=powerpc64le-unknown-linux-gnu ;;
    esac
    emulator="qemu-$1-static -L /usr/$triple"
}

# Debian sid's rustc, run by its own dynamic linker, with its std for arm64.
debian_rust() {
    local root=$cross/root library
    if [ ! -x "$cross/rustc" ]; then
        debian_apt
        # The compiler's version is in its name.
        library=$(apt-cache -c "$cross/apt/apt.conf" depends libstd-rust-dev | sed -n 's/.*Depends: \(libstd-rust-[0-9.]*\)$/\1/p')
        unpack "$root" rustc rust-clippy $(with_dependencies "$library") libstd-rust-dev \
            libstd-rust-dev:arm64/sid rust-src
        for name in rustc clippy-driver; do
            printf '#!/bin/sh\nexec %s --library-path %s %s "$@" --sysroot %s\n' \
                "$root/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" "$root/usr/lib/x86_64-linux-gnu" \
                "$root/usr/bin/$name" "$root/usr" >"$cross/$name"
            chmod +x "$cross/$name"
        done
    fi
    export RUSTC=$cross/rustc
}

has_std() { [ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ]; }

# toolchain NAME: gcc and Rust for an architecture.
toolchain() {
    local debian triple target emulator variable
    architecture "$1"
    needs $triple-gcc gcc-${triple/x86_64/x86-64} libc6-dev-$debian-cross
    if ! has_std $target; then
        debian_rust
        if [ ! -e "$cross/root/usr/lib/rustlib/$target" ]; then
            apt_state "$cross/apt-$debian" deb $debian:sid
            unpack_debs "$cross/apt-$debian" "$cross/std-$debian" libstd-rust-dev:$debian
            ln -s "$cross/std-$debian/usr/lib/rustlib/$target" "$cross/root/usr/lib/rustlib/$target"
        fi
    fi
    variable=${target^^}
    export "CARGO_TARGET_${variable//-/_}_LINKER=$triple-gcc"
}

# user NAME: the tests of the engine and of the Rust front, the command's own, and librsalloc.so in a C program.
user() {
    local arch=$1 debian triple target emulator variable tests=() name failed=0
    architecture "$arch"
    needs qemu-$arch-static qemu-user-static
    toolchain "$arch"
    variable=${target^^}
    export "CARGO_TARGET_${variable//-/_}_RUNNER=$emulator" RSALLOC_TEST_RUNNER=$emulator
    export QEMU_LD_PREFIX=/usr/$triple CARGO_PROFILE_DEV_DEBUG=0
    # One test at a time: a fork beside a thread that creates threads leaves a lock of qemu-user's locked in the child (7.2), whose next
    # thread waits for it for ever.
    export RUST_TEST_THREADS=1
    # What qemu-user does not emulate is left out by name; `emptied`, `oom` and `promises` need features.
    cat <<'LEFT_OUT'
SKIPPED: children (clone(CLONE_VM) copies the memory in qemu-user)
SKIPPED: damaged, free_pages_at_the_end_are_not_mapped_again (qemu-user does not keep limits of address space)
SKIPPED: a_request_at_the_most_segments_maps_nothing (qemu-user keeps a table of its pages: 12 GiB)
SKIPPED: a_limit_that_is_set_while_a_thread_reads_the_bounds_stays (qemu-user's own memory counts against the limit)
SKIPPED: decay (its steps are timed, and translated code is too slow for them: it passes now and then)
SKIPPED: sanitizers, unload of rsalloc (they build programs by this machine's cc)
SKIPPED: old_mmap (qemu-user has no seccomp)
SKIPPED: only_objects_that_grew_large_get_huge_pages, sparse (qemu-user's smaps has no flags)
LEFT_OUT
    for name in alloc-core/tests/*.rs; do
        name=$(basename "$name" .rs)
        case $name in
        children | damaged | decay | emptied | old_mmap | oom | promises | sparse | stress) ;;
        *) tests+=(--test "$name") ;;
        esac
    done
    # Where there are sections, tests of them are for guests.
    cargo test --target $target --package rsalloc-core --lib --no-fail-fast || failed=1
    cargo test --target $target --package rsalloc-core --features portable --no-fail-fast "${tests[@]}" -- \
        --skip a_limit_that_is_set_while_a_thread_reads_the_bounds_stays --skip a_request_at_the_most_segments_maps_nothing \
        --skip free_pages_at_the_end_are_not_mapped_again --skip only_objects_that_grew_large_get_huge_pages || failed=1
    # A translated handler can last as long as the period of its timer, 300 us: on a busy machine the threads do nothing else then.
    cargo test --target $target --package rsalloc-core --features portable --test stress -- period_us=3000 || failed=1
    cargo test --target $target --package rsalloc --features portable --no-fail-fast \
        --test declared --test fork_handlers --test front --test misuse || failed=1
    # Its 150 dependencies take minutes, its tests a second.
    CARGO_PROFILE_DEV_OPT_LEVEL=0 cargo test --target $target --package rsalloc-cli --bins --no-fail-fast || failed=1
    may_fail user_preload
    return $failed
}

# librsalloc.so in a C program, with the variables of `user`.
user_preload() {
    local library=$CARGO_TARGET_DIR/$target/release/librsalloc_preload.so program=$cross/libc-$arch name
    cargo build --target $target --package rsalloc-preload --release
    $triple-gcc -O1 -pthread -o "$program" xtask/guest/libc.c -ldl
    for name in verbose:1 hardened:1 guard:4; do
        says "the heap is sound" past_qemu_lock $emulator -E RSALLOC_CONF=$name -E LD_PRELOAD="$library" "$program"
    done
    misses_library $emulator "$program"
    echo "librsalloc.so on $arch: a C program in three modes, the heap is sound"
}

# past_qemu_lock COMMAND..: runs it again, nine times at most, if a child of it waits for a lock of qemu-user's own, which the fork left locked (see
# above). Such a lock lies where the host maps the emulator, far above the program's memory.
past_qemu_lock() {
    local try pid child number address rest
    for try in $(seq 10); do
        "$@" &
        pid=$!
        SECONDS=0
        while kill -0 $pid 2>/dev/null && [ $SECONDS -lt 60 ]; do sleep 1; done
        kill -0 $pid 2>/dev/null || { wait $pid; return; }
        child=$(pgrep -n -P $pid || echo $pid)
        read -r number address rest <"/proc/$child/syscall"
        pkill -9 -P $pid || true
        kill -9 $pid
        wait $pid || true
        # futex(2).
        [ "$number" = 202 ] && ((address > 0x7f0000000000)) || { echo "hangs, child $child at: $number $address $rest"; return 1; }
        echo "NOTE: a forked child waits for a lock of qemu-user's own, at $address; attempt $((try + 1))"
    done
    echo "ten times a forked child waited for a lock of qemu-user's own"
    return 1
}
