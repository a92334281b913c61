"""The heap profiler's interface: what it gives, what it refuses, and in which words."""

import gc
import gzip
import json
import time

import pytest
import spprof
import spprof.memprof as memprof


@pytest.fixture(autouse=True)
def stopped():
    """Every test starts and ends with the profiler stopped."""
    assert not memprof._running
    yield
    memprof.stop()


def hold_objects(count):
    kept = [None] * count
    for i in range(count):
        kept[i] = object()
    return kept


def hold_blocks(count, size):
    kept = [None] * count
    for i in range(count):
        kept[i] = bytes(size)
    return kept


BLOCKS_LINE = hold_blocks.__code__.co_firstlineno + 3


def test_a_leak_is_found_where_it_is():
    """The line that holds the memory comes first, and its bytes lie within the interval."""
    memprof.start(sampling_rate_bytes=4096)
    before = memprof.get_snapshot()
    kept = hold_blocks(1000, 10_000)
    snapshot = memprof.get_snapshot()
    top = snapshot.top_growth(before, 1)[0]
    assert (top["file"], top["line"]) == (__file__, BLOCKS_LINE)
    assert top["function"] == "hold_blocks" and top["growth_bytes"] > 0
    assert abs(top["growth_bytes"] - 1000 * 10_033) < 6 * top["standard_error"] + 10_000
    assert len(kept) == 1000


def test_small_objects_are_seen():
    """Objects that pymalloc serves, which malloc never sees."""
    memprof.start(sampling_rate_bytes=4096)
    before = memprof.get_snapshot()
    kept = hold_objects(100_000)
    rows = memprof.get_snapshot().top_growth(before, 1)
    assert rows[0]["function"] == "hold_objects"
    # Sixteen bytes each, thirty-two without a GIL.
    assert abs(rows[0]["growth_bytes"] - 100_000 * object.__basicsize__) < 6 * rows[0]["standard_error"]
    assert len(kept) == 100_000


def test_what_is_freed_is_gone():
    """After a free, no sample of it is alive: exactly, not about. Its lifetime is told."""
    memprof.start(sampling_rate_bytes=1024)
    kept = hold_blocks(500, 50_000)

    def alive():
        samples = memprof.get_snapshot().samples
        return [s for s in samples if s.size > 50_000 and (s.stack[0].file, s.stack[0].line) == (__file__, BLOCKS_LINE)]

    assert len(alive()) == 500
    del kept
    assert alive() == []
    freed = [s for s in memprof.get_snapshot().freed_samples if s.size > 50_000 and s.stack[0].line == BLOCKS_LINE]
    assert len(freed) >= 500
    assert all(s.lifetime_ns > 0 and not s.is_live for s in freed)


def test_stop_follows_frees():
    """After stop() nothing new is sampled, and what is freed goes."""
    memprof.start(sampling_rate_bytes=1024)
    kept = hold_blocks(200, 20_000)
    memprof.stop()
    memprof.stop()
    after = memprof.get_snapshot()
    more = hold_blocks(200, 20_000)
    size = len(bytes(20_000)) + bytes.__basicsize__

    def count(snapshot):
        return sum(1 for s in snapshot.samples if s.size == size)

    assert count(after) == 200
    assert count(memprof.get_snapshot()) == 200
    del kept
    assert count(memprof.get_snapshot()) == 0
    assert len(more) == 200


def test_restart_at_another_rate():
    """Each start has its own rate, and samples keep the one they were taken at."""
    memprof.start(sampling_rate_kb=64)
    assert memprof.get_stats().sampling_rate_bytes == 64 * 1024
    memprof.stop()
    memprof.start(sampling_rate_kb=1)
    kept = hold_blocks(100, 100_000)
    assert memprof.get_stats().sampling_rate_bytes == 1024
    new = [s for s in memprof.get_snapshot().samples if s.size > 100_000 and s.stack[0].function == "hold_blocks"]
    assert {s.weight for s in new} <= {1024, 64 * 1024}
    assert sum(1 for s in new if s.weight == 1024) >= 100
    assert len(kept) == 100


def test_totals_are_the_sums_of_their_parts():
    """estimated_heap_bytes, the totals by domain, the sites and the collapsed file all add up to the samples."""
    memprof.start(sampling_rate_bytes=2048)
    kept = [hold_blocks(100, 700), hold_objects(10_000)]
    memprof.stop()
    snapshot = memprof.get_snapshot()
    total = sum(s.estimated_bytes for s in snapshot.samples)
    assert snapshot.estimated_heap_bytes == total == snapshot.inuse_space.value
    assert sum(snapshot.bytes_by_domain.values()) == total
    assert sum(site.live_bytes for site in snapshot.sites()) == total
    assert snapshot.live_samples == len(snapshot.samples)
    assert sum(site.alloc_bytes for site in snapshot.sites()) == snapshot.alloc_space.value
    assert sum(site.samples for site in snapshot.sites()) == snapshot.total_samples
    low, high = snapshot.inuse_space.interval
    assert low < total < high
    assert len(kept) == 2


def test_samples_tell_what_they_are():
    """Size, weight, estimate, time, thread, domain and collections of a sample."""
    memprof.start(sampling_rate_bytes=1)
    began = time.monotonic_ns()
    gc.collect()
    block = bytearray(123_456)
    snapshot = memprof.get_snapshot()
    memprof.stop()
    sample = next(s for s in snapshot.samples if 123_456 <= s.size < 123_520)
    assert sample.estimated_bytes == sample.size and sample.estimated_count == 1 and sample.weight == 1
    assert began < sample.timestamp_ns < snapshot.timestamp_ns
    assert sample.is_live and sample.lifetime_ns is None
    assert sample.gc_epoch >= 1
    frame = sample.stack[0]
    assert frame.is_python and frame.file == __file__
    assert str(frame) == f"{frame.function} ({frame.file}:{frame.line})"
    assert sample.domain in ("malloc", "python")
    assert len(block) == 123_456


def test_peak():
    """The peak is what was alive at it, by stack, long after it was freed."""
    memprof.start(sampling_rate_bytes=4096)
    base = memprof.get_snapshot().peak_bytes
    # More than any other test of this process held at once.
    kept = hold_blocks(400, 2_400_000)
    peak = memprof.get_snapshot().peak_bytes
    del kept
    snapshot = memprof.get_snapshot()
    memprof.stop()
    assert snapshot.peak_bytes >= peak > base
    assert snapshot.peak_bytes >= 400 * 2_400_000
    at_peak = [site for site in snapshot.sites() if site.stack and site.stack[0].function == "hold_blocks"]
    assert sum(site.peak_bytes for site in at_peak) >= 400 * 2_400_000
    assert abs(sum(site.peak_bytes for site in snapshot.sites()) - snapshot.peak_bytes) < 0.05 * snapshot.peak_bytes


def test_arguments():
    """What is out of range or of another type is refused, in these words."""
    with pytest.raises(ValueError, match=r"^sampling_rate_kb must be >= 1$"):
        memprof.start(0)
    with pytest.raises(ValueError, match=r"^sampling_rate_kb must be <= 1048576$"):
        memprof.start(2**20 + 1)
    with pytest.raises(TypeError, match=r"^sampling_rate_kb must be int, not float$"):
        memprof.start(1.5)
    memprof.start(2**20)
    with pytest.raises(RuntimeError, match=r"^Memory profiler is already running$"):
        memprof.start(0)


def test_context_manager():
    """The snapshot is there after the block, also when it raises."""
    profiler = memprof.MemoryProfiler(sampling_rate_kb=1)
    assert profiler.snapshot is None
    with pytest.raises(KeyError), profiler:
        kept = hold_blocks(100, 5000)
        raise KeyError
    assert not memprof._running
    assert profiler.snapshot.live_samples > 0
    assert len(kept) == 100


def test_files(tmp_path):
    """Every format is written; weights add up to the estimate; an unknown format is refused."""
    memprof.start(sampling_rate_bytes=4096)
    kept = hold_blocks(100, 50_000)
    memprof.stop()
    snapshot = memprof.get_snapshot()
    with pytest.raises(ValueError, match=r"^Unknown format: nope$"):
        snapshot.save(tmp_path / "x", format="nope")
    snapshot.save(tmp_path / "heap.json")
    data = json.loads((tmp_path / "heap.json").read_text())
    assert {profile["unit"] for profile in data["profiles"]} == {"bytes"}
    assert sum(sum(profile["weights"]) for profile in data["profiles"]) == snapshot.estimated_heap_bytes
    snapshot.save(tmp_path / "heap.collapsed", format="collapsed")
    lines = (tmp_path / "heap.collapsed").read_text().splitlines()
    assert sum(int(line.rpartition(" ")[2]) for line in lines) == snapshot.estimated_heap_bytes
    for format in ("pprof", "svg", "spprof"):
        snapshot.save(tmp_path / format, format=format)
        assert (tmp_path / format).stat().st_size > 0
    assert len(kept) == 100


def test_the_file_holds_what_the_snapshot_does(tmp_path):
    """The four views and the peak survive in the lossless file and in pprof."""
    memprof.start(sampling_rate_bytes=4096)
    kept = hold_blocks(100, 50_000)
    hold_blocks(100, 50_000)
    memprof.stop()
    snapshot = memprof.get_snapshot()
    sites = snapshot.sites()
    for name in ("heap.spprof", "heap.pb.gz"):
        snapshot.save(tmp_path / name, format=None)
        profile = spprof.load(tmp_path / name)
        assert sum(sample.weight_ns for sample in profile.samples) == snapshot.inuse_space.value
        profile.save(tmp_path / "again.pb.gz")
        values = pprof_totals(tmp_path / "again.pb.gz")
        assert values == {
            "alloc_objects": snapshot.alloc_objects.value,
            "alloc_space": snapshot.alloc_space.value,
            "inuse_objects": snapshot.inuse_objects.value,
            "inuse_space": snapshot.inuse_space.value,
        }
    assert sum(site.alloc_count for site in sites) == snapshot.alloc_objects.value
    assert snapshot.alloc_space.value > snapshot.inuse_space.value + 4_000_000
    assert len(kept) == 100


def pprof_totals(path):
    """Sums of a pprof file's values by the name of their type, read from its protocol buffer by hand."""

    def fields(data):
        at = 0
        while at < len(data):
            key, at = varint(data, at)
            if key & 7 == 0:
                value, at = varint(data, at)
            else:
                assert key & 7 == 2
                length, at = varint(data, at)
                value = data[at : at + length]
                at += length
            yield key >> 3, value

    def varint(data, at):
        value = shift = 0
        while True:
            byte = data[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value, at

    file = list(fields(gzip.decompress(path.read_bytes())))
    strings = [value.decode() for number, value in file if number == 6]
    types = [strings[dict(fields(value))[1]] for number, value in file if number == 1]
    totals = dict.fromkeys(types, 0)
    for number, value in file:
        if number == 2:
            packed = dict(fields(value))[2]
            at = 0
            for kind in types:
                amount, at = varint(packed, at)
                totals[kind] += amount
    return totals


def test_stack_of_a_sample_is_the_programs():
    """Leaf first, each frame at the line that was executing."""

    def inner():
        return bytes(777_777)

    memprof.start(sampling_rate_bytes=64)
    block = inner()
    snapshot = memprof.get_snapshot()
    sample = next(s for s in snapshot.samples if s.size > 777_777 and s.size < 778_000)
    python = [frame for frame in sample.stack if frame.is_python]
    here = test_stack_of_a_sample_is_the_programs.__code__.co_firstlineno
    assert [frame.line - here for frame in python[:2]] == [4, 7]
    assert python[0].function.endswith("inner")
    assert len(block) == 777_777


def test_life_cycle(run_program):
    """Before the first start, after shutdown, and what may be called twice."""
    run_program(
        """
        import spprof.memprof as m

        def refused(call, words):
            try:
                call()
            except RuntimeError as error:
                assert str(error) == words, error
            else:
                raise AssertionError(call)

        assert (m._running, m._initialized, m._shutdown) == (False, False, False)
        refused(m.get_snapshot, "Memory profiler is not initialized")
        refused(m.get_stats, "Memory profiler is not initialized")
        m.stop()
        m.start()
        m._running = False
        assert (m._running, m._initialized, m._shutdown) == (True, True, False)
        m.shutdown()
        m.shutdown()
        m.stop()
        assert (m._running, m._initialized, m._shutdown) == (False, False, True)
        refused(m.start, "Cannot restart after shutdown")
        refused(m.get_snapshot, "Memory profiler is not initialized")
        refused(m.get_stats, "Memory profiler is not initialized")
        """
    )


def test_shutdown_takes_the_hooks_out(run_program):
    """Afterwards malloc and CPython's allocators are called as if we had never been there."""
    run_program(
        """
        import ctypes, spprof.memprof as m

        class Allocator(ctypes.Structure):
            _fields_ = [(name, ctypes.c_void_p) for name in ("ctx", "malloc", "calloc", "realloc", "free")]

        def now():
            found = []
            for domain in range(3):
                allocator = Allocator()
                ctypes.pythonapi.PyMem_GetAllocator(domain, ctypes.byref(allocator))
                found.append(tuple(getattr(allocator, name) for name, _ in Allocator._fields_))
            return found

        before = now()
        m.start(sampling_rate_bytes=64)
        kept = [bytes(i) for i in range(2000)]
        assert now() != before
        m.shutdown()
        assert now() == before
        del kept
        """
    )
