# Read by each way. INSTALLED has bin/rsalloc and lib/librsalloc.so.0, REPOSITORY is the checkout, TARGET its target folder.

# The trace of `set -x` is not in what commands say.
exec 9>&2
BASH_XTRACEFD=9

# refused STATUS COMMAND ..: it must end with that status, and say why in one line, which is left in the file `said`.
refused() {
    local wanted=$1 status=0
    shift
    "$@" 2>said >/dev/null || status=$?
    cat said
    [ "$status" = "$wanted" ] && [ "$(wc -l <said)" = 1 ]
}
