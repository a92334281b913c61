/* The bodies of the hooks, for both fronts: HOOK_NAME(f) is what the hook of f is called, REAL(f) what it passes on to,
 * HOOK_SYMBOL(f) the name it has in the object file.
 *
 * Included, not compiled by itself. A hook keeps errno as the real function left it, and counts what succeeded only.
 */
#define HOOK(result, name, parameters, arguments) HOOK_SCOPE result HOOK_NAME(name) parameters HOOK_SYMBOL(name);
#include "hooks.def"
#undef HOOK

HOOK_SCOPE void *HOOK_NAME(malloc)(size_t size)
{
    void *block = REAL(malloc)(size);
    count(block, size, SPPROF_MALLOC, CALLER);
    return block;
}

HOOK_SCOPE void *HOOK_NAME(calloc)(size_t number, size_t size)
{
    void *block = REAL(calloc)(number, size);
    count(block, number * size, SPPROF_MALLOC, CALLER);
    return block;
}

HOOK_SCOPE void HOOK_NAME(free)(void *block)
{
    EARLY_FREE(block);
    forget(block);
    REAL(free)(block);
}

/* The old block's sample is taken away before the call: once the real realloc has freed the block, its address may turn up
 * in another thread. If the call fails the block lives on, and so does its sample. */
HOOK_SCOPE void *HOOK_NAME(realloc)(void *block, size_t size)
{
    EARLY_REALLOC(block, size);
    uint64_t sample = take(block);
    void *moved = REAL(realloc)(block, size);
    settle(sample, block, moved || size == 0);
    count(moved, size, SPPROF_MALLOC, CALLER);
    return moved;
}

HOOK_SCOPE void *HOOK_NAME(reallocarray)(void *block, size_t number, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(number, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    EARLY_REALLOC(block, bytes);
    uint64_t sample = take(block);
    void *moved = REAL(realloc)(block, bytes);
    settle(sample, block, moved || bytes == 0);
    count(moved, bytes, SPPROF_MALLOC, CALLER);
    return moved;
}

HOOK_SCOPE int HOOK_NAME(posix_memalign)(void **result, size_t alignment, size_t size)
{
    int error = REAL(posix_memalign)(result, alignment, size);
    if (!error)
        count(*result, size, SPPROF_MALLOC, CALLER);
    return error;
}

HOOK_SCOPE void *HOOK_NAME(aligned_alloc)(size_t alignment, size_t size)
{
    void *block = REAL(aligned_alloc)(alignment, size);
    count(block, size, SPPROF_MALLOC, CALLER);
    return block;
}

HOOK_SCOPE void *HOOK_NAME(memalign)(size_t alignment, size_t size)
{
    void *block = REAL(memalign)(alignment, size);
    count(block, size, SPPROF_MALLOC, CALLER);
    return block;
}

HOOK_SCOPE void *HOOK_NAME(valloc)(size_t size)
{
    void *block = REAL(valloc)(size);
    count(block, size, SPPROF_MALLOC, CALLER);
    return block;
}

HOOK_SCOPE void *HOOK_NAME(pvalloc)(size_t size)
{
    void *block = REAL(pvalloc)(size);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    count(block, (size + page - 1) & ~(page - 1), SPPROF_MALLOC, CALLER);
    return block;
}

static void unmapping(void *start, size_t length)
{
    const struct spprof_hooks *hooks = attached();
    if (hooks)
        hooks->on_unmap(start, length);
}

/* Memory of the program's own: anonymous, usable at once, and not made by an allocator whose blocks are counted. */
static int is_counted_mapping(int protection, int flags, const void *caller)
{
    return (flags & MAP_ANONYMOUS) && protection != PROT_NONE && !self.inside && !is_allocators(caller);
}

HOOK_SCOPE void *HOOK_NAME(mmap)(void *where, size_t length, int protection, int flags, int fd, off_t offset)
{
    void *start = REAL(mmap)(where, length, protection, flags, fd, offset);
    if (start == MAP_FAILED)
        return start;
    if (flags & MAP_FIXED)
        unmapping(start, length);
    if (is_counted_mapping(protection, flags, CALLER))
        count(start, length, SPPROF_MMAP, CALLER);
    return start;
}

HOOK_SCOPE int HOOK_NAME(munmap)(void *start, size_t length)
{
    unmapping(start, length);
    return REAL(munmap)(start, length);
}

HOOK_SCOPE void *HOOK_NAME(mremap)(void *start, size_t length, size_t new_length, int flags, void *where)
{
    uint64_t sample = take(start);
    void *moved = REAL(mremap)(start, length, new_length, flags, where);
    settle(sample, start, moved != MAP_FAILED);
    if (sample && moved != MAP_FAILED)
        count(moved, new_length, SPPROF_MMAP, CALLER);
    return moved;
}
