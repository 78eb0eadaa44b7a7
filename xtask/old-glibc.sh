#!/usr/bin/env bash
# Runs librsalloc.so.0 of `cargo xtask dist` on the oldest glibc that can be had, Debian 11's 2.31, and on the newest, sid's, each by its
# own dynamic linker: a C program (xtask/guest/libc.c) in each mode, and python3, which must say what it says without the library.
# The control: a library linked against the glibc of this machine is refused by the old one. (So this machine's must be newer.)
# `xtask/old-glibc.sh [LIBRARY]`.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
library=$(realpath "${1:-$target/dist/x86_64/root/usr/lib/x86_64-linux-gnu/librsalloc.so.0}")
cc=$target/dist-tools/cc-x86_64
work=$target/old-glibc
mkdir -p "$work"
. xtask/debian.sh
needs gcc gcc
[ -e "$library" ] && [ -x "$cc" ] || { echo "no $library or no $cc; run: cargo xtask dist" >&2; exit 1; }

# on ROOT SETTINGS PRELOADED COMMAND..: a program, by the dynamic linker of ROOT.
on() {
    local root=$1 settings=$2 preloaded=$3
    shift 3
    env LD_PRELOAD="$preloaded" RSALLOC_CONF="$settings" PYTHONHOME="$root/usr" "$(find "$root" -name ld-linux-x86-64.so.2 | head -n 1)" \
        --library-path "$root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu" "$@"
}

python_work='
import hashlib, re, threading
def work(seed, sums):
    text = " ".join(repr({n: [n * seed, "x" * (n % 300)]}) for n in range(20000))
    sums[seed] = hashlib.sha256(text.encode()).hexdigest() + str(len(re.findall("x+", text)))
sums = {}
threads = [threading.Thread(target=work, args=(n, sums)) for n in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sorted(sums.items()))'

# run_on SUITE MODE PYTHON PACKAGE..: MODE is what the library must say of itself there.
run_on() {
    local suite=$1 wanted=$2 python=$3 root=$work/$1 mode version plain
    shift 3
    apt_state "$work/apt-$suite" deb "$suite"
    unpack_debs "$work/apt-$suite" "$root" libc6 libgcc-s1 "$python-minimal" "lib$python-minimal" "lib$python-stdlib" libexpat1 zlib1g "$@"
    version=$(find "$root" -name libc.so.6 -exec strings {} + | sed -n 's/^GNU C Library.*version \([0-9.]*\)\.$/\1/p')
    says "$wanted" on "$root" verbose:1 "$library" "$work/libc"
    for mode in verbose:1 mode:atomic hardened:1 guard:4 profile:on; do
        says "the heap is sound" on "$root" "$mode" "$library" "$work/libc"
    done
    plain=$(on "$root" "" "" "$root/usr/bin/$python" -c "$python_work")
    for mode in verbose:0 mode:atomic; do
        [ "$(on "$root" $mode "$library" "$root/usr/bin/$python" -c "$python_work")" = "$plain" ] \
            || { echo "FAILED: $python of $suite says something else on rsalloc" >&2; exit 1; }
    done
    says "$wanted" on "$root" verbose:1 "$library" "$root/usr/bin/$python" -c ''
    echo "glibc $version ($suite): the C program in five modes, $python; $wanted"
}

# The kernel's headers are those of this machine.
"$cc" -O1 -pthread -idirafter /usr/include -idirafter /usr/include/x86_64-linux-gnu -o "$work/libc" xtask/guest/libc.c -ldl
# The control's program is without libpthread and libdl, as many are: strong references to what they have are refused.
echo 'int main(void) { return 0; }' | "$cc" -x c -o "$work/nothing" -
run_on bullseye "per-CPU on our own rseq registration" python3.9 libcrypt1 libssl1.1
run_on sid "per-CPU on libc's rseq registration" python3.14 libssl3t64 libcrypt1 libzstd1
on "$work/bullseye" "" "$library" "$work/nothing"
CARGO_TARGET_DIR=$work/here cargo build --quiet --release --package rsalloc-preload
if said=$(on "$work/bullseye" "" "$work/here/release/librsalloc_preload.so" "$work/nothing" 2>&1) || ! grep -q 'version.*not found' <<<"$said"; then
    echo "FAILED: glibc 2.31 does not refuse a library that is linked against this machine's glibc: $said" >&2
    exit 1
fi
echo "the control is refused: $said"
