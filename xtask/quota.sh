#!/usr/bin/env bash
# What the caches hold in a container with a quota of two CPUs on a machine with many: `xtask/quota.sh [CPUS]` boots a virtual machine of
# x86-64 with so many (64) and one with 2, and runs 64 threads (xtask/guest/quota.c) in a control group with `cpu.max` of two CPUs, with
# index:cpu_id, which does not obey the quota, and with index:auto, which does; then in a group with a cpuset of two CPUs, and without either, what
# is left when they are gone.
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
echo "+cpu +cpuset" >/sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/two /sys/fs/cgroup/pair
echo 0-1 >/sys/fs/cgroup/pair/cpuset.cpus
echo "200000 100000" >/sys/fs/cgroup/two/cpu.max
for run in cpu_id:two:0 auto:two:0 auto:pair:0 auto:.:32; do
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
    [ "$(grep -c '^EXIT 0' <<<"$said")" = 4 ] || { echo "FAILED: a machine of $cpus CPUs" >&2; tail -n 20 <<<"$said" >&2; exit 1; }
    before=$(cached_in 'index:cpu_id, group two')
    cached=$(cached_in 'index:auto, group two')
    in_cpuset=$(cached_in 'index:auto, group pair')
    local anonymous='s/^QUOTA %s.*anonymous \([0-9]*\) KiB.*/\1/p' rest
    rest=$(sed -n '/index:auto, group \./,$p' <<<"$said")
    start=$(sed -n "${anonymous/\%s/at start}" <<<"$rest")
    busy=$(sed -n "${anonymous/\%s/at work}" <<<"$rest")
    idle=$(sed -n "${anonymous/\%s/idle}" <<<"$rest")
}

# cached_in RUN: what the shards cached in it while the threads worked.
cached_in() { sed -n "/^RUN .*$1\$/,/^EXIT/s/^QUOTA at work.*shards cache \([0-9]*\) KiB.*/\1/p" <<<"$said"; }

boot 2
on_two=$cached
# There a quota or a cpuset of two CPUs is none: two runs of one kind, between which work and caches differ by half and more.
most_on_two=$((cached > in_cpuset ? cached : in_cpuset))
boot "${1:-64}"
echo "shards cache while the threads work: on 2 CPUs $on_two KiB; on ${1:-64} with the same quota $cached KiB, without looking at it $before KiB; with a cpuset of two CPUs $in_cpuset KiB"
# The quota is seen at all, which is the control, and the caches are those of its CPUs.
[ "$before" -gt $((2 * on_two)) ] || { echo "FAILED: index:cpu_id shows no difference to 2 CPUs" >&2; exit 1; }
[ "$cached" -le $((on_two + on_two / 4 + 512)) ] || { echo "FAILED: more than on 2 CPUs" >&2; exit 1; }
[ "$in_cpuset" -le $((2 * most_on_two)) ] && [ "$in_cpuset" -lt "$before" ] || { echo "FAILED: more in a cpuset than on 2 CPUs" >&2; exit 1; }
# 64 threads come and go: what is left is what the program has. That they had more is the control.
echo "anonymous memory without a quota: $start KiB at the start, $busy KiB at work, $idle KiB at rest"
[ "$busy" -gt $((start * 2)) ] || { echo "FAILED: the threads have too little" >&2; exit 1; }
[ "$idle" -le $((start + start / 10)) ] || { echo "FAILED: more than 1.1 of the start at rest" >&2; exit 1; }
