# For scripts that source it: Debian's packages and sources, fetched by apt with a state of its own in a folder, and never installed.

needs() {
    command -v "$1" >/dev/null || { echo "no $1; run as root: apt-get install $2" >&2; exit 1; }
}

# apt_state FOLDER KIND SUITE..: KIND is deb or deb-src.
apt_state() {
    local folder=$1 kind=$2 suite
    shift 2
    [ ! -e "$folder/apt.conf" ] || return 0
    mkdir -p "$folder"/{state/lists/partial,cache/archives/partial,etc/apt/preferences.d}
    : >"$folder/status"
    for suite in "$@"; do
        echo "$kind [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main"
    done >"$folder/sources.list"
    printf '%s "%s";\n' Dir "$folder" Dir::State "$folder/state" Dir::State::status "$folder/status" Dir::Cache "$folder/cache" \
        Dir::Etc::sourcelist "$folder/sources.list" Dir::Etc::sourceparts - Acquire::Check-Valid-Until false \
        APT::Sandbox::User root >"$folder/apt.conf.new"
    apt-get -qq -c "$folder/apt.conf.new" update
    mv "$folder/apt.conf.new" "$folder/apt.conf"
}

# unpack_debs STATE FOLDER PACKAGE..: once.
unpack_debs() {
    local state=$1 folder=$2 package
    shift 2
    [ ! -d "$folder" ] || return 0
    rm -rf "$folder.debs" "$folder.new"
    mkdir -p "$folder.debs"
    (cd "$folder.debs" && apt-get -qq -c "$state/apt.conf" download "$@")
    for package in "$folder".debs/*.deb; do dpkg -x "$package" "$folder.new"; done
    rm -r "$folder.debs"
    mv "$folder.new" "$folder"
}

# says WANTED COMMAND..: the output of a command, which must end well and say what is wanted.
says() {
    local wanted=$1 said
    shift
    said=$("$@" 2>&1) || { echo "FAILED: $*: $said" >&2; exit 1; }
    grep -q -- "$wanted" <<<"$said" || { echo "FAILED: $* says not \"$wanted\": $said" >&2; exit 1; }
}
