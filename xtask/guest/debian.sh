# A virtual machine of aarch64 with Debian's programs and compiler: `suite` of xtask/cross.sh, which reads this file.

# debian_root FOLDER SUITE PACKAGE..: the packages and all that they depend on, unpacked. No script of theirs is run.
debian_root() {
    local folder=$1 suite=$2 link package
    shift 2
    [ ! -d "$folder" ] || return 0
    debian_apt
    rm -rf "$folder.new" "$folder.debs"
    mkdir -p "$folder.debs/partial" "$folder.new"/usr/{bin,sbin,lib} "$folder.new"/{proc,sys,dev,tmp,root,etc}
    for link in bin sbin lib; do ln -s "usr/$link" "$folder.new/$link"; done
    apt-get -qq -y -c "$cross/apt/apt.conf" -o APT::Architecture=arm64 -o Dir::Cache::archives="$folder.debs" -t "$suite" \
        --no-install-recommends --download-only install "$@" >"$folder.log" 2>&1 ||
        { cat "$folder.log" >&2; echo "cannot fetch Debian's $* of $suite for arm64" >&2; exit 1; }
    for package in "$folder.debs"/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$folder.new"
    done
    rm -r "$folder.debs"
    mv "$folder.new" "$folder"
}

# What the suite's programs and tests are made of.
SUITE_PACKAGES="g++ libc6-dev python3 sqlite3 git redis-server redis-tools dash coreutils findutils grep sed gawk busybox-static"

# suite KERNEL SUITE [PART..]: one machine with Debian's packages of a suite; parts: commands, programs,
# remote (the tests of commands for other processes), tests (those of rsalloc-core and rsalloc-preload); and, if named, preload (those of
# rsalloc-preload alone) and criu, if the suite has it.
suite() {
    local kernel=${1:-7} release=${2:-bookworm} cpu=${RSALLOC_GUEST_CPU:-neoverse-n1} cpus=${RSALLOC_GUEST_CPUS:-2}
    local root=$cross/suite parts said target=aarch64-unknown-linux-gnu name tests=$cross/tests
    shift $(($# < 2 ? $# : 2))
    parts=${*:-commands programs remote tests}
    for name in $parts; do
        case $name in commands | programs | remote | tests | preload | criu) ;; *) echo "no part $name; there are commands, programs, remote, tests, preload and criu" >&2 && exit 2 ;; esac
    done
    needs qemu-system-aarch64 qemu-system-arm
    needs cpio cpio
    toolchain aarch64
    image_of "$kernel"
    debian_root "$cross/debian-$release" "$release" $SUITE_PACKAGES
    cargo build --quiet --target $target --package rsalloc-preload --release
    aarch64-linux-gnu-gcc -O1 -o "$cross/vectors" xtask/guest/vectors.c
    rm -rf "$tests" && mkdir -p "$tests"
    case " $parts " in *" remote "*) test_programs rsalloc-cli remote ;; esac
    case " $parts " in *" tests "*) test_programs rsalloc-core ;; esac
    case " $parts " in *" tests "* | *" preload "*) test_programs rsalloc-preload ;; esac
    cargo build --quiet --target $target --package rsalloc-cli --bins

    rm -rf "$root" && cp -a "$cross/debian-$release" "$root"
    cp xtask/guest/suite.sh "$root/init"
    cp xtask/guest/programs.sh "$root/programs.sh"
    echo "$PWD" >"$root/source"
    rm -rf "$root"/usr/share/{doc,locale,man,info,bash-completion,lintian,i18n}
    suite_skips >"$root/skipped"
    cp "$cross/vectors" "$root/usr/bin"
    case " $parts " in *" criu "*) suite_criu ;; esac
    ln -sf dash "$root/usr/bin/sh" && ln -sf gcc "$root/usr/bin/cc" && ln -sf g++ "$root/usr/bin/c++"
    printf 'root:x:0:0::/root:/bin/sh\n' >"$root/etc/passwd"
    # The tests know their files by the names that these have here.
    mkdir -p "$root$PWD" "$root$CARGO_TARGET_DIR/$target/tmp" "$root$CARGO_TARGET_DIR/tmp" "$root$CARGO_TARGET_DIR/$target/debug" "$root/tests"
    git ls-files -z alloc-core alloc-preload alloc-global cli docs/misuse.md docs/operate/burst.py Cargo.toml Cargo.lock | xargs -0 cp --parents -t "$root$PWD"
    for name in "$tests"/*; do [ ! -e "$name" ] || aarch64-linux-gnu-strip -g -o "$root/tests/$(basename "$name")" "$name"; done
    aarch64-linux-gnu-strip -g -o "$root$CARGO_TARGET_DIR/$target/debug/rsalloc" "$CARGO_TARGET_DIR/$target/debug/rsalloc"
    cp "$root$CARGO_TARGET_DIR/$target/debug/rsalloc" "$root/usr/bin"
    cp "$CARGO_TARGET_DIR/$target/release/librsalloc_preload.so" "$root/usr/lib/librsalloc.so.0"
    # Tests build the library by cargo: there it is built.
    name=$(rustup which cargo 2>/dev/null || command -v cargo)
    mkdir -p "$root$(dirname "$name")"
    cp xtask/guest/cargo.sh "$root$name" && chmod +x "$root$name" "$root/init"
    (cd "$root" && find . | cpio -o -H newc --quiet) >"$cross/suite.cpio"
    timeout 7200 qemu-system-aarch64 -cpu "$cpu" -machine virt,gic-version=3 -accel tcg,thread=multi -smp "$cpus" \
        -m 4096 -kernel "$image" -initrd "$cross/suite.cpio" -nographic -no-reboot -nodefaults -serial stdio -monitor none \
        -append "console=ttyAMA0 quiet panic=-1 rseq_debug=1 parts=$(tr ' ' , <<<"$parts")" </dev/null |
        stdbuf -oL tr -d "\r" | tee "$cross/suite.log" | grep --line-buffered -E '^(GUEST|RAN|FAULT|SKIPPED|DONE)|^\[.*(BUG|panic)' || true
    said=$(<"$cross/suite.log")
    if grep -q '^FAULT' <<<"$said" || ! grep -q ^DONE <<<"$said"; then
        echo "FAILED: Linux $kernel, Debian $release: $parts; all that it said is in $cross/suite.log" >&2
        return 1
    fi
}

# CRIU, the kernel's modules that it wants, what is dumped, and a library whose sections end before their commit.
suite_criu() {
    local library=$CARGO_TARGET_DIR/$target/release/librsalloc_preload.so modules
    needs depmod kmod
    needs xz xz-utils
    debian_root "$cross/criu-$release" "$release" criu
    cp -a "$cross/criu-$release/." "$root"
    modules=$(find "$cross/linux-$kernel" -type d -path '*/modules/*' -name '[0-9]*' | head -n 1)
    mkdir -p "$root/usr/lib/modules"
    cp -a "$modules" "$root/usr/lib/modules"
    find "$root/usr/lib/modules" -name '*.ko.xz' -exec xz -d {} +
    depmod -b "$root" "$(basename "$modules")"
    aarch64-linux-gnu-gcc -O2 -pthread -o "$root/usr/bin/hammer" xtask/guest/hammer.c
    shorten "$library" "$root/usr/lib/broken.so" all
}

# Tests that are left out, and why: a line each.
suite_skips() {
    cat <<'SKIPS'
rsalloc-core-oom needs the feature faults
rsalloc-core-promises needs the feature faults
SKIPS
}

# test_programs PACKAGE [TEST]: builds the tests of a package to $tests/PACKAGE-TEST.
test_programs() {
    local package=$1 only=${2+--test $2}
    cargo test --quiet --no-run --target $target --package "$package" $only --message-format json |
        sed -n 's/.*"target":{"kind":\["\(lib\|test\)[^]]*\][^}]*"name":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2 \3/p' |
        while read -r kind name file; do
            [ "$kind" = test ] || name=lib
            cp "$file" "$tests/$package-$name"
        done
    ls "$tests/$package"-* >/dev/null || { echo "cargo has named no tests of $package" >&2; exit 1; }
}
