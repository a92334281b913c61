"""The heap profiler where it hurts: threads, realloc, fork, dlopen, the CPU sampler inside malloc, failures, full tables."""

import ctypes.util
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest
import spprof.memprof as memprof


def preload():
    return {"LD_PRELOAD": str(memprof.preload_path()), "LD_BIND_NOW": "1"}


@pytest.fixture(params=["in-process", "preload"])
def hooks(request):
    """The environment of a program whose malloc is hooked in this way."""
    return preload() if request.param == "preload" else {}


# The functions as a C extension calls them: what ctypes calls itself, it finds by dlsym, past all relocations.
CALLS = """
#define _GNU_SOURCE
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
void *t_malloc(size_t n) { return malloc(n); }
void t_free(void *p) { free(p); }
void *t_calloc(size_t n, size_t s) { return calloc(n, s); }
void *t_realloc(void *p, size_t s) { return realloc(p, s); }
void *t_reallocarray(void *p, size_t n, size_t s) { return reallocarray(p, n, s); }
void *t_aligned_alloc(size_t a, size_t s) { return aligned_alloc(a, s); }
void *t_memalign(size_t a, size_t s) { return memalign(a, s); }
void *t_posix_memalign(size_t a, size_t s) { void *p; return posix_memalign(&p, a, s) ? NULL : p; }
void *t_valloc(size_t s) { return valloc(s); }
void *t_pvalloc(size_t s) { return pvalloc(s); }
void *t_strdup(const char *s) { return strdup(s); }
void *t_mmap(size_t n, int protection) { return mmap(NULL, n, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }
int t_munmap(void *p, size_t n) { return munmap(p, n); }
void *t_mremap(void *p, size_t n, size_t m) { return mremap(p, n, m, MREMAP_MAYMOVE); }
"""
LOAD = """
import ctypes, sys

def load(path):
    library = ctypes.CDLL(path)
    P, N = ctypes.c_void_p, ctypes.c_size_t
    for name, arguments in {
        "malloc": [N], "calloc": [N, N], "realloc": [P, N], "reallocarray": [P, N, N], "aligned_alloc": [N, N],
        "memalign": [N, N], "posix_memalign": [N, N], "valloc": [N], "pvalloc": [N], "strdup": [ctypes.c_char_p],
        "mmap": [N, ctypes.c_int], "mremap": [P, N, N], "free": [P], "munmap": [P, N],
    }.items():
        function = getattr(library, f"t_{name}")
        function.restype, function.argtypes = P, arguments
        setattr(library, name, function)
    return library

libc = load(sys.argv[1])
"""
CHURN = (
    LOAD
    + """
import gc, os, threading
import spprof, spprof.memprof as memprof

def churn(rounds, out):
    kept = []
    for i in range(rounds):
        block = libc.malloc(100 + i % 5000)
        block = libc.realloc(block, 20_000 - i % 7000)
        kept.append(bytearray(i % 900))
        kept.append([object() for _ in range(i % 50)])
        kept[-2].extend(b"x" * (i % 2000))
        assert libc.realloc(block, 1 << 60) is None
        libc.free(block)
        libc.free(libc.aligned_alloc(64, 640))
        if i % 100 == 99:
            exec(compile(f"def f{i}(): return [bytes({i}) for _ in range(20)]\\nkept.append(f{i}())", f"code{i}", "exec"))
        if len(kept) > 200:
            del kept[:150]
    out.append(len(kept))

def threads(count, rounds):
    out = []
    started = [threading.Thread(target=churn, args=(rounds, out)) for _ in range(count)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert len(out) == count
"""
)


def test_everything_at_once(hazard, hooks, c_library):
    """Threads that churn, forks, loading, snapshots and the CPU sampler at 5 kHz: nothing hangs, nothing is lost."""
    hazard(
        CHURN
        + """
import _ctypes, importlib, subprocess
spprof.start(interval_us=200)
memprof.start(sampling_rate_bytes=512)
before = memprof.get_snapshot()
worker = threading.Thread(target=threads, args=(3, 1500))
worker.start()
children = []
while worker.is_alive():
    memprof.get_snapshot()
    if len(children) < 10:
        child = os.fork()
        if child == 0:
            churn(100, [])
            snapshot = memprof.get_snapshot()
            os._exit(0 if snapshot.total_samples > before.total_samples else 3)
        children.append(child)
    handle = ctypes.CDLL("libm.so.6")._handle
    _ctypes.dlclose(handle)
    worker.join(0.05)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
subprocess.run([sys.executable, "-c", "pass"], check=True)
gc.collect()
profile = spprof.stop()
memprof.stop()
snapshot = memprof.get_snapshot()
lines = open(__file__).read().splitlines()
# In Python's own allocator some of it stays: interned names, and on 3.9 and 3.10 a frame for each code object.
here = [s for s in snapshot.samples if s.domain == "malloc" and s.stack and s.stack[0].function == "churn"]
# Our own list of dying code objects grows on the thread where they die, and is not told from what the program asks for there.
assert len(here) <= 3 and all("exec(" in lines[s.stack[0].line - 1] for s in here), here[:4]
losses = snapshot.metadata["losses"]
assert losses["table_full"] == losses["not_put_back"] == losses["broken_stack"] == 0, losses
assert snapshot.total_samples > 1000 and profile.sample_count > 0
memprof.shutdown()
churn(100, [])
""",
        c_library(CALLS),
        env=hooks,
        timeout=240,
    )


def test_a_failed_realloc_keeps_its_block(hazard, hooks, c_library):
    """The block lives on, and so does its sample; freed at last, it is gone."""
    hazard(
        LOAD
        + textwrap.dedent("""
        import spprof.memprof as memprof
        memprof.start(sampling_rate_bytes=1)

        def alive(block):
            return [s.size for s in memprof.get_snapshot().samples if s.address == block]

        block = libc.malloc(54321)
        assert alive(block) == [54321]
        before = memprof.get_stats().freed_samples
        assert libc.realloc(block, 1 << 62) is None
        assert alive(block) == [54321]
        grown = libc.realloc(block, 65432)
        assert alive(grown) == [65432]
        libc.free(grown)
        assert alive(grown) == []
        """),
        c_library(CALLS),
        env=hooks,
    )


def test_every_function_is_hooked(hazard, hooks, c_library):
    """malloc's relatives and mappings, each with the size asked for, each gone after its end."""
    hazard(
        LOAD
        + textwrap.dedent("""
        import mmap, spprof.memprof as memprof
        memprof.start(sampling_rate_bytes=1)

        def alive(block):
            return [(s.size, s.domain) for s in memprof.get_snapshot().samples if s.address == block]

        blocks = {
            "malloc": (libc.malloc(7001), 7001), "calloc": (libc.calloc(7, 1000), 7000),
            "posix_memalign": (libc.posix_memalign(64, 7003), 7003),
            "aligned_alloc": (libc.aligned_alloc(64, 7040), 7040), "memalign": (libc.memalign(64, 7005), 7005),
            "valloc": (libc.valloc(7006), 7006), "pvalloc": (libc.pvalloc(7007), 8192),
            "reallocarray": (libc.reallocarray(None, 7, 1001), 7007), "realloc": (libc.realloc(None, 7009), 7009),
            "strdup": (libc.strdup(b"x" * 7010), 7011),
        }
        for name, (block, size) in blocks.items():
            assert alive(block) == [(size, "malloc")], (name, alive(block))
        for name, (block, size) in blocks.items():
            libc.free(block)
            assert alive(block) == [], name
        assert libc.reallocarray(None, 1 << 40, 1 << 40) is None

        PAGE = mmap.PAGESIZE
        m = libc.mmap(10 * PAGE, 3)
        assert alive(m) == [(10 * PAGE, "mmap")]
        libc.munmap(m + 8 * PAGE, 2 * PAGE)
        assert alive(m) == [(8 * PAGE, "mmap")]
        libc.munmap(m, PAGE)
        assert alive(m) == [] and alive(m + PAGE) == [(7 * PAGE, "mmap")]
        m = libc.mremap(m + PAGE, 7 * PAGE, 30 * PAGE)
        assert alive(m) == [(30 * PAGE, "mmap")]
        libc.munmap(m, 30 * PAGE)
        assert alive(m) == []
        reserved = libc.mmap(10 * PAGE, 0)
        assert alive(reserved) == []
        """),
        c_library(CALLS),
        env=hooks,
    )


def test_full_tables_are_told(hazard):
    """More live samples and more stacks than there is room for: counted, and the rest stays right."""
    hazard(
        """
        import os, spprof.memprof as memprof
        os.environ["SPPROF_STACK_TABLE_MAX"] = "50"
        memprof.start(sampling_rate_bytes=1)
        kept = []
        for i in range(100):
            exec(compile("\\n" * i + "kept.append(bytearray(5000))", "x", "exec"))
        kept += [bytearray(40) for _ in range(700_000)]
        snapshot = memprof.get_snapshot()
        losses = snapshot.metadata["losses"]
        assert losses["table_full"] > 100_000 and losses["stack_table_full"] > 0, losses
        assert losses["table_full_bytes"] > 40 * losses["table_full"]
        assert 450_000 < snapshot.live_samples <= 524_288
        assert any(site.stack[0].function == "<stack table full>" for site in snapshot.sites())
        memprof.stop()
        del kept
        assert memprof.get_snapshot().live_samples < 20_000
        """,
        timeout=180,
    )


def test_a_storm_is_bounded(hazard):
    """Far more samples a second than the bound allows: the rate goes up, and estimates stay right."""
    hazard(
        """
        import spprof.memprof as memprof
        memprof.start(sampling_rate_kb=1, max_samples_per_second=1000)
        before = memprof.get_snapshot().alloc_space.value
        for _ in range(200_000):
            bytearray(5000)
        after = memprof.get_snapshot()
        assert after.metadata["losses"]["slowed_down"] > 0
        truth = 200_000 * (5001 + bytearray.__basicsize__)
        grown = after.alloc_space.value - before
        assert abs(grown - truth) < 6 * after.alloc_space.standard_error, (grown, truth, after.alloc_space)
        """
    )


def test_a_forked_child_goes_on(hazard, hooks):
    """It has its parent's samples and takes its own, with names; the parent does not see them."""
    hazard(
        """
        import os, spprof.memprof as memprof

        def of_parent(): return bytes(3_000_000)
        def of_child(): return bytes(4_000_000)

        memprof.start(sampling_rate_kb=64)
        kept = of_parent()
        child = os.fork()
        if child == 0:
            more = of_child()
            names = {s.stack[0].function for s in memprof.get_snapshot().samples if s.size > 2_000_000}
            assert names == {"of_parent", "of_child"}, names
            del kept
            names = {s.stack[0].function for s in memprof.get_snapshot().samples if s.size > 2_000_000}
            assert names == {"of_child"}, names
            memprof.stop()
            memprof.start()
            memprof.shutdown()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        names = {s.stack[0].function for s in memprof.get_snapshot().samples if s.size > 2_000_000}
        assert names == {"of_parent"}, names
        """,
        env=hooks,
    )


def test_code_that_dies_keeps_its_name(hazard):
    """Functions made, called and dropped by the thousand: each sample bears the name of the one that allocated it."""
    hazard(
        """
        import gc, spprof.memprof as memprof
        memprof.start(sampling_rate_bytes=1)
        kept = []
        for i in range(3000):
            scope = {}
            exec(compile(f"def made_{i}(): return bytes({100_000 + i})", f"file_{i}", "exec"), scope)
            kept.append(scope[f"made_{i}"]())
            del scope
        base = bytes.__basicsize__
        seen = 0
        for sample in memprof.get_snapshot().samples:
            number = sample.size - base - 100_000
            if 0 <= number < 3000 and sample.stack[0].function.startswith("made_"):
                assert (sample.stack[0].function, sample.stack[0].file) == (f"made_{number}", f"file_{number}"), sample
                seen += 1
        assert seen == 3000, seen
        """,
        timeout=120,
    )


def test_the_interpreters_end(hazard, hooks):
    """A program ends as it would have, with daemon threads that allocate, whether or not the profiler was stopped."""
    result = hazard(
        """
        import atexit, sys, threading, spprof.memprof as memprof
        memprof.start(sampling_rate_bytes=256)
        def forever():
            while True:
                [bytearray(300) for _ in range(100)]
        for _ in range(3):
            threading.Thread(target=forever, daemon=True).start()
        memprof.get_snapshot()
        sys.exit(7)
        """,
        env=hooks,
        expect_rc=7,
    )
    assert result.stderr == ""


ALLOCATORS = ("jemalloc", "mimalloc", "tcmalloc_minimal")


@pytest.mark.parametrize("allocator", ALLOCATORS)
@pytest.mark.parametrize("order", ["before", "behind", "alone"])
def test_another_allocator(hazard, allocator, order):
    """With an allocator that maps its own memory each block is counted once, whoever comes first."""
    other = ctypes.util.find_library(allocator)
    if other is None:
        pytest.skip(f"no {allocator} here")
    library = str(memprof.preload_path())
    hazard(
        """
        import spprof.memprof as memprof
        memprof.start(sampling_rate_kb=4)
        before = memprof.get_snapshot().inuse_space
        kept = [bytes(100_000) for _ in range(300)]
        after = memprof.get_snapshot()
        grown = after.inuse_space.value - before.value
        assert abs(grown - 300 * 100_033) < 6 * after.inuse_space.standard_error + 50_000, (grown, after.bytes_by_domain)
        del kept
        assert [s for s in memprof.get_snapshot().samples if 100_000 < s.size < 101_000] == []
        """,
        env={"LD_PRELOAD": {"before": f"{other}:{library}", "behind": f"{library}:{other}", "alone": other}[order]},
    )


def test_the_library_needs_nobody():
    """Without Python, without a profiler, with another allocator before or behind it, programs run as they did."""
    library = str(memprof.preload_path())
    others = [path for name in ALLOCATORS if (path := ctypes.util.find_library(name))]
    for order in [library, *(f"{library}:{other}" for other in others), *(f"{other}:{library}" for other in others)]:
        for command in (
            ["/bin/ls", "-l", "/"],
            ["/bin/sh", "-c", "echo $(ls / | sort | head -3)"],
            [sys.executable, "-c", "import json"],
        ):
            run = subprocess.run(command, env={**os.environ, "LD_PRELOAD": order}, capture_output=True, text=True)
            assert (run.returncode, run.stderr) == (0, ""), (order, command, run)


# An allocator without reallocarray, which can tell a block that is not its own.
OTHER = r"""
#include <stdlib.h>
#include <string.h>
static _Alignas(16) char area[1 << 20];
static size_t used;
void *malloc(size_t size)
{
    size_t *block = (void *)(area + __atomic_fetch_add(&used, (size + 31) & ~(size_t)15, __ATOMIC_RELAXED));
    if ((char *)block + size + 16 > area + sizeof area) return NULL;
    block[0] = size, block[1] = 0x600d;
    return block + 2;
}
static size_t size_of(void *block)
{
    if (((size_t *)block)[-1] != 0x600d) abort();
    return ((size_t *)block)[-2];
}
void free(void *block) { if (block) size_of(block); }
void *calloc(size_t count, size_t size) { return malloc(count * size); }
void *realloc(void *block, size_t size)
{
    void *moved = malloc(size);
    if (block && moved) memcpy(moved, block, size < size_of(block) ? size : size_of(block));
    return moved;
}
"""
CALLER = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(void)
{
    char *block = malloc(100);
    strcpy(block, "kept");
    block = reallocarray(block, 100, 100);
    puts(block);
    free(block);
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("kind", [["-fpie", "-pie"], ["-fno-pie", "-no-pie"]])
def test_what_another_allocator_lacks(tmp_path: Path, kind):
    """A block of an allocator that comes first, in a function that it lacks and we have."""
    for name, text in (("other", OTHER), ("caller", CALLER)):
        (tmp_path / f"{name}.c").write_text(text)
    plain = ["cc", "-D_GNU_SOURCE", "-fno-builtin"]
    subprocess.run([*plain, "-shared", "-fPIC", tmp_path / "other.c", "-o", tmp_path / "other.so"], check=True)
    subprocess.run([*plain, *kind, tmp_path / "caller.c", "-o", tmp_path / "caller"], check=True)
    for now in ("", "1"):
        order = f"{tmp_path / 'other.so'}:{memprof.preload_path()}"
        environment = {**os.environ, "LD_PRELOAD": order, "LD_BIND_NOW": now}
        run = subprocess.run([tmp_path / "caller"], env=environment, capture_output=True, text=True)
        assert (run.returncode, run.stdout) == (0, "kept\n"), run


EARLY = r"""
#include <assert.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
static void *early;
__attribute__((constructor)) static void before_main(void) { early = malloc(100); memset(early, 1, 100); }
static void *work(void *seed)
{
    void *kept[64] = {0};
    unsigned state = (unsigned)(uintptr_t)seed;
    for (int i = 0; i < 20000; i++) {
        unsigned at = (state = state * 1103515245 + 12345) >> 16 & 63;
        size_t size = state % 3000 + 1;
        kept[at] = realloc(kept[at], size);
        assert(malloc_usable_size(kept[at]) >= size);
        memset(kept[at], (int)at, size);
    }
    for (int i = 0; i < 64; i++) free(kept[i]);
    return NULL;
}
int main(void)
{
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)(i + 1));
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    errno = 0;
    volatile size_t huge = SIZE_MAX / 2;
    assert(malloc(huge) == NULL && errno == ENOMEM);
    void *aligned = NULL;
    assert(posix_memalign(&aligned, 4096, 100) == 0 && (uintptr_t)aligned % 4096 == 0);
    free(aligned);
    free(early);
    free(NULL);
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None or shutil.which("valgrind") is None, reason="needs a C compiler and valgrind")
def test_the_library_under_valgrind(tmp_path: Path):
    """Memcheck finds nothing in the hooks, with blocks from before main, threads and failures."""
    (tmp_path / "early.c").write_text(EARLY)
    subprocess.run(["cc", "-g", "-pthread", "early.c", "-o", "early"], cwd=tmp_path, check=True)
    # soname-synonyms: memcheck takes our malloc for the program's own, and checks what is beneath it.
    command = ["valgrind", "-q", "--error-exitcode=9", "--soname-synonyms=somalloc=nouserintercepts", "./early"]
    run = subprocess.run(command, cwd=tmp_path, env={**os.environ, **preload()}, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_other_tools_wrap_the_allocators(hazard):
    """tracemalloc, before or after: both go on, nothing is counted twice, and shutdown leaves what is on top alone."""
    program = """
        import sys, tracemalloc, spprof.memprof as memprof
        first = sys.argv[1] == "first"
        if first:
            tracemalloc.start()
        memprof.start(sampling_rate_bytes=1)
        if not first:
            tracemalloc.start()
        def hold(): return [bytes(i) for i in range(400, 600)]
        kept = hold()
        own = {len(b) + bytes.__basicsize__: id(b) for b in kept}
        snapshot = memprof.get_snapshot()
        for size, address in own.items():
            found = [s for s in snapshot.samples if s.address <= address < s.address + s.size]
            assert len(found) == 1, (size, found)
        memprof.shutdown()
        del kept
        more = [bytes(i) for i in range(1000)]
        tracemalloc.stop()
    """
    hazard(program, "first")
    hazard(program, "after")


@pytest.mark.parametrize("allocator", ["malloc", "debug", "malloc_debug", "pymalloc"])
def test_python_allocators(hazard, hooks, allocator):
    """Whatever CPython is told to use, each block is counted once."""
    if sysconfig.get_config_var("Py_GIL_DISABLED") and allocator != "debug":
        pytest.skip("without a GIL CPython has no allocator but mimalloc")
    hazard(
        """
        import spprof.memprof as memprof
        memprof.start(sampling_rate_bytes=1)
        def hold(): return [bytes(i) for i in range(0, 1200, 7)]
        kept = hold()
        snapshot = memprof.get_snapshot()
        for block in kept[1:]:
            found = [s for s in snapshot.samples if s.address <= id(block) < s.address + s.size]
            assert len(found) == 1, (len(block), found, snapshot.metadata["python_splits"])
        """,
        env={**hooks, "PYTHONMALLOC": allocator},
    )


def test_both_profilers_share_dying_code(hazard):
    """The CPU profiler stops while the heap profiler runs, and the other way round: names stay right in both."""
    hazard(
        """
        import spprof, spprof.memprof as memprof
        def churn(rounds):
            for i in range(rounds):
                scope = {}
                exec(compile(f"def f{i}(): return sum(range(2000)), bytes(50_000)", f"file{i}", "exec"), scope)
                scope[f"f{i}"]()
        for _ in range(3):
            spprof.start(interval_us=200)
            churn(300)
            memprof.start(sampling_rate_kb=1)
            churn(300)
            profile = spprof.stop()
            churn(300)
            spprof.start(interval_us=200)
            churn(300)
            memprof.stop()
            churn(300)
            for run in (profile, spprof.stop()):
                nameless = [s.count for s in run.samples if any(f.function_name == "<unresolved>" for f in s.frames)]
                # On 3.11 and 3.12 a stack may be met while it is being changed, which is counted.
                assert sum(nameless) <= run.metadata["losses"]["broken_stack"], run.metadata["losses"]
            for s in memprof.get_snapshot().freed_samples:
                for f in s.stack:
                    assert f.function != "<unresolved>"
                    if f.function.startswith("f") and f.function[1:].isdigit():
                        assert f.file == "file" + f.function[1:], f
        """,
        timeout=120,
    )
