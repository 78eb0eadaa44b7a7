#!/usr/bin/env bash
# Builds and tries rsalloc for a machine that this one is not: `xtask/cross.sh aarch64` or `xtask/cross.sh windows`.
#
# aarch64: the engine's tests and librsalloc.so (the atomic path), in qemu-user.
# windows: a program with RsAlloc as its global allocator is compiled and linked (RsAlloc is std's System there).
# compiler: fetches Debian sid's compiler only (below), for `cargo xtask dist --arch aarch64`.
#
# Debian packages (as root): gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static; gcc-mingw-w64-x86-64-win32.
# Where the toolchain in use has no std for the target (`rustup target add`), Debian sid's compiler is taken, with its
# std for arm64 and with std's sources for Windows: 190 MB, unpacked in target/cross, no root needed.
set -euo pipefail
cd "$(dirname "$0")/.."
cross=$PWD/target/cross
mkdir -p "$cross"
export CARGO_TARGET_DIR=$cross/build

# Debian sid's rustc and the packages named, run by their own dynamic linker.
debian_rust() {
    local root=$cross/root
    if [ ! -x "$cross/rustc" ]; then
        mkdir -p "$cross"/apt/{state/lists/partial,cache/archives/partial} "$cross/debs"
        : >"$cross/apt/status"
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main" \
            >"$cross/apt/sources.list"
        printf '%s "%s";\n' Dir "$cross/apt" Dir::State "$cross/apt/state" Dir::State::status "$cross/apt/status" \
            Dir::Cache "$cross/apt/cache" Dir::Etc::sourcelist "$cross/apt/sources.list" Dir::Etc::sourceparts - \
            Acquire::Check-Valid-Until false >"$cross/apt.conf"
        echo 'APT::Architectures {"amd64"; "arm64";};' >>"$cross/apt.conf"
        apt-get -qq -c "$cross/apt.conf" update
        (cd "$cross/debs" && apt-get -qq -c "$cross/apt.conf" download \
            rustc libstd-rust-1.97 libstd-rust-dev libstd-rust-dev:arm64 rust-src libllvm22 libc6 libgcc-s1 libstdc++6 \
            zlib1g libzstd1 libtinfo6 libedit2 libffi8 libxml2-16 libz3-4 libbsd0 libmd0)
        for package in "$cross"/debs/*.deb; do dpkg -x "$package" "$root"; done
        rm -r "$cross/debs"
        printf '#!/bin/sh\nexec %s --library-path %s %s --sysroot %s "$@"\n' \
            "$root/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" "$root/usr/lib/x86_64-linux-gnu" \
            "$root/usr/bin/rustc" "$root/usr" >"$cross/rustc"
        chmod +x "$cross/rustc"
    fi
    export RUSTC=$cross/rustc
}

has_std() { [ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ]; }

needs() {
    command -v "$1" >/dev/null || { echo "no $1; run as root: apt-get install $2" >&2; exit 1; }
}

aarch64() {
    local target=aarch64-unknown-linux-gnu emulator="qemu-aarch64-static -L /usr/aarch64-linux-gnu"
    needs aarch64-linux-gnu-gcc "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
    needs qemu-aarch64-static qemu-user-static
    has_std $target || debian_rust
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$emulator RSALLOC_TEST_RUNNER=$emulator
    # What qemu-user does not emulate is left out by name. `oom` and `promises` need the feature `faults`.
    cat <<'LEFT_OUT'
SKIPPED: children (clone(CLONE_VM) copies the memory in qemu-user)
SKIPPED: damaged, free_pages_at_the_end_are_not_mapped_again (qemu-user does not keep limits of address space)
SKIPPED: old_mmap (qemu-user has no seccomp)
SKIPPED: only_objects_that_grew_large_get_huge_pages, sparse (qemu-user's smaps has no flags)
LEFT_OUT
    local tests=() name
    for name in alloc-core/tests/*.rs; do
        name=$(basename "$name" .rs)
        case $name in
        children | damaged | old_mmap | oom | promises | sparse) ;;
        *) tests+=(--test "$name") ;;
        esac
    done
    cargo test --target $target --package rsalloc-core --no-fail-fast --lib "${tests[@]}" -- \
        --skip free_pages_at_the_end_are_not_mapped_again --skip only_objects_that_grew_large_get_huge_pages
    cargo build --target $target --package rsalloc-preload --release
    local library=$CARGO_TARGET_DIR/$target/release/librsalloc_preload.so
    aarch64-linux-gnu-gcc -O1 -pthread -o "$cross/threads" -x c - <<'C'
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
static void *run(void *from) {
    void *objects[1000];
    for (int round = 0; round < 100; round++) {
        for (int i = 0; i < 1000; i++) *(void **)(objects[i] = malloc(8 + i * 7)) = from;
        for (int i = 0; i < 1000; i++) { if (*(void **)objects[i] != from) abort(); free(objects[i]); }
    }
    return from;
}
int main(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, run, &threads[i]);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
    int (*check)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "rsalloc_check");
    if (!check || check()) return 1;
    puts("librsalloc.so: 4 threads, the heap is sound");
    return 0;
}
C
    $emulator -E RSALLOC_CONF=verbose:1 -E LD_PRELOAD="$library" "$cross/threads"
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
aarch64 | windows) "$1" ;;
compiler) debian_rust ;;
*) echo "usage: xtask/cross.sh aarch64|windows|compiler" >&2 && exit 2 ;;
esac
