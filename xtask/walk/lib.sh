# Read by each way. INSTALLED has bin/rsalloc and lib/librsalloc.so, REPOSITORY is the checkout.

# refused STATUS COMMAND ..: it must end with that status, and say why in one line, which is left in the file `said`.
refused() {
    local wanted=$1 status=0
    shift
    "$@" 2>said >/dev/null || status=$?
    cat said
    [ "$status" = "$wanted" ] && [ "$(wc -l <said)" = 1 ]
}
