/* The contract between the hooks of an allocator (C) and the heap profiler (Rust, src/heap/abi.rs).
 *
 * A front is a set of hooks with a countdown of its own in thread-local storage: the preloaded library is one, the hooks
 * that the extension itself puts into a running process are another. A front works without anybody attached to it: then it
 * passes every call on. Both sides assert the sizes; `abi` is checked when the two meet.
 */
#ifndef SPPROF_ALLOC_H
#define SPPROF_ALLOC_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define SPPROF_ALLOC_ABI 1

/* Who was asked for the memory. */
enum spprof_domain {
    SPPROF_MALLOC = 0, /* malloc and its relatives */
    SPPROF_PYTHON = 1, /* CPython's own allocator, which malloc does not see */
    SPPROF_MMAP = 2,   /* anonymous mappings that the program made itself */
};

/* What a front knows of one thread. All zero is a thread that was not seen before. */
struct spprof_thread {
    int64_t left;        /* bytes to allocate until the next sample; below zero: due */
    uint64_t generation; /* of the settings by which `left` was drawn */
    uint64_t rate;       /* mean distance of two samples in bytes, by which `left` was drawn */
    uint64_t random;     /* state of the random numbers; 0: not seeded yet */
    uint32_t inside;     /* not 0: an allocator is at work, its mappings are not the program's */
    uint32_t watching;   /* not 0: blocks are not counted, only noted in `seen` */
    void *seen;
};

/* The slow half of the hooks. Every function may be called at any time, in any thread, in a signal handler too. */
struct spprof_hooks {
    /* A block exists. `caller`: the return address of the hook. */
    void (*on_alloc)(struct spprof_thread *, void *block, size_t size, uint32_t domain, void *caller);
    /* A block is about to be freed. */
    void (*on_free)(void *block);
    /* A block may be about to be freed: its sample, or 0. It ends in `drop` or comes back by `give_back`. */
    uint64_t (*take)(void *block);
    void (*drop)(uint64_t sample);
    void (*give_back)(uint64_t sample, void *block);
    /* Whether the block is sampled. */
    int (*knows)(void *block);
    /* A range of address space is about to lose what is mapped there. */
    void (*on_unmap)(void *start, size_t length);
    /* CPython's arenas grew or shrank. */
    void (*on_arena)(int64_t bytes);
};

/* One a front. */
struct spprof_control {
    uint32_t abi;
    uint32_t size; /* of this structure */
    _Atomic(uint64_t) generation;
    /* SPPROF_FILTER_SIZE counters; a block whose counter is 0 is not sampled. NULL: no block is. */
    _Atomic(_Atomic(uint8_t) *) filter;
    _Atomic(const struct spprof_hooks *) hooks;
    /* What the front knows of the calling thread. */
    struct spprof_thread *(*thread)(void);
};

_Static_assert(sizeof(struct spprof_thread) == 48, "src/heap/abi.rs");
_Static_assert(sizeof(struct spprof_hooks) == 64, "src/heap/abi.rs");
_Static_assert(sizeof(struct spprof_control) == 40, "src/heap/abi.rs");

#define SPPROF_FILTER_LINES_LOG2 10
#define SPPROF_FILTER_SIZE ((size_t)64 << SPPROF_FILTER_LINES_LOG2)

/* The counter of a block. Blocks of one page share a cache line of counters: what is close in the program is close here. */
static inline size_t spprof_filter_slot(const void *block)
{
    uintptr_t address = (uintptr_t)block;
    uint64_t line = ((uint64_t)(address >> 12) * 0x9e3779b97f4a7c15u) >> (64 - SPPROF_FILTER_LINES_LOG2);
    return (size_t)(line << 6 | (((address >> 4) ^ (address >> 10)) & 63));
}

#endif
