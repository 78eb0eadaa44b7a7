# A researcher: the rows, a wrong name, one row against two peers, an allocator of one's own.
. "$REPOSITORY/xtask/walk/lib.sh"
here=$PWD
export CARGO_TARGET_DIR="$TARGET"
cd "$REPOSITORY"
lab() { cargo --quiet lab compare "$@"; }

lab --list | grep -x churn-512 >/dev/null
lab --list --programs | grep redis >/dev/null
for wrong in "--rows no-such-row" "--peers no-such-peer" "--rounds 0"; do
    begin=$(date +%s)
    (cd "$REPOSITORY" && ! lab $wrong) >"$here/said" 2>&1
    [ $(($(date +%s) - begin)) -le 10 ]   # refused before anything is built
    cat "$here/said"
done

cat >"$here/mine.c" <<'END'
/* An allocator of one's own: glibc's, and it counts. */
#include <stddef.h>
void *__libc_malloc(size_t size);
void __libc_free(void *object);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *object, size_t size);
size_t calls;
void *malloc(size_t size) { calls++; return __libc_malloc(size); }
void free(void *object) { __libc_free(object); }
void *calloc(size_t count, size_t size) { calls++; return __libc_calloc(count, size); }
void *realloc(void *object, size_t size) { calls++; return __libc_realloc(object, size); }
END
cc -O2 -fno-builtin -fPIC -shared -o "$here/mine.so" "$here/mine.c"
lab --rows same-64 --peers "rsalloc,glibc,mine=$here/mine.so" --rounds 1 --seconds 0.05 | tee "$here/table"
grep -q '^| same-64 | malloc+free | [0-9.]* | \**[0-9.]*\** | \**[0-9.]*\** |' "$here/table"
