#!/usr/bin/env bash
# The share of objects that lie on the memory node on which they were allocated: `xtask/nodes.sh [quick|own]` boots virtual machines of
# x86-64 with two and with four nodes and runs xtask/guest/nodes.c in them. `quick`: rsalloc alone, on two nodes. Without a word: rsalloc
# and the other allocators, on two and on four nodes. Red below the goals, or where the control reaches them. `own`: without the others.
#
# Debian packages: qemu-system-x86 cpio gcc. Fetches a kernel, busybox and the allocators, unpacked in the target folder.
set -euo pipefail
cd "$(dirname "$0")/.."
work=${CARGO_TARGET_DIR:-$PWD/target}/nodes
mkdir -p "$work"
. xtask/debian.sh
needs qemu-system-x86_64 qemu-system-x86
needs cpio cpio
needs gcc gcc
how=${1:-all}

cargo build --quiet --release --package rsalloc-preload
gcc -O2 -pthread -o "$work/nodes" xtask/guest/nodes.c
apt_state "$work/apt" deb bookworm trixie
unpack_debs "$work/apt" "$work/busybox" busybox-static
kernel=$(apt-cache -c "$work/apt/apt.conf" search --names-only '^linux-image-6\.12\..*[0-9]-cloud-amd64$' | sort -V | tail -n 1 | cut -d' ' -f1)
unpack_debs "$work/apt" "$work/linux" "$kernel"
peers=
if [ "$how" = all ]; then
    unpack_debs "$work/apt" "$work/peers" libjemalloc2/bookworm libtcmalloc-minimal4/bookworm libmimalloc2.0/bookworm
    peers="libjemalloc.so.2 libtcmalloc_minimal.so.4 libmimalloc.so.2"
fi

root=$work/initramfs
rm -rf "$root"
mkdir -p "$root"/{bin,lib,lib64}
cp "$(find "$work/busybox" -name busybox -type f -perm -1)" "$root/bin/busybox"
cp "${CARGO_TARGET_DIR:-target}/release/librsalloc_preload.so" "$root/lib/librsalloc.so.0"
cp "$work/nodes" "$root/bin"
for peer in $peers; do cp -L "$(find "$work/peers" -name "$peer" | head -n 1)" "$root/lib"; done
for file in "$work/nodes" "$root"/lib/*; do ldd "$file"; done | grep -o '/[^ ]*' | sort -u | while read -r file; do
    [ -e "$root/lib/${file##*/}" ] || cp -L "$file" "$root/lib"
done
cp -L /lib64/ld-linux-x86-64.so.2 "$root/lib64"
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin LD_LIBRARY_PATH=/lib
mkdir -p /proc /sys /dev
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
# Only the allocators are to place pages here.
echo 0 >/proc/sys/kernel/numa_balancing
for word in $(cat /proc/cmdline); do
    case $word in allocators=* | huge=*) export "${word?}" ;; esac
done
echo "$huge" >/sys/kernel/mm/transparent_hugepage/enabled
for allocator in $(echo "$allocators" | tr , ' '); do
    case $allocator in
    glibc) preload= settings= ;;
    rsalloc) preload=/lib/librsalloc.so.0 settings= ;;
    # The control: by this index it knows one node.
    rsalloc-off) preload=/lib/librsalloc.so.0 settings=index:mm_cid ;;
    *) preload=/lib/$allocator settings= ;;
    esac
    for load in churn shared pipe exchange migration; do
        said=$(LD_PRELOAD=$preload RSALLOC_CONF=$settings nodes $load 2>&1)
        echo "RAN $allocator $? $said"
    done
done
echo DONE
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initramfs.gz"

# boot NODES ALLOCATORS HUGE: a machine with two CPUs on each node; a line for each load.
boot() {
    local nodes=$1 allocators=$2 huge=$3 options=() said node each
    each=$((2048 / nodes))
    for node in $(seq 0 $((nodes - 1))); do
        options+=(-object "memory-backend-ram,size=${each}M,id=m$node" -numa "node,nodeid=$node,memdev=m$node,cpus=$((2 * node))-$((2 * node + 1))")
    done
    said=$(timeout 1800 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -machine q35 -smp $((2 * nodes)) -m 2048 "${options[@]}" \
        -kernel "$(find "$work/linux" -name 'vmlinuz*' -type f)" -initrd "$work/initramfs.gz" -nodefaults -nographic -no-reboot \
        -serial stdio -monitor none \
        -append "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=1 allocators=$allocators huge=$huge" </dev/null | tr -d '\r')
    grep -q ^DONE <<<"$said" || { echo "FAILED: a machine of $nodes nodes" >&2; tail -n 20 <<<"$said" >&2; exit 1; }
    sed -n "s/^.*RAN \([^ ]*\) 0 NODES \([a-z]*\) $nodes \([0-9.]*\) \([0-9]*\)\$/$nodes $huge \1 \2 \3 \4/p" <<<"$said" >"$work/said"
    [ "$(wc -l <"$work/said")" = "$(grep -c 'RAN ' <<<"$said")" ] || { echo "FAILED: $(grep 'RAN ' <<<"$said")" >&2; exit 1; }
    tee -a "$work/table" <"$work/said"
}

: >"$work/table"
echo "nodes huge-pages allocator load share objects"
case $how in
quick) boot 2 rsalloc,rsalloc-off always ;;
own | all)
    all=rsalloc,rsalloc-off
    [ "$how" = own ] || all=$all,glibc,$(tr ' ' , <<<"$peers")
    boot 2 "$all" always
    boot 4 "$all" always
    boot 4 rsalloc never
    ;;
*)
    echo "xtask/nodes.sh [quick|own]" >&2
    exit 1
    ;;
esac
# The goals; and the control, an engine that knows one node only, must miss those of loads that cross nodes.
awk '$3 == "rsalloc" && $5 < ($4 == "churn" ? 0.98 : 0.95) { print "FAILED: " $0; bad = 1 }
    $3 == "rsalloc-off" && $4 == "exchange" && $5 >= 0.95 { print "FAILED, the control is green: " $0; bad = 1 }
    $3 == "rsalloc" { seen++ }
    END { exit bad || !seen }' "$work/table" || exit 1
