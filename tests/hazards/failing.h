/* Allocation functions that fail on request, and count. They are defined in the
 * program itself, and so replace those of the C library. */
#ifndef FAILING_H
#define FAILING_H

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From this size on allocations count as large. */
static size_t large = SIZE_MAX;
/* How many large ones are still granted before one fails, and whether all
 * after it fail, too. */
static atomic_long granted;
static int and_all_after;
/* What was asked for since the last reset: large ones, bytes in all. */
static atomic_long larges, bytes, refused_ones;

static int fails(size_t size) {
    bytes += (long)size;
    if (size < large)
        return 0;
    larges++;
    long left = granted--;
    if (left > 0 || (left < 0 && !and_all_after))
        return 0;
    refused_ones++;
    return 1;
}

/* The next large allocation but `after` fails. */
static inline void fail(size_t from, long after, int all_after) {
    larges = bytes = refused_ones = 0;
    granted = after;
    and_all_after = all_after;
    large = from;
}

static inline void succeed(void) { large = SIZE_MAX; }

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static void *none(void) {
    errno = ENOMEM;
    return NULL;
}

void *malloc(size_t size) { return fails(size) ? none() : __libc_malloc(size); }

void *calloc(size_t count, size_t size) {
    size_t all;
    if (__builtin_mul_overflow(count, size, &all) || fails(all))
        return none();
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) { return fails(size) ? none() : __libc_realloc(old, size); }

void *memalign(size_t alignment, size_t size) {
    return fails(size) ? none() : __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **out, size_t alignment, size_t size) {
    void *memory = memalign(alignment, size);
    if (!memory)
        return ENOMEM;
    *out = memory;
    return 0;
}

void *mmap64(void *where, size_t size, int protection, int flags, int file, off_t offset) {
    if (fails(size)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, where, size, protection, flags, file, offset);
}

void *mmap(void *where, size_t size, int protection, int flags, int file, off_t offset) {
    return mmap64(where, size, protection, flags, file, offset);
}

#endif
