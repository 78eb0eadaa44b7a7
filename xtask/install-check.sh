#!/usr/bin/env bash
# Tries the packages of a release in fresh systems: `cargo xtask install-check [SUITE..] [vm]`, after `cargo xtask dist`.
#
# For each suite of Debian (default: bookworm trixie sid) a root made by debootstrap, in which the .deb packages are
# installed, used, upgraded while a process runs on them, removed and purged; what is left must be what was there before.
# Then lintian, the .rpm unpacked, and the steps of examples/install/Dockerfile in a root from nothing, and by docker if one answers.
# vm: one root is booted with systemd in QEMU, with rsalloc in /etc/ld.so.preload and in one service.
# Root is needed (debootstrap, chroot). Debian packages: debootstrap lintian rpm2cpio cpio gcc; vm: qemu-system-x86 e2fsprogs.
set -euo pipefail
# A command that fails within $( ) ends the script, too.
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
dist=${CARGO_TARGET_DIR:-$PWD/target}/dist
packages=$dist/x86_64/packages
work=${RSALLOC_ROOTS:-$dist/../install-check}
mkdir -p "$work"
work=$(realpath "$work")

say() { printf '%s: %s\n' "$1" "$2"; }
fail() { echo "install-check: $*" >&2; exit 1; }
needs() { command -v "$1" >/dev/null || fail "no $1; run as root: apt-get install $2"; }
[ "$(id -u)" = 0 ] || fail "debootstrap and chroot need root"
ls "$packages"/*.deb >/dev/null 2>&1 || fail "no packages; first: cargo xtask dist"

root='' container='' images=()
leave() {
    [ -z "$root" ] || umount "$root/proc" 2>/dev/null || true
    [ -z "$container" ] || docker rm -f "$container" >/dev/null 2>&1 || true
    [ ${#images[@]} = 0 ] || docker rmi "${images[@]}" >/dev/null 2>&1 || true
    container='' images=()
}
trap leave EXIT

# The root of a suite, as a file that is kept.
bootstrap() {
    local suite=$1 kept=$work/$1.tar
    [ ! -f "$kept" ] || return 0
    needs debootstrap debootstrap
    rm -rf "$work/$suite.new"
    debootstrap --variant=minbase --include=ca-certificates,redis-server,redis-tools \
        "$suite" "$work/$suite.new" http://deb.debian.org/debian >"$work/$suite.log" 2>&1 ||
        fail "debootstrap of $suite: see $work/$suite.log"
    tar -C "$work/$suite.new" -cf "$kept.new" .
    mv "$kept.new" "$kept"
    rm -rf "$work/$suite.new"
}

# A root of a suite, unpacked from the one that is kept. Not in a condition or a list of &&: errexit would be off in it.
fresh() {
    local suite=$1 kept=$work/$1.tar
    bootstrap "$suite"
    root=$work/$2
    umount "$root/proc" 2>/dev/null || true
    rm -rf "$root"
    mkdir -p "$root"
    tar -C "$root" -xf "$kept"
    mount -t proc proc "$root/proc"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod +x "$root/usr/sbin/policy-rc.d"
    mkdir -p "$root/packages"
    cp "$packages"/*.deb "$root/packages"
}

inside() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root "$@"; }

# Every file with its kind, mode, owner and length; not what each installation of any package changes.
listing() {
    (cd "$root" && find . -xdev \( -path ./proc -o -path ./packages -o -path ./tmp -o -path ./run \) -prune -o \
        ! -path './var/log/*' ! -path './var/lib/dpkg/*' ! -path './var/cache/*' ! -path ./etc/ld.so.cache ! -type d \
        -printf '%p %y %m %u:%g %s %l\n' -o -type d -printf '%p d %m %u:%g\n' | LC_ALL=C sort)
}

# redis on rsalloc, with a client that reads back what it wrote.
redis() {
    inside sh -euc '
        rsalloc run redis-server --port 7777 --save "" --daemonize no >/tmp/redis.log 2>&1 & pid=$!
        for i in $(seq 100); do redis-cli -p 7777 ping 2>/dev/null | grep -q PONG && break; sleep 0.1; done
        for i in $(seq 200); do printf "set key%s value%s\r\n" $i $i; done | redis-cli -p 7777 --pipe >/dev/null
        [ "$(redis-cli -p 7777 get key77)" = value77 ]
        redis-cli -p 7777 info memory | grep -q "mem_allocator"
        [ "$(redis-cli -p 7777 eval "local t = {} for i = 1, 10000 do t[i] = string.rep(i, 9) end return #t" 0)" = 10000 ]
        redis-cli -p 7777 script flush >/dev/null; redis-cli -p 7777 memory purge >/dev/null
        set +e; rsalloc check $pid >/tmp/check; status=$?; set -e
        [ $status -le 1 ] || { cat /tmp/check; exit 1; }
        rsalloc stats $pid | grep -q "^mapped "
        grep -m1 . /tmp/check || true
        redis-cli -p 7777 shutdown nosave; wait $pid'
}

suite() {
    local suite=$1 was is pid said
    fresh "$suite" "$suite"
    was=$(listing)
    inside sh -euc 'dpkg -i /packages/librsalloc0_*.deb /packages/rsalloc_*.deb >/dev/null'
    say "$suite" "installed; $(inside rsalloc --version); glibc $(inside ldd --version | sed -n '1s/.* //p')"
    inside sh -euc 'LD_PRELOAD=librsalloc.so.0 RSALLOC_CONF=verbose:on /bin/true 2>&1' | grep -q rsalloc ||
        fail "$suite: LD_PRELOAD by the soname has no effect"
    said=$(redis) || fail "$suite: redis on rsalloc"
    say "$suite" "redis: $said"

    # An upgrade: the same package with another version. A process on the old file goes on.
    inside sh -euc '
        cd /tmp && rm -rf new && dpkg-deb -R /packages/librsalloc0_*.deb new
        sed -i "s/^Version: .*/Version: 9.9-1/" new/DEBIAN/control && dpkg-deb -b new new.deb >/dev/null
        dpkg-deb -R /packages/rsalloc_*.deb cmd
        sed -i "s/^Version: .*/Version: 9.9-1/; s/librsalloc0 (= [^)]*)/librsalloc0 (= 9.9-1)/" cmd/DEBIAN/control
        dpkg-deb -b cmd cmd.deb >/dev/null'
    rm -f "$root/tmp/to" "$root/tmp/from"
    mkfifo "$root/tmp/to" "$root/tmp/from"
    inside sh -euc 'LD_PRELOAD=librsalloc.so.0 perl -e "\$|=1; print qq(ready\n); while (<STDIN>) { my @a = map { q(x) x \$_ } 1..3000; print scalar(@a), qq(\n) }" </tmp/to >/tmp/from' &
    pid=$!
    exec 7>"$root/tmp/to" 8<"$root/tmp/from"
    local line
    read -r -t 20 line <&8 && [ "$line" = ready ] || fail "$suite: the process to upgrade under did not start"
    local before after
    before=$(stat -Lc %i "$root"/usr/lib/*/librsalloc.so.0)
    inside dpkg -i /tmp/new.deb /tmp/cmd.deb >/dev/null
    after=$(stat -Lc %i "$root"/usr/lib/*/librsalloc.so.0)
    [ "$before" != "$after" ] || fail "$suite: the upgrade wrote into the file that a process runs on"
    echo go >&7
    read -r -t 20 line <&8 && [ "$line" = 3000 ] || fail "$suite: the process did not outlive the upgrade"
    exec 7>&- 8<&-
    wait $pid
    say "$suite" "upgraded under a running process, which went on"

    # The whole root, and removal from there.
    echo '/usr/$LIB/librsalloc.so.0' >"$root/etc/ld.so.preload"
    inside sh -euc 'grep -q librsalloc /proc/self/maps; status=0; rsalloc check >/dev/null || status=$?; [ $status -le 1 ]' ||
        fail "$suite: /etc/ld.so.preload has no effect"
    inside dpkg --remove rsalloc librsalloc0 >/dev/null
    [ ! -e "$root/etc/ld.so.preload" ] || fail "$suite: /etc/ld.so.preload still names the library"
    inside true 2>&1 | { ! grep .; } || fail "$suite: programs complain after the removal"
    inside dpkg --purge rsalloc librsalloc0 >/dev/null 2>&1
    rm -rf "$root"/tmp/* "$root/packages/nothing"
    is=$(listing)
    [ "$was" = "$is" ] || { diff <(echo "$was") <(echo "$is") | head -20 >&2; fail "$suite: removal leaves traces"; }
    say "$suite" "removed and purged: the $(echo "$is" | wc -l) files and folders are what they were"

    # The development package, with a compiler.
    if [ "$suite" = bookworm ]; then
        inside sh -euc 'apt-get -qq update && apt-get -qq -y install --no-install-recommends gcc libc6-dev pkg-config >/dev/null 2>&1
            dpkg -i /packages/librsalloc0_*.deb /packages/librsalloc-dev_*.deb >/dev/null
            cp /usr/share/doc/librsalloc-dev/examples/example.c /tmp && cd /tmp
            cc -Wall -Werror example.c $(pkg-config --cflags --libs rsalloc) -o example && ./example | head -1' >"$work/example"
        say "$suite" "the example by pkg-config: $(cat "$work/example")"
    fi
    umount "$root/proc"
    root=
}

check_lintian() {
    needs lintian lintian
    local said
    said=$(lintian --no-cfg --allow-root --fail-on error,warning "$packages"/*.deb 2>&1) || { echo "$said" >&2; fail "lintian"; }
    say lintian "${said:-clean}"
}

check_rpm() {
    needs rpm2cpio rpm2cpio
    needs cpio cpio
    needs cc gcc
    local rpm said folder=$work/rpm
    rm -rf "$folder" && mkdir -p "$folder"
    for rpm in "$packages"/*.rpm; do
        # rpm2cpio ends with 1, for want of a length that cargo-generate-rpm does not write; cpio finds an archive that is cut.
        (cd "$folder" && { rpm2cpio "$rpm" || true; } | cpio -idm --quiet) || fail "cannot unpack $rpm"
    done
    env -u LD_PRELOAD "$folder/usr/bin/rsalloc" run env | grep "^LD_PRELOAD=$folder/usr/lib64/librsalloc.so.0" >/dev/null ||
        fail "the command of the .rpm does not find its library in ../lib64"
    said=$(find "$folder" -type f -perm -o+w) && [ -z "$said" ] || fail "the .rpm has files that all may write: $said"
    cc -Wall -Werror -I"$folder/usr/include" alloc-preload/man/example.c -L"$folder/usr/lib64" -lrsalloc -o "$work/rpm-example"
    said=$(LD_LIBRARY_PATH=$folder/usr/lib64 "$work/rpm-example" | sed -n 1p)
    say rpm "unpacked; the command finds its library; the example, linked with rsalloc-devel: $said"
    if command -v rpmlint >/dev/null; then
        rpmlint --config xtask/rpmlint.toml "$packages"/*.rpm >"$work/rpmlint" 2>&1 || { cat "$work/rpmlint" >&2; fail "rpmlint"; }
        say rpm "rpmlint: $(tail -1 "$work/rpmlint")"
    else
        say rpm "NOT TESTED by rpmlint: it is not installed"
    fi
}

# By a docker that answers: the file is built and its container looked at. Where no registry is reached, its first line
# stands for the root of debootstrap.
check_docker() {
    local file=examples/install/Dockerfile folder=$work/docker name=rsalloc-install-check line base said
    docker info >/dev/null 2>&1 || { say docker "NOT TESTED: no docker answers"; return 0; }
    rm -rf "$folder" && mkdir -p "$folder"
    cp $file "$folder"
    for line in $(sed -n 's/^COPY \(.*\) \/tmp\/packages\/$/\1/p' $file); do cp "$packages"/$line "$folder"; done
    base=$(sed -n 's/^FROM //p' $file)
    if ! docker image inspect "$base" >/dev/null 2>&1; then
        if docker pull -q "$base" >/dev/null 2>&1; then
            images+=("$base")
        else
            bootstrap bookworm
            docker import "$work/bookworm.tar" $name-base >/dev/null
            images+=("$name-base")
            sed -i "s/^FROM .*/FROM $name-base/" "$folder/Dockerfile"
        fi
    fi
    DOCKER_BUILDKIT=0 docker build --network=host --rm --force-rm -q -t $name "$folder" >"$work/docker.log" 2>&1 ||
        { tail -5 "$work/docker.log" >&2; fail "docker build of $file"; }
    images=("$name" "${images[@]}")
    container=$(docker run -d --network=none $name)
    said=$(docker exec "$container" sh -euc '
        for i in $(seq 100); do [ "$(redis-cli ping 2>/dev/null)" != PONG ] || break; sleep 0.1; done
        [ "$(redis-cli ping)" = PONG ] || { echo "redis does not answer" >&2; exit 1; }
        grep -q librsalloc /proc/1/maps || { echo "redis is not on rsalloc" >&2; exit 1; }
        id -un
        status=0; rsalloc check 1 || status=$?; [ $status -le 1 ]') || fail "docker: the container of $file"
    say docker "built and run ($(sed -n 's/^FROM //p' "$folder/Dockerfile")): as $(sed -n 1,2p <<<"$said" | paste -sd' ')"
    docker rm -f "$container" >/dev/null
    container=""
    docker rmi "${images[@]}" >/dev/null || fail "docker keeps an image of ${images[*]}"
    images=()
}

# There may be no docker: its steps are done in a root from nothing.
check_dockerfile() {
    fresh bookworm dockerfile
    local file=examples/install/Dockerfile line
    mkdir -p "$root/tmp/packages"
    for line in $(sed -n 's/^COPY \(.*\) \/tmp\/packages\/$/\1/p' $file); do cp "$packages"/$line "$root/tmp/packages"; done
    sed -n '/^RUN/,/^[A-Z]/p' $file | sed 's/^RUN //; /^ENV/d; s/\\$//' | tr '\n' ' ' >"$work/steps"
    inside sh -euc "export DEBIAN_FRONTEND=noninteractive; $(cat "$work/steps")" >"$work/dockerfile.log" 2>&1 ||
        { tail -5 "$work/dockerfile.log" >&2; fail "the steps of $file"; }
    local environment
    environment=$(sed -n 's/^ENV //p' $file)
    inside env $environment setpriv --reuid=redis --regid=redis --clear-groups sh -euc '
        redis-server --save "" --port 7788 >/dev/null & pid=$!
        for i in $(seq 100); do redis-cli -p 7788 ping 2>/dev/null | grep -q PONG && break; sleep 0.1; done
        [ "$(redis-cli -p 7788 ping)" = PONG ]
        grep -q librsalloc /proc/$pid/maps; redis-cli -p 7788 shutdown nosave; wait $pid' ||
        fail "Dockerfile: redis as its user"
    say Dockerfile "its steps in a fresh bookworm root (without docker): redis as its user is on rsalloc"
    umount "$root/proc"
    root=
}

check_vm() {
    needs qemu-system-x86_64 qemu-system-x86
    needs mkfs.ext4 e2fsprogs
    # A machine whose own CPU is partly emulated may have a /dev/kvm in which guests die.
    local accelerator=tcg
    ! grep -qwE 'vmx|svm' /proc/cpuinfo || [ ! -w /dev/kvm ] || accelerator=kvm
    fresh bookworm vm
    rm "$root/usr/sbin/policy-rc.d"
    inside sh -euc 'export DEBIAN_FRONTEND=noninteractive; apt-get -qq update
        apt-get -qq -y install --no-install-recommends systemd-sysv linux-image-cloud-amd64 >/dev/null 2>&1
        dpkg -i /packages/librsalloc0_*.deb /packages/rsalloc_*.deb >/dev/null; apt-get clean'
    echo '/usr/$LIB/librsalloc.so.0' >"$root/etc/ld.so.preload"
    mkdir -p "$root/etc/systemd/system/redis-server.service.d"
    cp examples/install/redis-on-rsalloc.conf "$root/etc/systemd/system/redis-server.service.d/rsalloc.conf"
    cat >"$root/usr/local/bin/look" <<'L'
#!/bin/sh
# Every process of the system by the library in it, then off.
exec >/dev/ttyS0 2>&1
echo "init: $(grep -c librsalloc /proc/1/maps) mappings"
for process in /proc/[0-9]*; do
    grep -q . $process/maps || continue   # a thread of the kernel
    if grep -q librsalloc $process/maps; then echo "on: $(cat $process/comm)"; elif [ -d $process ]; then echo "off: $(cat $process/comm)"; fi
done 2>/dev/null
redis-cli --raw set word rsalloc; redis-cli --raw get word
rsalloc check $(pidof redis-server) | head -1
systemctl --failed --no-legend --plain | sed 's/^/failed: /'
echo "state: $(systemctl is-system-running)"   # starting: this script is a job of it
echo looked; systemctl poweroff
L
    chmod +x "$root/usr/local/bin/look"
    printf '[Unit]\nAfter=redis-server.service multi-user.target\n[Service]\nType=oneshot\nExecStart=/usr/local/bin/look\n[Install]\nWantedBy=multi-user.target\n' \
        >"$root/etc/systemd/system/look.service"
    inside systemctl enable -q look.service redis-server.service
    # Its login prompt would hang up what the script writes to.
    inside systemctl mask -q serial-getty@ttyS0.service
    echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"
    umount "$root/proc"
    local kernel initrd said image=$work/vm.img
    kernel=$(ls "$root"/boot/vmlinuz-*) initrd=$(ls "$root"/boot/initrd.img-*)
    rm -f "$image" && truncate -s 3G "$image" && mkfs.ext4 -q -d "$root" "$image"
    timeout 500 qemu-system-x86_64 -m 1024 -smp 2 -nographic -no-reboot -cpu max -accel $accelerator \
        -kernel "$kernel" -initrd "$initrd" -append "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0" \
        -drive "file=$image,if=virtio,format=raw" </dev/null >"$work/vm.log" 2>&1 || true
    root=
    grep -q '^looked' "$work/vm.log" || { tail -20 "$work/vm.log" >&2; fail "vm: it did not come up"; }
    tr -d '\r' <"$work/vm.log" >"$work/vm.said"
    ! grep '^off: ' "$work/vm.said" >&2 || fail "vm: processes that are not on rsalloc"
    said=$(grep -c '^on: ' "$work/vm.said") && [ "$said" -ge 5 ] || fail "vm: only ${said:-0} processes were looked at"
    grep -qx rsalloc "$work/vm.said" || fail "vm: redis did not answer"
    ! grep '^failed: ' "$work/vm.said" >&2 || fail "vm: units that failed"
    grep -qxE 'state: (starting|running)' "$work/vm.said" || { grep '^state: ' "$work/vm.said" >&2; fail "vm: the system's state"; }
    grep -q '^rsalloc is active in process' "$work/vm.said" || fail "vm: redis is not on rsalloc"
    say vm "booted with systemd: $said processes, all on rsalloc, no unit failed; redis: $(grep -m1 '^rsalloc is active' "$work/vm.said")"
}

suites=() vm=
for word in "$@"; do
    case $word in
    vm) vm=yes ;;
    *) suites+=("$word") ;;
    esac
done
[ ${#suites[@]} -gt 0 ] || suites=(bookworm trixie sid)
check_lintian
check_rpm
for name in "${suites[@]}"; do suite "$name"; done
check_dockerfile
check_docker
[ -z "$vm" ] || check_vm
