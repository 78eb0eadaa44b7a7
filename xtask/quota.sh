#!/usr/bin/env bash
# What the caches hold in a container with a quota of two CPUs on a machine with many: `xtask/quota.sh [CPUS]` boots a virtual machine of
# x86-64 with so many (64) and one with 2, and runs 64 threads (xtask/guest/quota.c) in a control group with `cpu.max` of two CPUs, with
# index:cpu_id, which does not obey the quota, and with index:auto, which does.
#
# Debian packages: qemu-system-x86 cpio gcc. Fetches a kernel and busybox, unpacked in the target folder.
set -euo pipefail
cd "$(dirname "$0")/.."
work=${CARGO_TARGET_DIR:-$PWD/target}/quota
mkdir -p "$work"
. xtask/debian.sh
needs qemu-system-x86_64 qemu-system-x86
needs cpio cpio
needs gcc gcc

cargo build --quiet --release --package rsalloc-preload
library=${CARGO_TARGET_DIR:-target}/release/librsalloc_preload.so
gcc -O2 -pthread -Ialloc-preload/include -o "$work/quota" xtask/guest/quota.c -ldl
apt_state "$work/apt" deb bookworm
unpack_debs "$work/apt" "$work/busybox" busybox-static
kernel=$(apt-cache -c "$work/apt/apt.conf" search --names-only '^linux-image-6\.1\..*[0-9]-cloud-amd64$' | sort -V | tail -n 1 | cut -d' ' -f1)
unpack_debs "$work/apt" "$work/linux" "$kernel"

root=$work/initramfs
rm -rf "$root"
mkdir -p "$root"/{bin,lib,lib64}
cp "$(find "$work/busybox" -name busybox -type f -perm -1)" "$root/bin/busybox"
cp "$library" "$root/lib/librsalloc.so.0"
cp "$work/quota" "$root/bin"
ldd "$work/quota" | grep -o '/[^ ]*' | while read -r file; do cp -L "$file" "$root/lib"; done
cp -L /lib64/ld-linux-x86-64.so.2 "$root/lib64"
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin LD_LIBRARY_PATH=/lib
mkdir -p /proc /sys /dev
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo +cpu >/sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/two
echo "200000 100000" >/sys/fs/cgroup/two/cpu.max
for index in cpu_id auto; do
    echo "RUN $(nproc) CPUs, index:$index"
    (echo 0 >/sys/fs/cgroup/two/cgroup.procs
    LD_PRELOAD=/lib/librsalloc.so.0 RSALLOC_CONF=verbose:1,index:$index quota 64 20
    echo "EXIT $?")
done 2>&1
echo DONE
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initramfs.gz"

boot() {
    local cpus=$1 said
    said=$(timeout 900 qemu-system-x86_64 -accel tcg,thread=$([ "$cpus" -gt 8 ] && echo single || echo multi) -cpu max -machine q35 -smp "$cpus" -m 3072 \
        -kernel "$(find "$work/linux" -name 'vmlinuz*' -type f)" -initrd "$work/initramfs.gz" -nodefaults -nographic -no-reboot \
        -serial stdio -monitor none -append "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=1" | tr -d '\r')
    grep -E '^(RUN|QUOTA|EXIT|rsalloc:)' <<<"$said" || true
    grep -q ^DONE <<<"$said" && [ "$(grep -c '^EXIT 0' <<<"$said")" = 2 ] \
        || { echo "FAILED: a machine of $cpus CPUs" >&2; tail -n 20 <<<"$said" >&2; exit 1; }
    cached=$(sed -n '/index:auto/,$s/^QUOTA at work.*shards cache \([0-9]*\) KiB.*/\1/p' <<<"$said")
    before=$(sed -n '/index:cpu_id/,/index:auto/s/^QUOTA at work.*shards cache \([0-9]*\) KiB.*/\1/p' <<<"$said")
}

boot 2
on_two=$cached
boot "${1:-64}"
echo "shards cache while the threads work: on 2 CPUs $on_two KiB; on ${1:-64} with the same quota $cached KiB, without looking at it $before KiB"
# The quota is seen at all, which is the control, and the caches are those of its CPUs.
[ "$before" -gt $((2 * on_two)) ] || { echo "FAILED: index:cpu_id shows no difference to 2 CPUs" >&2; exit 1; }
[ "$cached" -le $((on_two + on_two / 4 + 512)) ] || { echo "FAILED: more than on 2 CPUs" >&2; exit 1; }
