#include <rsalloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(void)
{
    struct rsalloc_stats stats;
    char dirty[32];

    if (rsalloc_set("dirty:4m") != 0)           /* unless RSALLOC_CONF says otherwise */
        rsalloc_get("dirty", dirty, sizeof dirty);

    void *object = malloc(100 << 20);
    rsalloc_read_stats(&stats, sizeof stats);
    printf("rsalloc %s, %s: %zu of %zu bytes in use\n", rsalloc_version(),
           rsalloc_is_per_cpu() ? "per CPU" : "atomic path", stats.live_bytes,
           stats.mapped_bytes);

    free(object);
    printf("%zu bytes given back\n", rsalloc_release());
    fflush(stdout);
    rsalloc_print_stats(STDOUT_FILENO, RSALLOC_JSON);
    return rsalloc_check();                      /* 0: the heap is sound */
}
