/* libspprof_alloc.so: hooks for LD_PRELOAD. Needs neither Python nor Rust: until somebody attaches, every call is passed on.
 *
 * Hooked before main and before constructors ran, so the first call finds the real functions. Finding them may itself
 * allocate (dlsym keeps its errors on the heap): such blocks come from a small static area and are never given back.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "front.h"

#define HOOK_SCOPE __attribute__((visibility("default")))
/* In C they have names of their own: mremap is variadic in the system's header, and `malloc` is known to the compiler. */
#define HOOK_NAME(name) hook_##name
#define HOOK_SYMBOL(name) __asm__(#name)
#define REAL(name) real_##name

/* By this the extension finds us; the name changes when the contract does in a way that `abi` cannot tell. */
HOOK_SCOPE struct spprof_control *spprof_alloc_attach(uint32_t abi)
{
    return abi == SPPROF_ALLOC_ABI ? &control : NULL;
}

static _Alignas(64) char early_area[1 << 16];
static _Atomic(size_t) early_used;

static int is_early(const void *block)
{
    return (size_t)((const char *)block - early_area) < sizeof early_area;
}

static void *early_alloc(size_t size)
{
    /* In front of each block, its size; both in steps that keep any alignment an early caller asks for. */
    size_t step = (size + 2 * 64 - 1) & ~(size_t)63;
    size_t at = size < sizeof early_area ? atomic_fetch_add(&early_used, step) : sizeof early_area;
    if (at + step > sizeof early_area) {
        errno = ENOMEM;
        return NULL;
    }
    memcpy(early_area + at, &size, sizeof size);
    return early_area + at + 64;
}

static size_t early_size(const void *block)
{
    size_t size;
    memcpy(&size, (const char *)block - 64, sizeof size);
    return size;
}

#define HOOK(result, name, parameters, arguments) static result first_##name parameters;
#include "hooks.def"
#undef HOOK
#define HOOK(result, name, parameters, arguments) static result(*real_##name) parameters = first_##name;
#include "hooks.def"
#undef HOOK

static void *early_moved(void *block, size_t size)
{
    void *copy = real_malloc(size);
    size_t old = early_size(block);
    if (copy)
        memcpy(copy, block, old < size ? old : size);
    return copy;
}

#define EARLY_FREE(block)            \
    do {                             \
        if (UNLIKELY(is_early(block))) \
            return;                  \
    } while (0)
#define EARLY_REALLOC(block, size)   \
    do {                             \
        if (UNLIKELY(is_early(block))) \
            return early_moved(block, size); \
    } while (0)

#include "hooks.c"

/* The same function under its other name. */
HOOK_SCOPE void *hook_mmap64(void *, size_t, int, int, int, off_t) __asm__("mmap64") __attribute__((alias("mmap")));

static _Atomic(int) finding;

/* Whether an address that dlsym gave is of a function that is not ours. A program that is not position-independent and takes a
 * function's address gives a stub of its own for it, which would come back to us: its symbol is not defined. (Our own
 * functions cannot be told by their addresses: in C, too, their names mean whatever comes first in the process.) */
static int is_another(void *function)
{
#ifdef __GLIBC__
    Dl_info theirs, ours;
    const ElfW(Sym) *symbol = NULL;
    return dladdr(&control, &ours) && dladdr1(function, &theirs, (void **)&symbol, RTLD_DL_SYMENT) &&
           theirs.dli_fbase != ours.dli_fbase && symbol && symbol->st_shndx != SHN_UNDEF;
#else
    (void)function;
    return 0;
#endif
}

/* What a hook passes on to. Where another allocator comes before us it is that one: only calls of what it lacks come here
 * (reallocarray, say), and with its blocks. */
static void *real_of(const char *name)
{
    void *first = dlsym(RTLD_DEFAULT, name);
    return first && is_another(first) ? first : dlsym(RTLD_NEXT, name);
}

static void find_real(void)
{
    atomic_store(&finding, 1);
    void *found;
#define HOOK(result, name, parameters, arguments) \
    found = real_of(#name);                       \
    if (found)                                    \
        real_##name = (result(*) parameters)found;
#include "hooks.def"
#undef HOOK
    atomic_store(&finding, 0);
}

__attribute__((constructor)) static void on_load(void)
{
    find_real();
    note_allocator((void *)real_malloc);
}

/* The first call of each: finds the real functions and goes on with them. A function that the C library lacks stays here. */
#define FIRST(name, arguments, instead)                  \
    do {                                                 \
        if (!atomic_load(&finding)) {                    \
            find_real();                                 \
            if (real_##name != first_##name)             \
                return real_##name arguments;            \
        }                                                \
        return instead;                                  \
    } while (0)

static void *missing(void)
{
    errno = ENOSYS;
    return NULL;
}

static void *early_zeroed(size_t number, size_t size)
{
    size_t bytes;
    /* The area is zero, and no part of it is handed out twice. */
    return __builtin_mul_overflow(number, size, &bytes) ? missing() : early_alloc(bytes);
}

static void *first_malloc(size_t size) { FIRST(malloc, (size), early_alloc(size)); }
static void *first_calloc(size_t number, size_t size) { FIRST(calloc, (number, size), early_zeroed(number, size)); }
static void *first_realloc(void *block, size_t size)
{
    FIRST(realloc, (block, size), block ? missing() : early_alloc(size));
}
static void *first_reallocarray(void *block, size_t number, size_t size)
{
    FIRST(reallocarray, (block, number, size), missing());
}
static void first_free(void *block)
{
    if (!atomic_load(&finding)) {
        find_real();
        if (real_free != first_free)
            real_free(block);
    }
}
static int first_posix_memalign(void **result, size_t alignment, size_t size)
{
    FIRST(posix_memalign, (result, alignment, size), ENOMEM);
}
static void *first_aligned_alloc(size_t alignment, size_t size) { FIRST(aligned_alloc, (alignment, size), missing()); }
static void *first_memalign(size_t alignment, size_t size) { FIRST(memalign, (alignment, size), missing()); }
static void *first_valloc(size_t size) { FIRST(valloc, (size), missing()); }
static void *first_pvalloc(size_t size) { FIRST(pvalloc, (size), missing()); }

/* While dlsym is at work, its own mappings go to the kernel. */
static void *first_mmap(void *where, size_t length, int protection, int flags, int fd, off_t offset)
{
    FIRST(mmap, (where, length, protection, flags, fd, offset),
          (void *)syscall(SYS_mmap, where, length, protection, flags, fd, offset));
}
static int first_munmap(void *start, size_t length)
{
    FIRST(munmap, (start, length), (int)syscall(SYS_munmap, start, length));
}
static void *first_mremap(void *start, size_t length, size_t new_length, int flags, void *where)
{
    FIRST(mremap, (start, length, new_length, flags, where),
          (void *)syscall(SYS_mremap, start, length, new_length, flags, where));
}
