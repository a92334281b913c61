/* The front of the extension: the hooks that a heap run puts into a process that was started without the preloaded library.
 *
 * Two kinds of hooks, with one countdown a thread: those that take the place of malloc and its relatives in the relocations of
 * the loaded objects (src/memprof/got.rs puts them there), and those of CPython's allocator domains (python_allocators.h).
 * In C because stable Rust has no thread-local storage that is certain not to be made lazily, by malloc.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../interpose/front.h"

#define HOOK_SCOPE __attribute__((visibility("hidden")))
#define HOOK_NAME(name) spprof_hook_##name
#define HOOK_SYMBOL(name)
#define REAL(name) real_##name
#define EARLY_FREE(block)
#define EARLY_REALLOC(block, size)

#define HOOK(result, name, parameters, arguments) static result(*real_##name) parameters;
#include "../interpose/hooks.def"
#undef HOOK

#include "../interpose/hooks.c"

/* A hook, for the room that patches relocations. */
struct spprof_hook {
    const char *name;
    void *hook;
    /* Where the hook finds the function it passes on to. */
    void **real;
};

HOOK_SCOPE size_t spprof_in_process_hooks(const struct spprof_hook **hooks)
{
    static const struct spprof_hook table[] = {
#define HOOK(result, name, parameters, arguments) {#name, (void *)spprof_hook_##name, (void **)&real_##name},
#include "../interpose/hooks.def"
#undef HOOK
        {"mmap64", (void *)spprof_hook_mmap, (void **)&real_mmap},
    };
    *hooks = table;
    return sizeof table / sizeof *table;
}

/* Once the real functions are known. */
HOOK_SCOPE void spprof_in_process_found(void)
{
    note_allocator((void *)real_malloc);
}

HOOK_SCOPE struct spprof_control *spprof_in_process_control(void)
{
    return &control;
}

#include "python_allocators.h"
