#!/bin/busybox sh
# The first process of a guest with Debian's programs: the parts named on the kernel's command line (parts=A,B), and what the host
# looks for, lines with RAN, SKIPPED, FAULT and DONE.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
export PATH=/usr/bin:/usr/sbin HOME=/root USER=root LANG=C.UTF-8 TMPDIR=/tmp LD_LIBRARY_PATH=/usr/lib
for applet in mount ip poweroff usleep timeout awk nproc ps cmp hostname modprobe; do
    [ -e /usr/bin/$applet ] || ln -s busybox /usr/bin/$applet
done
mkdir -p /dev/shm /dev/pts /run
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
ip link set lo up
ln -sf /proc/self/fd /dev/fd
library=/usr/lib/librsalloc.so.0
own=GLIBC_TUNABLES=glibc.pthread.rseq=0
parts=$(sed 's/.*parts=\([^ ]*\).*/\1/' /proc/cmdline)
# Takes the last CPU away (0) and brings it back (1).
switch=/sys/devices/system/cpu/cpu$(($(nproc) - 1))/online
page=$(awk '/KernelPageSize/ { print $2; exit }' /proc/self/smaps)
echo "GUEST Linux $(uname -r), pages of $page KiB, $(nproc) CPUs, $(/lib/ld-linux-aarch64.so.1 --version | sed 1q)"

# says NAME PATTERN COMMAND..: the command must succeed and say so.
says() {
    local name=$1 pattern=$2 said status
    shift 2
    said=$(timeout 900 "$@" 2>&1)
    status=$?
    case $status,$said in
    0,*$pattern*) echo "RAN $name: $(echo "$said" | grep -F -m1 "$pattern")" ;;
    *) echo "FAULT $name: exit $status" && echo "$said" | tail -n 30 ;;
    esac
}

# Commands at any place of a program that keeps numbers in all registers; then the program must end well, and as many of its sleeps have
# ended with EINTR as commands said. With `killed` each command is killed at some time: then any may.
command_at_any_place() {
    local name=$1 how=$2 pid status round=0 released=0 killed=0 late=0 said
    shift 2
    env "$@" LD_PRELOAD=$library vectors 15000 >/tmp/vectors.log 2>&1 &
    pid=$!
    until grep -q bits /tmp/vectors.log; do usleep 10000; done
    while [ -d /proc/$pid ] && [ $round -lt 100 ]; do
        round=$((round + 1))
        if [ -n "${how#whole}" ]; then
            rsalloc release $pid >/dev/null 2>&1 &
            usleep $((round * 977 % 60000))
            kill -9 $! 2>/dev/null && killed=$((killed + 1))
            wait $! 2>/dev/null
        elif rsalloc release $pid >/tmp/release.log 2>&1; then
            released=$((released + 1))
            ! grep -q 'ends with EINTR' /tmp/release.log || late=$((late + 1))
        fi
    done
    wait $pid
    status=$?
    said=$(tail -n 1 /tmp/vectors.log)
    echo "RAN commands, $name: $(head -n 1 /tmp/vectors.log), $released released, $killed killed, $late said EINTR; $said"
    [ -n "${how#whole}" ] || case $said in *" $late sleeps interrupted") ;; *) echo "FAULT commands, $name: another number of sleeps" ;; esac
    [ $status = 0 ] || echo "FAULT commands, $name: exit $status"
    [ $((released + killed)) -ge 10 ] || echo "FAULT commands, $name: $released of $round released, the last: $(cat /tmp/release.log)"
}

commands() {
    local pid
    says check "per CPU, by rseq as libc registered it" rsalloc check
    says "check, own registration" "per CPU, by rseq registered by rsalloc" env $own rsalloc check
    command_at_any_place libc whole
    command_at_any_place own whole $own
    command_at_any_place atomic whole RSALLOC_CONF=mode:atomic
    command_at_any_place killed interrupted
    LD_PRELOAD=$library vectors 60000 >/dev/null &
    pid=$!
    usleep 500000
    says set "dirty: 1048576 -> 8388608" rsalloc set $pid dirty:8m
    says conf "set from outside" rsalloc conf $pid
    says profile "live at 1 stacks" rsalloc profile $pid --seconds 3 --interval 256 --top
    says release "given back" rsalloc release $pid
    kill $pid
}

# Dumped and restored by CRIU again and again, at any instruction of its threads; then the program must end well. The last CPU is away at every
# second dump and at the restores between: the program gets a CPU more, and one less. `inside` counts the threads that were in a section.
journeys() {
    local name=$1 round caught=0 pid log=/tmp/criu/log
    shift
    echo 1 >$switch
    rm -rf /tmp/criu && mkdir /tmp/criu
    env "$@" hammer 4 0 0 </dev/null >/tmp/hammer.log 2>&1 &
    pid=$!
    sleep 2
    for round in $(seq 20); do
        rm -rf /tmp/criu/images && mkdir /tmp/criu/images
        echo $((round % 2)) >$switch || echo "FAULT criu, $name: a CPU stays"
        criu dump -v2 --timeout 60 -t $pid -D /tmp/criu/images -o $log || { echo "FAULT criu, $name: dump $round: $(grep Error $log | head -n 3); $(cat /tmp/hammer.log)" && return; }
        caught=$((caught + $(grep -c 'in rseq critical section' $log)))
        echo $((1 - round % 2)) >$switch || echo "FAULT criu, $name: a CPU stays"
        # Its number is free when this shell has waited for it.
        wait $pid 2>/dev/null
        sleep 0.2
        criu restore -v2 -d -D /tmp/criu/images -o $log || { echo "FAULT criu, $name: restore $round: $(grep Error $log | head -n 3)" && return; }
        usleep $((round * 9973 % 300000))
    done
    inside=$((inside + caught))
    echo 1 >$switch
    kill -TERM $pid
    for round in $(seq 300); do
        grep -q State.*Z /proc/$pid/status 2>/dev/null || [ ! -d /proc/$pid ] && break
        sleep 0.1
    done
    case $(cat /tmp/hammer.log) in
    "4 threads, "*) echo "RAN criu, $name: 20 dumps and restores, $caught threads were inside a section; $(cat /tmp/hammer.log)" ;;
    *) echo "FAULT criu, $name: $(cat /tmp/hammer.log)" ;;
    esac
}

criu_part() {
    local module inside=0
    for module in unix_diag netlink_diag af_packet_diag tcp_diag udp_diag raw_diag nf_tables tun; do modprobe $module; done
    says "criu check" "Looks good" criu check
    # Without rsalloc: whether CRIU works in this machine at all.
    journeys glibc HAMMER_ON_LIBC=1
    journeys libc LD_PRELOAD=$library
    journeys own LD_PRELOAD=$library $own
    journeys mm_cid LD_PRELOAD=$library RSALLOC_CONF=index:mm_cid
    journeys atomic LD_PRELOAD=$library RSALLOC_CONF=mode:atomic
    journeys hardened LD_PRELOAD=$library RSALLOC_CONF=hardened:on
    [ $inside -gt 0 ] || echo "FAULT criu: no thread was inside a section"
    # The control: sections that end before their commit.
    journeys control LD_PRELOAD=/usr/lib/broken.so >/tmp/control
    grep -q 'an object was handed out twice' /tmp/control && echo "RAN criu, the control is red" ||
        echo "FAULT criu, the control is green: $(cat /tmp/control)"
    echo 1 >$switch
}

tests() {
    local file name said status skipped left
    for file in /tests/*; do
        name=${file#/tests/}
        skipped=$(grep "^$name " /skipped)
        [ -z "$skipped" ] || { echo "SKIPPED: $skipped"; continue; }
        cd "$(cat /source)/$(echo "$name" | sed 's/^rsalloc-core-.*/alloc-core/; s/^rsalloc-preload-.*/alloc-preload/; s/^rsalloc-cli-.*/cli/')"
        said=$(timeout 1500 "$file" 2>&1)
        status=$?
        echo "RAN $name: exit $status, $(echo "$said" | grep 'test result' | tail -n 1)"
        echo "$said" | grep 'NOT TESTED' | sed 's/^/SKIPPED: /'
        [ $status = 0 ] || { echo "FAULT $name"; echo "$said" | grep -v ' ok$' | tail -n 60; }
        # What the test left, but not the sources of a checkout in /tmp.
        for left in /tmp/*; do
            case $(cat /source)/ in "$left"/*) ;; *) rm -rf "$left" ;; esac
        done
    done
}

case ,$parts, in *,commands,*) commands ;; esac
case ,$parts, in *,criu,*) criu_part ;; esac
case ,$parts, in *,programs,*) . /programs.sh ;; esac
[ -z "$(ls /tests)" ] || tests
echo DONE
# The console has what it was given a moment later.
sleep 1
poweroff -f
