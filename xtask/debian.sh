# For scripts that source it: Debian's packages and sources, fetched by apt with a state of its own in a folder, and never installed; and
# programs of this machine, which root gets installed.

# A command that fails within $( ) ends the script, too.
shopt -s inherit_errexit

# needs PROGRAM PACKAGE..
needs() {
    local program=$1 apt="apt-get -qq -y -o DPkg::Lock::Timeout=300"
    shift
    command -v "$program" >/dev/null && return
    if [ "$(id -u)" = 0 ]; then
        export DEBIAN_FRONTEND=noninteractive
        { $apt update && $apt install --no-install-recommends "$@"; } >/dev/null || true
        command -v "$program" >/dev/null && return
    fi
    echo "no $program; run as root: apt-get install $*" >&2
    exit 1
}

# apt_state FOLDER KIND SUITE..: KIND is deb or deb-src; SUITE may name architectures other than this machine's, as in amd64,arm64:sid.
# Other suites than last time make it anew.
apt_state() {
    local folder=$1 kind=$2 suite list all=
    shift 2
    list=$(for suite in "$@"; do
        echo "$kind [$(sed -n 's/^\(.*\):.*/arch=\1 /p' <<<"$suite")signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
            "http://deb.debian.org/debian ${suite##*:} main"
    done)
    [ ! -e "$folder/apt.conf" ] || [ "$(<"$folder/sources.list")" != "$list" ] || return 0
    rm -f "$folder/apt.conf"
    mkdir -p "$folder"/{state/lists/partial,cache/archives/partial,etc/apt/preferences.d}
    : >"$folder/status"
    echo "$list" >"$folder/sources.list"
    printf '%s "%s";\n' Dir "$folder" Dir::State "$folder/state" Dir::State::status "$folder/status" Dir::Cache "$folder/cache" \
        Dir::Etc::sourcelist "$folder/sources.list" Dir::Etc::sourceparts - Dir::Etc::preferencesparts "$folder/etc/apt/preferences.d" \
        Acquire::Check-Valid-Until false Acquire::Languages none APT::Sandbox::User root >"$folder/apt.conf.new"
    for suite in "$(dpkg --print-architecture)" "$@"; do
        case $suite in *:*) all+=,${suite%:*} ;; *) [ -n "$all" ] || all=$suite ;; esac
    done
    echo "APT::Architectures {$(tr ',' '\n' <<<"$all" | awk '!seen[$0]++ { printf "\"%s\"; ", $0 }')};" >>"$folder/apt.conf.new"
    apt-get -qq -c "$folder/apt.conf.new" update ||
        { echo "cannot read Debian's package lists from deb.debian.org: $*" >&2; exit 1; }
    mv "$folder/apt.conf.new" "$folder/apt.conf"
}

# unpack_debs STATE FOLDER PACKAGE..: once.
unpack_debs() {
    local state=$1 folder=$2 package
    shift 2
    [ ! -d "$folder" ] || return 0
    rm -rf "$folder.debs" "$folder.new"
    mkdir -p "$folder.debs"
    (cd "$folder.debs" && apt-get -qq -c "$state/apt.conf" download "$@") ||
        { echo "cannot fetch from deb.debian.org: $*; if Debian has newer ones, remove $state/apt.conf" >&2; exit 1; }
    for package in "$folder".debs/*.deb; do dpkg -x "$package" "$folder.new"; done
    rm -r "$folder.debs"
    mv "$folder.new" "$folder"
}

# may_fail COMMAND..: goes on behind a command that fails, and sets `failed`. The command runs in a shell of its own, which ends where
# something in it fails; behind `COMMAND ||` it would go on. May not stand in a condition itself.
may_fail() {
    local status
    set +e
    (set -e; "$@")
    status=$?
    set -e
    [ $status = 0 ] || failed=1
}

# misses_library COMMAND..: the control of xtask/guest/libc.c, which without librsalloc.so must say that it does not find what it is to use.
misses_library() {
    local said
    if said=$("$@" 2>&1) || ! grep -q "check && release_all" <<<"$said"; then
        echo "FAILED: the program does not miss the library: $said" >&2
        exit 1
    fi
}

# says WANTED COMMAND..: the output of a command, which must end well and say what is wanted.
says() {
    local wanted=$1 said
    shift
    said=$("$@" 2>&1) || { echo "FAILED: $*: $said" >&2; exit 1; }
    grep -q -- "$wanted" <<<"$said" || { echo "FAILED: $* says not \"$wanted\": $said" >&2; exit 1; }
}
