# An SRE: a container with a read-only root, a user that is not root, and no capability at all.
. "$REPOSITORY/xtask/walk/lib.sh"
if [ "${1:-}" != inside ]; then
    mkdir root
    exec unshare --mount --pid --fork --kill-child bash -eux -o pipefail "$0" inside
fi

mount -t tmpfs none root
mkdir -p root/usr root/opt/bin root/opt/lib root/proc root/dev root/etc
for link in bin lib lib64 sbin; do [ -L "/$link" ] && ln -s "usr/$link" "root/$link"; done
cp "$INSTALLED/bin/rsalloc" root/opt/bin/
cp -P "$INSTALLED"/lib/* root/opt/lib/
mount --bind -o ro /usr root/usr
mount -t proc none root/proc
touch root/dev/null && mount --bind /dev/null root/dev/null
mount -o remount,ro root

# inside COMMANDS VARIABLE=VALUE ..: as that user, with these variables, as image and unit set them.
inside() {
    chroot root setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all \
        env -i PATH=/opt/bin:/usr/bin "${@:2}" sh -euc "$1"
}
limited=(LD_PRELOAD=/opt/lib/librsalloc.so.0 RSALLOC_CONF=limit:auto)

if inside 'touch /opt/file' 2>/dev/null; then exit 1; fi
inside 'rsalloc check || [ $? = 1 ]'
inside 'rsalloc check $$ || [ $? = 1 ]' "${limited[@]}"
inside 'rsalloc conf $$ | grep limit' "${limited[@]}" | grep auto >/dev/null
# A process of the same user can be read; what has no right to be read is refused in a line.
inside 'rsalloc stats $$' "${limited[@]}" | grep '^mapped ' >/dev/null
refused 3 inside 'exec rsalloc stats 1'
# Without any right to trace: the program's own statistics, and those of a program that the command starts.
inside 'rsalloc stats -- sort /usr/bin/ldd >/dev/null'
inside 'exec python3 -c pass' "${limited[@]}" RSALLOC_CONF=stats_at_exit:json 2>&1 | grep '"live_bytes"' >/dev/null
# Nothing can be written, which is said in a line.
refused 3 inside 'rsalloc report $$ -o /report.html' "${limited[@]}"
grep -i 'read-only' said
inside 'rsalloc metrics $$' "${limited[@]}" | grep '^rsalloc_live_bytes' >/dev/null
