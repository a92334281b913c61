/* The fast half of a front: the countdown, and the check before a free. Included once by each front.
 *
 * Runs inside malloc, in any thread and in signal handlers: no allocation, no lock, no lazily made thread-local storage.
 */
#ifndef SPPROF_FRONT_H
#define SPPROF_FRONT_H

#include <link.h>

#include "spprof_alloc.h"

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define COLD __attribute__((noinline, cold))
#define CALLER __builtin_return_address(0)

static __thread struct spprof_thread self __attribute__((tls_model("initial-exec")));

static struct spprof_thread *this_thread(void)
{
    return &self;
}

static struct spprof_control control = {
    .abi = SPPROF_ALLOC_ABI,
    .size = sizeof(struct spprof_control),
    .thread = this_thread,
};

static inline const struct spprof_hooks *attached(void)
{
    return atomic_load_explicit(&control.hooks, memory_order_acquire);
}

COLD static void count_slowly(void *block, size_t size, uint32_t domain, void *caller)
{
    const struct spprof_hooks *hooks = attached();
    if (hooks) {
        hooks->on_alloc(&self, block, size, domain, caller);
    } else {
        self.generation = atomic_load_explicit(&control.generation, memory_order_relaxed);
        self.left = INT64_MAX;
    }
}

/* A block of `size` bytes came into being; NULL is an allocation that failed. */
static inline void count(void *block, size_t size, uint32_t domain, void *caller)
{
    if (UNLIKELY(!block))
        return;
    self.left -= (int64_t)size;
    uint64_t generation = atomic_load_explicit(&control.generation, memory_order_relaxed);
    if (UNLIKELY((self.left < 0) | (self.generation != generation)))
        count_slowly(block, size, domain, caller);
}

/* False for a block that is certainly not sampled. */
static inline int maybe_sampled(const void *block)
{
    _Atomic(uint8_t) *filter = atomic_load_explicit(&control.filter, memory_order_acquire);
    return filter && atomic_load_explicit(&filter[spprof_filter_slot(block)], memory_order_relaxed) != 0;
}

COLD static void forget_slowly(void *block)
{
    const struct spprof_hooks *hooks = attached();
    if (hooks)
        hooks->on_free(block);
}

/* Before the real free: afterwards the address may already be another thread's. */
static inline void forget(void *block)
{
    if (UNLIKELY(maybe_sampled(block)))
        forget_slowly(block);
}

/* Before a call that may free `block`: its sample or 0. */
static inline uint64_t take(void *block)
{
    if (LIKELY(!maybe_sampled(block)))
        return 0;
    const struct spprof_hooks *hooks = attached();
    return hooks ? hooks->take(block) : 0;
}

/* After it: was it freed? */
static inline void settle(uint64_t sample, void *block, int freed)
{
    if (LIKELY(!sample))
        return;
    const struct spprof_hooks *hooks = attached();
    if (freed)
        hooks->drop(sample);
    else
        hooks->give_back(sample, block);
}

/* Where the object that holds the real malloc lies: what it maps becomes blocks, which are counted. */
static _Atomic(uintptr_t) allocator_start, allocator_end;

static inline int is_allocators(const void *caller)
{
    uintptr_t start = atomic_load_explicit(&allocator_start, memory_order_relaxed);
    return (uintptr_t)caller - start < atomic_load_explicit(&allocator_end, memory_order_relaxed) - start;
}

static int look_for_allocator(struct dl_phdr_info *object, size_t size, void *function)
{
    (void)size;
    uintptr_t start = UINTPTR_MAX, end = 0;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &object->dlpi_phdr[i];
        if (header->p_type != PT_LOAD)
            continue;
        uintptr_t from = object->dlpi_addr + header->p_vaddr;
        start = from < start ? from : start;
        end = from + header->p_memsz > end ? from + header->p_memsz : end;
    }
    if ((uintptr_t)function < start || (uintptr_t)function >= end)
        return 0;
    atomic_store(&allocator_start, start);
    atomic_store(&allocator_end, end);
    return 1;
}

/* Outside of all hooks: takes the linker's lock. */
static void note_allocator(void *real_malloc)
{
    dl_iterate_phdr(look_for_allocator, real_malloc);
}

#endif
