#!/usr/bin/env bash
# The share of objects that lie on the memory node on which they were allocated: `xtask/nodes.sh [quick|odd|own]` boots virtual machines of
# x86-64 with two and with four nodes and runs xtask/guest/nodes.c in them. `quick`: rsalloc alone, on two nodes. `odd`: bound processes,
# a node without memory, and one that gets memory while programs run. Without a word: rsalloc and the other allocators, on two and on four nodes. `own`: without the others. Red
# below the goals, or where the control reaches them.
#
# Debian packages: qemu-system-x86 cpio gcc. Fetches a kernel, busybox and the allocators, unpacked in the target folder.
set -euo pipefail
cd "$(dirname "$0")/.."
work=${CARGO_TARGET_DIR:-$PWD/target}/nodes
mkdir -p "$work"
. xtask/debian.sh
. xtask/machine.sh
needs gcc gcc
how=${1:-all}

gcc -O2 -pthread -o "$work/nodes" xtask/guest/nodes.c
apt_state "$work/apt" deb bookworm trixie
peers=
if [ "$how" = all ]; then
    unpack_debs "$work/apt" "$work/peers" libjemalloc2/bookworm libtcmalloc-minimal4/bookworm libmimalloc2.0/bookworm
    peers="libjemalloc.so.2 libtcmalloc_minimal.so.4 libmimalloc.so.2"
fi

libraries=()
for peer in $peers; do libraries+=("$(find "$work/peers" -name "$peer" | head -n 1)"); done
machine_root "$work" '6\.12' "$work/nodes" "${libraries[@]}"
machine_init "$work" <<'INIT'
# Only the allocators are to place pages here.
echo 0 >/proc/sys/kernel/numa_balancing
for word in $(cat /proc/cmdline); do
    case $word in allocators=* | huge=* | added=*) export "${word?}" ;; esac
done
echo "$huge" >/sys/kernel/mm/transparent_hugepage/enabled
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo +cpuset >/sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/second
echo 1 >/sys/fs/cgroup/second/cpuset.mems
# A program that runs while the last node gets its memory: it only must end well, since its caches hold what it had before.
if [ -n "$added" ]; then
    LD_PRELOAD=/lib/librsalloc.so.0 nodes added >/tmp/added 2>&1 &
    sleep 10
    echo ADD
    wait $!
    echo "RAN rsalloc-before $? $(cat /tmp/added)"
fi
for allocator in $(echo "$allocators" | tr , ' '); do
    variables=X=
    echo 0 >/sys/fs/cgroup/cgroup.procs
    case $allocator in
    rsalloc-bind) preload=/lib/librsalloc.so.0 settings= variables="NODES_BIND=0 NODES_ONLY=0" ;;
    rsalloc-cpuset)
        preload=/lib/librsalloc.so.0 settings= variables=NODES_ONLY=1
        echo 0 >/sys/fs/cgroup/second/cgroup.procs
        ;;
    glibc) preload= settings= ;;
    rsalloc) preload=/lib/librsalloc.so.0 settings= ;;
    # The control: by this index it knows one node.
    rsalloc-off) preload=/lib/librsalloc.so.0 settings=index:mm_cid ;;
    *) preload=/lib/$allocator settings= ;;
    esac
    for load in churn shared pipe exchange migration; do
        said=$(env $variables LD_PRELOAD=$preload RSALLOC_CONF=$settings nodes $load 2>&1)
        echo "RAN $allocator $? $said"
    done
done
INIT

# boot NODES ALLOCATORS HUGE [WITHOUT [OPTION..]]: a machine with two CPUs on each node, and so many nodes more that have CPUs and no memory; a
# line for each load. With further options of QEMU it asks for memory at its start.
boot() {
    local nodes=$1 allocators=$2 huge=$3 without=${4-0} words= options=() said node each wanted
    shift $(($# < 4 ? $# : 4))
    options=("$@")
    # Five loads with each allocator, and the program that runs meanwhile.
    wanted=$((5 * $(tr , '\n' <<<"$allocators" | wc -l) + ($# > 0)))
    [ $# = 0 ] || words="added=1 memhp_default_state=online"
    each=$((2048 / nodes))
    for node in $(seq 0 $((nodes - 1))); do
        options+=(-object "memory-backend-ram,size=${each}M,id=m$node" -numa "node,nodeid=$node,memdev=m$node,cpus=$((2 * node))-$((2 * node + 1))")
    done
    for node in $(seq "$nodes" $((nodes + without - 1))); do
        options+=(-numa "node,nodeid=$node,cpus=$((2 * node))-$((2 * node + 1))")
    done
    nodes=$((nodes + without))
    said=$(machine_boot "$work" 1800 $((2 * nodes)) 2048 "allocators=$allocators huge=$huge $words" "${options[@]}")
    sed -n "s/^.*RAN \([^ ]*\) 0 NODES \([a-z]*\) $nodes \([0-9.]*\) \([0-9]*\)\$/$nodes $huge \1 \2 \3 \4/p" <<<"$said" >"$work/said"
    [ "$(wc -l <"$work/said")" = $wanted ] || { echo "FAILED, $wanted rows were due: $said" >&2; exit 1; }
    tee -a "$work/table" <"$work/said"
}

# A process that is bound to a node, one whose cpuset has the memory of one, a machine with a third node that has no memory, and one whose third
# node gets its memory while a program runs.
odd() {
    boot 2 rsalloc-bind,rsalloc-cpuset always
    boot 2 rsalloc always 1
    rm -f "$work"/monitor.* && mkfifo "$work"/monitor.{in,out}
    add_memory "$work/monitor" >/dev/null & adder=$!
    trap 'kill $adder 2>/dev/null || true' EXIT
    boot 2 rsalloc always 1 -m slots=1,maxmem=4G -chardev "pipe,id=monitor,path=$work/monitor" -mon chardev=monitor
}

# add_memory MONITOR: a GiB for the third node, when the machine asks for it. Ends with the script.
add_memory() {
    timeout 1800 cat "$1.out" >"$1.log" &
    until grep -q ^ADD "$work/console"; do
        kill -0 $$ 2>/dev/null || exit
        sleep 1
    done
    printf 'object_add memory-backend-ram,id=added,size=1G\ndevice_add pc-dimm,memdev=added,node=2\n' >"$1.in"
}

: >"$work/table"
echo "nodes huge-pages allocator load share objects"
case $how in
quick) boot 2 rsalloc,rsalloc-off always ;;
odd) odd ;;
own | all)
    all=rsalloc,rsalloc-off
    [ "$how" = own ] || all=$all,glibc,$(tr ' ' , <<<"$peers")
    boot 2 "$all" always
    odd
    boot 4 "$all" always
    boot 4 rsalloc never
    ;;
*)
    echo "xtask/nodes.sh [quick|odd|own]" >&2
    exit 1
    ;;
esac
# The goals; and the control, an engine that knows one node only, must miss those of loads that cross nodes.
awk -v how="$how" '$3 ~ /^rsalloc(-bind|-cpuset)?$/ && $5 < ($4 == "churn" ? 0.98 : 0.95) { print "FAILED: " $0; bad = 1 }
    $3 == "rsalloc-off" && $4 == "exchange" && $5 >= 0.95 { print "FAILED, the control is green: " $0; bad = 1 }
    $3 == "rsalloc-off" && $4 == "exchange" { controls++ }
    $3 != "rsalloc-off" { seen++ }
    END { exit bad || !seen || (how != "odd" && !controls) }' "$work/table" || exit 1
