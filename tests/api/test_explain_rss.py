"""What the resident memory consists of: the rows sum to RSS, and what a program is known to hold is in its row."""

import ctypes
import mmap
import os
import subprocess
import threading

import pytest
import spprof.memprof as memprof
from spprof import _rss

MB = 1 << 20


@pytest.fixture(autouse=True)
def running(library):
    memprof.start(sampling_rate_kb=16)
    yield
    memprof.stop()


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A library that holds memory. Loaded before the profiler starts, which then sees all its calls."""
    folder = tmp_path_factory.mktemp("library")
    source = folder / "hold.c"
    source.write_text("""
        #include <stdlib.h>
        #include <string.h>
        void *hold(size_t size) { return memset(malloc(size), 1, size); }
    """)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "hold.so", source], check=True)
    library = ctypes.CDLL(str(folder / "hold.so"))
    library.hold.restype, library.hold.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    return library


def touched(size):
    """A mapping of the program's own whose pages are all in memory."""
    mapping = mmap.mmap(-1, size)
    for at in range(0, size, mmap.PAGESIZE):
        mapping[at] = 1
    return mapping


def growth(before, after, kind):
    """By how much a row grew, and 6 standard errors of it."""
    rows = [[row for row in report.rows if row.kind == kind] for report in (before, after)]
    error = sum(row.standard_error**2 for some in rows for row in some) ** 0.5
    return after.bytes(kind) - before.bytes(kind), 6 * error


def test_rows_sum_to_rss():
    """To the byte, and what they sum to is what the kernel adds up itself."""
    report = memprof.explain_rss()
    assert sum(row.bytes for row in report.rows) == report.rss_bytes
    assert all(row.bytes > 0 for row in report.rows)
    with open("/proc/self/smaps_rollup", "rb") as file:
        rollup = next(int(line.split()[1]) * 1024 for line in file if line.startswith(b"Rss:"))
    assert abs(report.rss_bytes - rollup) < 8 * MB
    assert report.bytes(_rss.STACKS) > 0 and report.bytes(_rss.OWN) > 0 and report.bytes(_rss.FILE) > 0


def test_what_is_known_is_in_its_row(tmp_path, library):
    """50 MB of bytes, 40 MB from malloc by a C library, 30 MB mapped, 20 MB of a file."""
    path = tmp_path / "data"
    path.write_bytes(b"x" * (20 * MB))
    before = memprof.explain_rss()
    objects = [b"x" * 10_000 for _ in range(50 * MB // 10_033)]
    blocks = [library.hold(100_000) for _ in range(40 * MB // 100_000)]
    mapping = touched(30 * MB)
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert sum(mapped[:: mmap.PAGESIZE]) == 20 * MB // mmap.PAGESIZE * ord("x")
    after = memprof.explain_rss()
    for kind, truth in ((_rss.PYTHON, 50 * MB), (_rss.NATIVE, 40 * MB), (_rss.MAPPED, 30 * MB)):
        grown, error = growth(before, after, kind)
        assert abs(grown - truth) < error + MB, (kind, grown, error, str(after))
    rows = {row.path: row for row in after.rows if row.kind == _rss.FILE}
    assert rows[str(path)].bytes == 20 * MB and rows[str(path)].standard_error == 0
    assert sum(row.bytes for row in after.rows) == after.rss_bytes
    assert objects and blocks and mapping
    mapped.close()


def test_what_is_not_in_memory_does_not_count():
    """A block that was asked for and never written to."""
    before = memprof.explain_rss()
    mapping = mmap.mmap(-1, 640 * MB)
    after = memprof.explain_rss()
    assert after.bytes(_rss.MAPPED) - before.bytes(_rss.MAPPED) < MB
    assert after.asked_bytes - before.asked_bytes > 500 * MB
    mapping.close()


def test_stacks_of_threads():
    """A thread that has used much of its stack, while it sleeps."""
    deep, let_go = threading.Event(), threading.Event()
    libc = ctypes.CDLL(None)
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

    def descend(depth):
        if depth == 0:
            deep.set()
            let_go.wait()
            return 0
        # Through C, so that every level takes of the stack.
        pair = (ctypes.c_int * 2)(1, 2)
        libc.qsort(pair, 2, ctypes.sizeof(ctypes.c_int), compare(lambda a, b: descend(depth - 1)))
        return 0

    before = memprof.explain_rss()
    thread = threading.Thread(target=descend, args=(60,))
    thread.start()
    deep.wait()
    after = memprof.explain_rss()
    let_go.set()
    thread.join()
    assert after.bytes(_rss.STACKS) - before.bytes(_rss.STACKS) > 32 * 1024


def test_as_text():
    """Every row's name, and the share of the whole."""
    text = str(memprof.explain_rss())
    assert "resident memory (RSS)" in text and _rss.PYTHON in text and "other files" in text
    assert "blocks from before start()" in text


def test_glibc_free_bytes():
    """Of the totals of all arenas, not of each; chunks in use and mapped ones do not count."""
    text = b"""<malloc version="1"><heap nr="0"><total type="fast" count="9" size="7"/><total type="rest" count="1" size="5"/>
</heap>
<total type="fast" count="2" size="100"/><total type="rest" count="3" size="2000"/><total type="mmap" count="1" size="9999"/>
<system type="current" size="500000"/></malloc>"""
    assert _rss.glibc_free(text) == 2100
    assert _rss.glibc_free(None) == 0


def test_partly_resident():
    """Of a block, the bytes whose pages are in memory."""
    mapping = mmap.mmap(-1, 8 * mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    mapping[2 * mmap.PAGESIZE] = mapping[3 * mmap.PAGESIZE] = 1
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
    try:
        assert _rss.resident(pagemap, address, 8 * mmap.PAGESIZE) == 2 * mmap.PAGESIZE
        assert _rss.resident(pagemap, address + 2 * mmap.PAGESIZE + 100, 300) == 300
        assert _rss.resident(pagemap, address + 3 * mmap.PAGESIZE - 100, 200) == 200
        assert _rss.resident(pagemap, address, 2 * mmap.PAGESIZE) == 0
    finally:
        os.close(pagemap)
