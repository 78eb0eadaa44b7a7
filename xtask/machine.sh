# For scripts that source it behind debian.sh: virtual machines of x86-64 whose root holds busybox, one program with its libraries, and
# librsalloc.so as /lib/librsalloc.so.0.

# machine_root WORK KERNEL PROGRAM LIBRARY..: makes WORK/root and WORK/vmlinuz from the packages of the apt state WORK/apt. KERNEL is a
# pattern for the version of Debian's cloud kernel; further libraries go to /lib, with all that they need.
machine_root() {
    local work=$1 version=$2 program=$3 root=$1/root kernel file
    shift 3
    needs qemu-system-x86_64 qemu-system-x86
    needs cpio cpio
    cargo build --quiet --release --package rsalloc-preload
    unpack_debs "$work/apt" "$work/busybox" busybox-static
    kernel=$(apt-cache -c "$work/apt/apt.conf" search --names-only "^linux-image-$version\..*[0-9]-cloud-amd64\$" | sort -V | tail -n 1 | cut -d' ' -f1)
    unpack_debs "$work/apt" "$work/linux" "$kernel"
    cp "$(find "$work/linux" -name 'vmlinuz*' -type f)" "$work/vmlinuz"
    rm -rf "$root"
    mkdir -p "$root"/{bin,lib,lib64,proc,sys,dev,tmp}
    cp "$(find "$work/busybox" -name busybox -type f -perm -1)" "$root/bin/busybox"
    cp "${CARGO_TARGET_DIR:-target}/release/librsalloc_preload.so" "$root/lib/librsalloc.so.0"
    cp "$program" "$root/bin"
    [ $# = 0 ] || cp -L "$@" "$root/lib"
    for file in "$program" "$root"/lib/*; do ldd "$file"; done | grep -o '/[^ ]*' | sort -u | while read -r file; do
        [ -e "$root/lib/${file##*/}" ] || cp -L "$file" "$root/lib"
    done
    cp -L /lib64/ld-linux-x86-64.so.2 "$root/lib64"
}

# machine_init WORK <SCRIPT: what the machine of WORK runs, by busybox; its last line is DONE if it came that far.
machine_init() {
    local root=$1/root
    {
        cat <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin LD_LIBRARY_PATH=/lib
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
echo BEGIN
INIT
        cat
        # The console has what it was given a moment later.
        printf 'echo DONE\nsleep 1\npoweroff -f\n'
    } >"$root/init"
    chmod +x "$root/init"
    (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$1/initramfs.gz"
}

# machine_boot WORK SECONDS CPUS MIB WORDS OPTION..: what the machine said; WORDS go to its command line. Above eight CPUs one thread
# translates them all: more would only wait for each other. A kernel that panics before its first program is booted again: QEMU's threads may keep
# a breakpoint that the kernel put into its own text and has removed.
machine_boot() {
    local work=$1 seconds=$2 cpus=$3 mib=$4 words=$5 thread=multi said try
    shift 5
    [ "$cpus" -le 8 ] || thread=single
    machine_once "$@"
    for try in 2 3; do
        grep -q "Kernel panic" <<<"$said" && ! grep -q BEGIN <<<"$said" || break
        echo "the kernel panicked at its start: boot $try" >&2
        machine_once "$@"
    done
    grep -q ^DONE <<<"$said" || { echo "FAILED: a machine of $cpus CPUs" >&2; tail -n 20 <<<"$said" >&2; return 1; }
    echo "$said"
}

# One boot, with machine_boot's variables; WORK/console has what the machine has said so far.
machine_once() {
    : >"$work/console"
    said=$(timeout "$seconds" qemu-system-x86_64 -accel tcg,thread=$thread -cpu max -machine q35 -smp "$cpus" -m "$mib" "$@" \
        -kernel "$work/vmlinuz" -initrd "$work/initramfs.gz" -nodefaults -nographic -no-reboot -serial stdio -monitor none \
        -append "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=1 $words" </dev/null | stdbuf -oL tr -d '\r' | tee "$work/console") || true
}
