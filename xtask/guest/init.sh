#!/bin/busybox sh
# The first process of a guest: runs rsalloc in each mode and says what the host looks for, lines with RAN, FAULT and DONE.
#
# Words of the kernel's command line: rounds=N for the hammer, aborts=N that the kernel must have made, or none if it does not abort sections;
# cid=1 if it has mm_cid.
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev /tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tracefs tracefs /sys/kernel/tracing
for word in $(cat /proc/cmdline); do
    case $word in rounds=* | aborts=* | cid=*) export "${word?}" ;; esac
done
trace=/sys/kernel/tracing
echo 1 >$trace/events/rseq/rseq_ip_fixup/enable || echo "FAULT the kernel does not count aborts"
fixups() { awk '/^entries:|^overrun:/ { n += $2 } END { print n }' $trace/per_cpu/cpu*/stats; }
page=$(awk '/KernelPageSize/ { print $2; exit }' /proc/self/smaps)
echo "GUEST Linux $(uname -r), pages of $page KiB, $(nproc) CPUs"

# run NAME WORDS ABORTS LIBRARY [VARIABLE=VALUE..]: the mode must be announced by these words, and the hammer must succeed while the
# kernel aborts so many sections at least.
run() {
    local name=$1 words=$2 least=$3 library=$4 before said status count
    shift 4
    said=$(env RSALLOC_CONF=verbose:1 "$@" LD_PRELOAD=$library hammer 1 1 1000 2>&1 | head -n 1)
    case $said in
    *"$words"*) ;;
    *) echo "FAULT $name: $said" ;;
    esac
    before=$(fixups)
    said=$(env "$@" LD_PRELOAD=$library hammer 6 $rounds 1000 2>&1)
    status=$?
    count=$(($(fixups) - before))
    echo "RAN $name: $count sections aborted, exit $status, $said"
    [ $status = 0 ] || echo "FAULT $name: exit $status"
    [ $count -ge $least ] || echo "FAULT $name: $count aborted sections show nothing, $least would"
}

sound=/bin/librsalloc.so
libc="per-CPU on libc's rseq registration"
own="per-CPU on our own rseq registration"
refused="atomic path (this kernel does not abort rseq sections)"
believed=$libc unsound=0
[ $aborts != none ] || { unsound=1 aborts=0 libc=$refused own=$refused; }
no_libc=GLIBC_TUNABLES=glibc.pthread.rseq=0
run libc "$libc" $aborts $sound
run own "$own" $aborts $sound $no_libc
if [ $cid = 1 ]; then
    run "libc, mm_cid" "$libc" $aborts $sound RSALLOC_CONF=verbose:1,index:mm_cid
    run "own, mm_cid" "$own" $aborts $sound $no_libc RSALLOC_CONF=verbose:1,index:mm_cid
fi
run atomic "atomic path (configured)" 0 $sound RSALLOC_CONF=verbose:1,mode:atomic
# hotplug NAME [VARIABLE=VALUE..]: CPUs go and come, and the process' cpuset changes, while the hammer runs.
hotplug() {
    local name=$1 last=$(($(nproc) - 1)) turn=0 changes=0 switch pid status group=/sys/fs/cgroup/hammer
    shift
    env "$@" LD_PRELOAD=$sound sh -c "echo \$\$ >$group/cgroup.procs && exec hammer 6 $((rounds * 4)) 1000" >/tmp/hotplug 2>&1 &
    pid=$!
    while [ -d /proc/$pid ]; do
        switch=/sys/devices/system/cpu/cpu$((turn % last + 1))/online
        turn=$((turn + 1))
        echo 0 >$switch && usleep 10000 && echo 0 >$group/cpuset.cpus && usleep 10000 &&
            echo 1 >$switch && echo 0-$last >$group/cpuset.cpus && changes=$((changes + 1)) ||
            { echo "FAULT hotplug $name: a CPU or the cpuset stays" && echo 1 >$switch; }
        usleep 10000
    done
    wait $pid
    status=$?
    echo "RAN hotplug $name: a CPU and the cpuset went and came $changes times, exit $status, $(cat /tmp/hotplug)"
    [ $status = 0 ] || echo "FAULT hotplug $name: exit $status"
    [ $changes -ge 3 ] || echo "FAULT hotplug $name: $changes changes show nothing, 3 would"
}
if [ "$(nproc)" -gt 1 ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup && echo +cpuset >/sys/fs/cgroup/cgroup.subtree_control && mkdir /sys/fs/cgroup/hammer ||
        echo "FAULT hotplug: no cpuset"
    hotplug libc
    hotplug own $no_libc
    [ $cid = 0 ] || hotplug mm_cid RSALLOC_CONF=index:mm_cid
fi
# deviates NAME SAID: a sweep that is a control must have come to its end, with deviations.
deviates() {
    case $(echo "$2" | tail -n 1) in *", 0 deviations"*) echo "FAULT $1: no deviation" ;; *deviations*) ;; *) echo "FAULT $1: $2" ;; esac
    echo "RAN $1: $(echo "$2" | tail -n 1)"
}
# The controls: sections that end before their commit must be noticed, and a trial that is not aborted.
control_sections() {
    local said status
    said=$(LD_PRELOAD=/bin/broken.so hammer 6 $((rounds * 4)) 1000 2>&1)
    status=$?
    case $said in *"handed out twice"*) ;; *) echo "FAULT control: sections without their commit were not noticed" ;; esac
    echo "RAN control, sections without their commit: exit $status, $(echo "$said" | head -n 1)"
    [ ! -f /bin/untried.so ] || run "control, a trial that no kernel aborts" "$refused" 0 /bin/untried.so
}
# The controls of a kernel that does not abort: a library that believes that it does must be seen to fail, in the hammer and in the sweep.
control_kernel() {
    local said status before
    said=$(RSALLOC_CONF=verbose:1 LD_PRELOAD=/bin/believed.so hammer 1 1 1000 2>&1 | head -n 1)
    case $said in *"$believed"*) ;; *) echo "FAULT control, a trial that is believed: $said" ;; esac
    before=$(fixups)
    said=$(LD_PRELOAD=/bin/believed.so timeout 120 hammer 6 $((rounds * 4)) 1000 2>&1)
    status=$?
    case $said in *"handed out twice"*) ;; *) echo "FAULT control: the hammer did not see the kernel's fault: exit $status, $said" ;; esac
    echo "RAN control, a trial that is believed: $(($(fixups) - before)) sections aborted, exit $status, $(echo "$said" | head -n 1)"
    said=$(timeout 300 sweep /bin/believed.so 2>&1)
    deviates "control, sweep with a trial that is believed" "$said"
}
# The library whose entries find their shard by mm_cid.
by_mm_cid() {
    local library=/bin/mm_cid.so said status
    said=$(LD_PRELOAD=/bin/mm_cid-broken.so hammer 6 $((rounds * 4)) 1000 2>&1)
    case $said in *"handed out twice"*) ;; *) echo "FAULT control, entries by mm_cid without their commit: $said" ;; esac
    run "entries by mm_cid" "$libc" $aborts $library
    run "own, entries by mm_cid" "$own" $aborts $library $no_libc
    said=$(RSALLOC_CONF=index:auto sweep $library entries 2>&1)
    status=$?
    echo "RAN sweep of entries by mm_cid: exit $status, $(echo "$said" | tail -n 1)"
    [ $status = 0 ] || { echo "FAULT sweep of entries by mm_cid"; echo "$said"; }
}
# Every instruction of every section, in the modes that have sections of their own, and a control.
sweep_all() {
    local setting said status
    for setting in index:cpu_id index:mm_cid index:cpu_id,profile:1g; do
        case $setting in *mm_cid) [ $cid = 1 ] || continue ;; esac
        said=$(RSALLOC_CONF=$setting sweep $sound 2>&1)
        status=$?
        echo "RAN sweep $setting: exit $status, $(echo "$said" | tail -n 1)"
        [ $status = 0 ] || { echo "FAULT sweep $setting"; echo "$said"; }
    done
    said=$(sweep $sound defect malloc 2>&1)
    deviates "control, sweep of malloc without its commit" "$said"
}
if [ $unsound = 1 ]; then
    control_kernel
else
    control_sections
    [ ! -x /bin/sweep ] || sweep_all
    [ ! -e /bin/mm_cid.so ] || by_mm_cid
fi
for program in /bin/test-*; do
    [ -x "$program" ] || continue
    said=$("$program" 2>&1)
    status=$?
    echo "RAN $program: exit $status, $(echo "$said" | grep 'test result' || echo "$said" | tail -n 3)"
    [ $status = 0 ] || { echo "FAULT $program"; echo "$said" | grep -v ' ok$'; }
done
echo DONE
# The console has what it was given a moment later.
sleep 1
poweroff -f
