/* rsalloc.h - what a C or C++ program asks rsalloc, beside malloc(3) and its family. See librsalloc(3).
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Link with -lrsalloc (`pkg-config --cflags --libs rsalloc`): the program is then served by rsalloc. A program that only
 * asks if it happens to be preloaded defines RSALLOC_WEAK before it includes this file, links nothing, and compares a
 * function with NULL before it calls it.
 *
 * All functions may be called by any thread at any time, allocate nothing and keep errno. Those marked [signal] may be
 * called in a signal handler.
 *
 * Versions: all that stands here stays as it is while the library is librsalloc.so.0. Functions and fields are added, fields
 * at the end of their structure; symbol versions (RSALLOC_0.1) name the release that brought them.
 */
#ifndef RSALLOC_H
#define RSALLOC_H

#include <stddef.h>

/* The version of this file. */
#define RSALLOC_VERSION_MAJOR 0
#define RSALLOC_VERSION_MINOR 1
#define RSALLOC_VERSION_PATCH 0
#define RSALLOC_VERSION "0.1.0"

#ifdef RSALLOC_WEAK
#define RSALLOC_API __attribute__((weak))
#else
#define RSALLOC_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The library's version, as RSALLOC_VERSION. [signal] */
RSALLOC_API const char *rsalloc_version(void);

/* 1 if the caches are per CPU, by restartable sequences; 0 on the atomic path. [signal] */
RSALLOC_API int rsalloc_is_per_cpu(void);

/* What the allocator holds, in bytes and counts. While other threads work, each number is right for some instant. */
struct rsalloc_stats {
    size_t mapped_bytes;         /* mapped from the OS for objects */
    size_t metadata_bytes;       /* allocator metadata that is mapped */
    size_t live_bytes;           /* in objects that the program holds (object sizes, not requested sizes) */
    size_t large_bytes;          /* of these, in large spans (above the largest size class) */
    size_t large_count;          /* large spans that the program holds */
    size_t cached_bytes;         /* in objects cached in shards and depot */
    size_t slab_free_bytes;      /* in free objects inside slabs */
    size_t dirty_bytes;          /* in free spans that may still be resident */
    size_t purged_bytes_total;   /* returned to the OS since the start */
    size_t refills;              /* slow-path entries: refills of a shard's cache */
    size_t flushes;              /* slow-path entries: flushes of a shard's cache */
    size_t aborts;               /* sections that the kernel aborted, as far as the retry paths saw */
    size_t atomic_ops;           /* slow-path operations of the atomic path */
    size_t huge_bytes;           /* in huge objects (above 32 MiB); part of the large ones */
    size_t huge_count;           /* huge objects that the program holds */
    size_t shard_cached_bytes;   /* of the cached bytes, those in shards */
    size_t depot_cached_bytes;   /* of the cached bytes, those in the depot */
    size_t slab_bytes;           /* of slabs, whatever is in them */
    size_t slab_tail_bytes;      /* of the slabs, at their ends, where no object fits */
    size_t clean_bytes;          /* in free spans that are not resident */
    size_t guarded_bytes;        /* in sampled objects between guard pages */
    size_t guarded_count;        /* number of those */
    size_t held_peak_bytes;      /* the most that slabs and large objects took at once */
    size_t touched_peak_bytes;   /* the most of slabs, large objects and free spans that may have been resident at once */
    size_t huge_peak_bytes;      /* the most of huge objects at once */
    size_t sampled_bytes;        /* of the live bytes, those in small objects that a heap profile sampled */
    size_t sampled_count;        /* number of those */
    size_t sampled_free_bytes;   /* of the mapped bytes, those kept for such objects and free */
    size_t limit_bytes;          /* what the setting limit leaves the heap; 0 without it */
    size_t limit_hard_bytes;     /* the same of limit_hard */
    size_t limited_bytes;        /* what is compared with the limits */
    size_t container_limit_bytes; /* what the container allows, as it was last read; 0 if that is not asked */
    size_t refilled_objects;     /* objects that caches got from the tiers below */
    size_t flushed_objects;      /* objects that caches gave back to them */
};

/* Fills in *stats, of which the caller knows `bytes` bytes: sizeof(struct rsalloc_stats). Fields that the library does not
 * know are 0. Returns the bytes that it knows, which may be more. [signal] */
RSALLOC_API size_t rsalloc_read_stats(struct rsalloc_stats *stats, size_t bytes);

/* Formats of rsalloc_print_stats. */
#define RSALLOC_TEXT 0
#define RSALLOC_JSON 1
#define RSALLOC_PROMETHEUS 2
#define RSALLOC_OPENMETRICS 3

/* Writes mode and statistics to a file descriptor. Returns 0, or EINVAL for an unknown format. [signal] */
RSALLOC_API int rsalloc_print_stats(int fd, int format);

/* Gives all cached and free memory back to the OS. Returns the number of bytes. [signal] */
RSALLOC_API size_t rsalloc_release(void);

/* Validates the whole heap. Returns 0 if it is sound, 1 if not. Other threads are kept from their caches meanwhile: it is
 * for tests and debuggers. */
RSALLOC_API int rsalloc_check(void);

/* Starts a sampled heap profile, with one sample in so many allocated bytes on average; 0: 512 KiB. `rsalloc profile PID`
 * reads it while it runs. Returns 0, or EALREADY (one runs), EINVAL (below 256 bytes or above 1 GiB), ENOMEM, EBUSY. [signal] */
RSALLOC_API int rsalloc_profile_start(size_t interval_bytes);

/* Stops it; what was recorded stays until the next start. Returns 0, or ESRCH (none runs), EBUSY. [signal] */
RSALLOC_API int rsalloc_profile_stop(void);

/* Changes a setting, written "key:value" as in RSALLOC_CONF. Returns 0, or ENOENT (no such key), EINVAL (no such value),
 * EPERM (takes effect at the start only), EACCES (RSALLOC_CONF or `rsalloc set` says otherwise), ENOMEM, EBUSY,
 * ENOSYS (a build without what obeys the key). [signal] */
RSALLOC_API int rsalloc_set(const char *setting);

/* Writes the effective value of a setting as a string of at most `bytes` bytes, the zero included. Returns the length of the
 * whole value, or -1 if there is no such key. [signal] */
RSALLOC_API int rsalloc_get(const char *key, char *value, size_t bytes);

/* Writes a line for each setting to a file descriptor: key, value, origin and what it does, with tabs between. [signal] */
RSALLOC_API void rsalloc_print_settings(int fd);

#ifdef __cplusplus
}
#endif

#endif
