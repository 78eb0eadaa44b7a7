# rsalloc(1) says what works: the page is written, and each line of its examples runs.
rsalloc generate usr
page=usr/share/man/man1/rsalloc.1
sed -n '/^\.SH EXAMPLES/,/^\.SH "*SEE/p' "$page" | sed -n 's/^\\fB\(rsalloc .*\)\\fR$/\1/p' | sed 's/\\-/-/g' >lines
[ "$(wc -l <lines)" = 4 ] || { cat "$page"; exit 1; }
while read -r line; do
    status=0
    sh -euc "$line" </dev/null || status=$?
    # check says 1 on the atomic path.
    case $line in *check*) [ "$status" -le 1 ] ;; *) [ "$status" = 0 ] ;; esac
done <lines
[ -s heap.pb.gz ]
