/* Hooks of CPython's allocator domains, and of its arenas. Part of in_process.c.
 *
 * A domain serves some sizes itself and asks malloc for the others. Its hooks count the former (`0 < size <= split`); the
 * latter are counted by the hooks of malloc. So no block is counted twice and none is missed; who serves what is found out
 * by trying (src/memprof/python.rs). Hooks keep their state in statics and ignore `ctx`: while they are being installed a
 * thread of a free-threaded interpreter may see one field of the old table and one of the new.
 */

/* PyMemAllocatorEx and PyObjectArenaAllocator, which are the same in every version. */
struct spprof_python_allocator {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t count, size_t size);
    void *(*realloc)(void *ctx, void *block, size_t size);
    void (*free)(void *ctx, void *block);
};

struct spprof_arena_allocator {
    void *ctx;
    void *(*alloc)(void *ctx, size_t size);
    void (*free)(void *ctx, void *arena, size_t size);
};

struct spprof_python_domain {
    struct spprof_python_allocator original;
    struct spprof_python_allocator hooked;
    /* Largest size that does not reach malloc. */
    size_t split;
    /* The allocator maps memory itself, by calls that the hooks of mmap see. */
    size_t maps;
};

/* What the front that hooks malloc knows of a thread; NULL when malloc is not hooked. */
static struct spprof_thread *(*malloc_thread)(void);

HOOK_SCOPE void spprof_set_malloc_thread(struct spprof_thread *(*thread)(void))
{
    malloc_thread = thread;
}

static struct spprof_thread *beside(void)
{
    return malloc_thread ? malloc_thread() : &self;
}

static void *domain_malloc(struct spprof_python_domain *domain, size_t size, void *caller)
{
    struct spprof_thread *thread = NULL;
    if (UNLIKELY(domain->maps)) {
        thread = beside();
        thread->inside++;
    }
    void *block = domain->original.malloc(domain->original.ctx, size);
    if (UNLIKELY(thread != NULL))
        thread->inside--;
    if (LIKELY(size <= domain->split))
        count(block, size, SPPROF_PYTHON, caller);
    return block;
}

static void *domain_calloc(struct spprof_python_domain *domain, size_t number, size_t size, void *caller)
{
    struct spprof_thread *thread = NULL;
    if (UNLIKELY(domain->maps)) {
        thread = beside();
        thread->inside++;
    }
    void *block = domain->original.calloc(domain->original.ctx, number, size);
    if (UNLIKELY(thread != NULL))
        thread->inside--;
    if (LIKELY(number * size <= domain->split))
        count(block, number * size, SPPROF_PYTHON, caller);
    return block;
}

static void domain_free(struct spprof_python_domain *domain, void *block)
{
    forget(block);
    domain->original.free(domain->original.ctx, block);
}

/* A block that grows beyond the split is counted by malloc, which is asked for it. One that shrinks below it may stay where
 * malloc had put it, and then realloc has counted it: seen by its countdown, which went down by just that size, or by
 * the sample that was taken. */
static void *domain_realloc(struct spprof_python_domain *domain, void *block, size_t size, void *caller)
{
    uint64_t sample = take(block);
    struct spprof_thread *thread = beside();
    int64_t left = thread->left;
    thread->inside += domain->maps != 0;
    void *moved = domain->original.realloc(domain->original.ctx, block, size);
    thread->inside -= domain->maps != 0;
    settle(sample, block, moved != NULL);
    if (!moved || size > domain->split)
        return moved;
    if (UNLIKELY(thread->left != left)) {
        const struct spprof_hooks *hooks = attached();
        if (left - thread->left == (int64_t)size || (hooks && hooks->knows(moved)))
            return moved;
    }
    count(moved, size, SPPROF_PYTHON, caller);
    return moved;
}

#define DOMAIN(name)                                                                                       \
    static struct spprof_python_domain name;                                                               \
    static void *name##_malloc(void *ctx, size_t size)                                                     \
    {                                                                                                      \
        (void)ctx;                                                                                         \
        return domain_malloc(&name, size, CALLER);                                                         \
    }                                                                                                      \
    static void *name##_calloc(void *ctx, size_t number, size_t size)                                      \
    {                                                                                                      \
        (void)ctx;                                                                                         \
        return domain_calloc(&name, number, size, CALLER);                                                 \
    }                                                                                                      \
    static void *name##_realloc(void *ctx, void *block, size_t size)                                       \
    {                                                                                                      \
        (void)ctx;                                                                                         \
        return domain_realloc(&name, block, size, CALLER);                                                 \
    }                                                                                                      \
    static void name##_free(void *ctx, void *block)                                                        \
    {                                                                                                      \
        (void)ctx;                                                                                         \
        domain_free(&name, block);                                                                         \
    }                                                                                                      \
    static struct spprof_python_domain name = {                                                            \
        .hooked = {NULL, name##_malloc, name##_calloc, name##_realloc, name##_free},                       \
    };

DOMAIN(domain_raw)
DOMAIN(domain_mem)
DOMAIN(domain_object)

/* In the order of PyMemAllocatorDomain. */
HOOK_SCOPE struct spprof_python_domain *spprof_python_domain(unsigned index)
{
    static struct spprof_python_domain *const domains[] = {&domain_raw, &domain_mem, &domain_object};
    return index < sizeof domains / sizeof *domains ? domains[index] : NULL;
}

static struct spprof_arena_allocator arena_original;

static void arena_changed(int64_t bytes)
{
    const struct spprof_hooks *hooks = attached();
    if (hooks)
        hooks->on_arena(bytes);
}

static void *arena_alloc(void *ctx, size_t size)
{
    (void)ctx;
    struct spprof_thread *thread = beside();
    thread->inside++;
    void *arena = arena_original.alloc(arena_original.ctx, size);
    thread->inside--;
    if (arena)
        arena_changed((int64_t)size);
    return arena;
}

static void arena_free(void *ctx, void *arena, size_t size)
{
    (void)ctx;
    arena_original.free(arena_original.ctx, arena, size);
    arena_changed(-(int64_t)size);
}

/* The hooks of the arenas, and where the originals are kept. */
HOOK_SCOPE struct spprof_arena_allocator *spprof_python_arena(struct spprof_arena_allocator *hooked)
{
    *hooked = (struct spprof_arena_allocator){NULL, arena_alloc, arena_free};
    return &arena_original;
}
