#!/usr/bin/env bash
# What the caches hold in a container with a quota of two CPUs on a machine with many: `xtask/quota.sh [CPUS]` boots a virtual machine of
# x86-64 with so many (64) and one with 2, and runs 64 threads (xtask/guest/quota.c) in a control group with `cpu.max` of two CPUs, with
# index:cpu_id, which does not obey the quota, and with index:auto, which does; then without a quota, what is left when they are gone.
#
# Debian packages: qemu-system-x86 cpio gcc. Fetches a kernel and busybox, unpacked in the target folder.
set -euo pipefail
cd "$(dirname "$0")/.."
work=${CARGO_TARGET_DIR:-$PWD/target}/quota
mkdir -p "$work"
. xtask/debian.sh
. xtask/machine.sh
needs gcc gcc

gcc -O2 -pthread -Ialloc-preload/include -o "$work/quota" xtask/guest/quota.c -ldl
apt_state "$work/apt" deb bookworm
machine_root "$work" '6\.1' "$work/quota"
machine_init "$work" <<'INIT'
# Huge pages that the kernel makes of what was given back are not what the allocator holds.
echo never >/sys/kernel/mm/transparent_hugepage/enabled
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo +cpu >/sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/two
echo "200000 100000" >/sys/fs/cgroup/two/cpu.max
for run in cpu_id:two:0 auto:two:0 auto:.:32; do
    index=${run%%:*} live=${run##*:} group=${run#*:}
    group=${group%:*}
    echo "RUN $(nproc) CPUs, index:$index, group $group"
    (echo 0 >/sys/fs/cgroup/$group/cgroup.procs
    LD_PRELOAD=/lib/librsalloc.so.0 RSALLOC_CONF=verbose:1,index:$index quota 64 20 $live
    echo "EXIT $?")
done 2>&1
INIT

boot() {
    local cpus=$1 said
    said=$(machine_boot "$work" 900 "$cpus" 3072 "")
    grep -E '^(RUN|QUOTA|EXIT|rsalloc:)' <<<"$said" || true
    [ "$(grep -c '^EXIT 0' <<<"$said")" = 3 ] || { echo "FAILED: a machine of $cpus CPUs" >&2; tail -n 20 <<<"$said" >&2; exit 1; }
    cached=$(sed -n '/index:auto, group two/,/group \./s/^QUOTA at work.*shards cache \([0-9]*\) KiB.*/\1/p' <<<"$said")
    local anonymous='s/^QUOTA %s.*anonymous \([0-9]*\) KiB.*/\1/p' rest
    rest=$(sed -n '/index:auto, group \./,$p' <<<"$said")
    start=$(sed -n "${anonymous/\%s/at start}" <<<"$rest")
    busy=$(sed -n "${anonymous/\%s/at work}" <<<"$rest")
    idle=$(sed -n "${anonymous/\%s/idle}" <<<"$rest")
    before=$(sed -n '/index:cpu_id/,/index:auto/s/^QUOTA at work.*shards cache \([0-9]*\) KiB.*/\1/p' <<<"$said")
}

boot 2
on_two=$cached
boot "${1:-64}"
echo "shards cache while the threads work: on 2 CPUs $on_two KiB; on ${1:-64} with the same quota $cached KiB, without looking at it $before KiB"
# The quota is seen at all, which is the control, and the caches are those of its CPUs.
[ "$before" -gt $((2 * on_two)) ] || { echo "FAILED: index:cpu_id shows no difference to 2 CPUs" >&2; exit 1; }
[ "$cached" -le $((on_two + on_two / 4 + 512)) ] || { echo "FAILED: more than on 2 CPUs" >&2; exit 1; }
# 64 threads come and go: what is left is what the program has. That they had more is the control.
echo "anonymous memory without a quota: $start KiB at the start, $busy KiB at work, $idle KiB at rest"
[ "$busy" -gt $((start * 2)) ] || { echo "FAILED: the threads have too little" >&2; exit 1; }
[ "$idle" -le $((start + start / 10)) ] || { echo "FAILED: more than 1.1 of the start at rest" >&2; exit 1; }
