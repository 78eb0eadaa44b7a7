# Kernels of arm64 that Debian does not build, from its own source: `image_of` of xtask/cross.sh, which reads this file.
#
# 7-64k, 6.12-64k: pages of 64 KiB. 7-unsound: the same as 7-64k, with the fault of Linux 6.19 to 7.0.13, which abort no section
# (docs/adr/0048-kernels-that-do-not-abort.md).

# build_kernel NAME: its file is $cross/linux-NAME/vmlinuz, made once. Kernels of one version have one tree, in which `make` does again what differs.
build_kernel() {
    local name=$1 tree image=$cross/linux-$1/vmlinuz started=$SECONDS
    [ ! -e "$image" ] || return 0
    needs flex flex
    needs bison bison
    needs bc bc
    needs make make
    needs xz xz-utils
    needs aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross
    kernel_source "${name%-*}"
    kernel_fault "${name##*-}"
    # What is not named is off.
    kernel_options | sed "s/.*/CONFIG_&/; /=/!s/\$/=y/; s/@/${name#*-}/" >"$tree/wanted"
    kernel_make KCONFIG_ALLCONFIG=wanted allnoconfig >"$tree/log" 2>&1 || { tail "$tree/log" >&2; exit 1; }
    kernel_has_options
    kernel_make -j2 Image >"$tree/log" 2>&1 || { tail -n 20 "$tree/log" >&2; echo "cannot build the kernel $name: $tree/log" >&2; exit 1; }
    mkdir -p "$(dirname "$image")"
    cp "$tree/arch/arm64/boot/Image" "$image.new"
    mv "$image.new" "$image"
    echo "built Linux $(kernel_make -s kernelrelease) in $((SECONDS - started)) s"
}

kernel_make() { make -C "$tree" ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu- "$@"; }

# Debian's newest source of a version, unpacked to `tree`.
kernel_source() {
    local package
    package=$(newest "^linux-source-$1(\.[0-9]+)?\$")
    tree=$cross/source-$1
    [ ! -d "$tree" ] || return 0
    [ -n "$package" ] || { echo "Debian has no linux-source-$1; remove $cross/apt/apt.conf to read its lists again" >&2; exit 1; }
    unpack "$cross/$package" "$package"
    rm -rf "$tree.new"
    mkdir "$tree.new"
    tar -x --strip-components=1 -C "$tree.new" -f "$cross/$package/usr/src/$package.tar.xz" || { echo "cannot unpack $package" >&2; exit 1; }
    rm -r "${cross:?}/${package:?}"
    mv "$tree.new" "$tree"
}

# Linux 7.0.14 and 7.2 have one line that the versions from 6.19 on lacked: arm64's entry from user space by anything but a system
# call notes that for rseq. It is there, or taken out for `unsound`.
kernel_fault() {
    local file=$tree/arch/arm64/kernel/entry-common.c
    if [ "$1" != unsound ]; then
        # Newer than what was compiled with the fault.
        [ ! -e "$file.sound" ] || { mv "$file.sound" "$file" && touch "$file"; }
        return
    fi
    [ -e "$file.sound" ] || cp -p "$file" "$file.sound"
    sed '/^\trseq_note_user_irq_entry();$/d' "$file.sound" >"$file"
    [ "$(diff "$file.sound" "$file" | grep -c '^[<>]')" = 1 ] || { echo "not one line of $file notes entries for rseq" >&2; exit 1; }
}

# Each option that is wanted must be set: Kconfig drops silently those whose dependencies are missing.
kernel_has_options() {
    local missing
    [ -s "$tree/.config" ] && [ -s "$tree/wanted" ] || { echo "the kernel has no configuration in $tree" >&2; exit 1; }
    missing=$(grep -vxFf "$tree/.config" "$tree/wanted") || return 0
    echo "the kernel's configuration lacks" $missing >&2
    exit 1
}

# The options beside those of `allnoconfig`: what the guests' programs and tests need. @ is the kernel's name behind the version.
kernel_options() {
    cat <<'OPTIONS'
EXPERT
CC_OPTIMIZE_FOR_SIZE
LOCALVERSION="-@"
ARM64_64K_PAGES
SMP
NR_CPUS=8
HOTPLUG_CPU
HIGH_RES_TIMERS
NO_HZ_IDLE
ARM_GIC_V3
ARM_PSCI_FW
ARM64_SVE
PERF_EVENTS
PRINTK
BUG
TTY
UNIX98_PTYS
SERIAL_AMBA_PL011
SERIAL_AMBA_PL011_CONSOLE
BLK_DEV_INITRD
RD_GZIP
BINFMT_ELF
BINFMT_SCRIPT
ELF_CORE
COREDUMP
PROC_FS
PROC_SYSCTL
PROC_PAGE_MONITOR
SYSFS
SHMEM
TMPFS
DEVTMPFS
FILE_LOCKING
INOTIFY_USER
MULTIUSER
POSIX_TIMERS
FUTEX
EPOLL
EVENTFD
SIGNALFD
TIMERFD
AIO
SYSVIPC
RSEQ
MEMBARRIER
ADVISE_SYSCALLS
CROSS_MEMORY_ATTACH
TRANSPARENT_HUGEPAGE
TRANSPARENT_HUGEPAGE_ALWAYS
ANON_VMA_NAME
VM_EVENT_COUNTERS
CGROUPS
CPUSETS
NAMESPACES
UTS_NS
IPC_NS
PID_NS
USER_NS
NET
UNIX
SECCOMP
SECCOMP_FILTER
FTRACE
TRACING
ENABLE_DEFAULT_TRACERS
OPTIONS
}
