"""`profile_function`, `profile_section`, `PerformanceStats`: figures that follow what the program does."""

from __future__ import annotations

import asyncio
import mmap
import pstats
import threading
import time
from typing import Any

import pytest
import spprof
from spprof.profiling import (
    PerformanceStats,
    ProfiledFunction,
    compare_profiles,
    get_cpu_profile,
    get_memory_profile,
    get_memory_usage,
    profile_function,
    profile_section,
)


def pages(size: int) -> mmap.mmap:
    """So many bytes of new memory, all of it in use: what an allocator gives may be memory that it had kept."""
    block = mmap.mmap(-1, size)
    block[::4096] = b"x" * len(block[::4096])
    return block


def burn(seconds: float) -> None:
    """Processor time of this thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(200))


def test_a_decorated_function_has_stats_from_the_start() -> None:
    """The example of the documents, before and after a call; the calls add up."""

    @profile_function
    def expensive_function(n: int) -> int:
        """Its text."""
        burn(0.03)
        return n + 1

    assert isinstance(expensive_function, ProfiledFunction)
    assert (expensive_function.__name__, expensive_function.__doc__) == ("expensive_function", "Its text.")
    empty = expensive_function.performance_stats.to_dict()
    assert (empty["calls"], empty["memory"], empty["cpu"], empty["io_wait"]) == (0, None, None, 0.0)
    assert expensive_function(1) == 2
    assert expensive_function(n=2) == 3
    stats = expensive_function.performance_stats
    assert isinstance(stats, PerformanceStats) and stats.calls == 2
    assert stats.cpu_time >= 0.06
    # Two clocks, not read at the same instant.
    assert stats.wall_time >= stats.cpu_time * 0.99
    data = stats.to_dict()
    assert data["cpu"]["time"] == stats.cpu_time and data["time"] == stats.wall_time
    assert "burn" in data["cpu"]["profile_data"] and data["cpu"]["samples"] > 0
    top = data["cpu"]["top"]
    assert [row["self_time"] for row in top] == sorted((row["self_time"] for row in top), reverse=True)


def test_no_frame_of_ours() -> None:
    """What measures is not in what was measured, though it is on the stack."""
    profiled = profile_function(burn)
    thread = threading.Thread(target=profiled, args=(0.05,))
    thread.start()
    thread.join()
    top = profiled.performance_stats.to_dict()["cpu"]["top"]
    assert {"burn", "run"} <= {row["function"].rpartition(".")[2] for row in top}
    assert not [row for row in top if "/spprof/" in row["place"]]


def test_waiting_is_neither_running_nor_others() -> None:
    """Sleep is waiting, work is not, and a busy second thread changes neither."""
    busy = threading.Thread(target=burn, args=(0.2,))
    with profile_section("sleeping") as sleeping:
        busy.start()
        busy.join()
    with profile_section("working") as working:
        burn(0.1)
    assert sleeping.cpu_time < 0.1 <= working.cpu_time
    assert sleeping.io_wait_time >= 0.1
    assert sleeping.to_dict()["off_cpu"] == pytest.approx(sleeping.wall_time - sleeping.cpu_time)
    assert sleeping.voluntary_switches is None or sleeping.voluntary_switches >= 1


@pytest.mark.parametrize("times", [1, 2])
def test_memory_is_the_peak_over_the_start(times: int) -> None:
    """What is held for a moment counts, each time anew; what was held before does not."""
    size_mb = 64
    before = bytearray(10_000_000)
    for _ in range(times):
        with profile_section() as stats:
            pages(size_mb * 1_000_000).close()
    memory = stats.to_dict()["memory"]
    assert size_mb * 0.9 <= memory["increase_mb"] <= size_mb * 1.5
    assert memory["peak_mb"] == pytest.approx(memory["start_mb"] + memory["increase_mb"])
    assert memory["current_mb"] < memory["peak_mb"]
    assert memory == stats._get_memory_stats()
    del before


def test_section_as_in_the_documents(capsys: pytest.CaptureFixture[str]) -> None:
    """The example; and nothing is printed unless asked for."""
    with profile_section("Data Processing") as stats:
        burn(0.02)
    stats_dict = stats.to_dict()
    assert f"CPU time: {stats_dict['cpu']}".startswith("CPU time: {")
    assert f"{stats_dict['memory']['current_mb']:.2f}MB {stats_dict['memory']['peak_mb']:.2f}MB {stats_dict['io_wait']:.4f}s"
    assert stats_dict["name"] == "Data Processing" and stats.start_time <= time.time()
    assert capsys.readouterr().out == ""
    with profile_section("loud", print=True):
        pass
    assert capsys.readouterr().out.startswith("loud: ")


def test_exact_counts_by_cprofile() -> None:
    """The other engine counts calls, over all calls of the function, and leaves its own frames out."""

    def leaf() -> None:
        pass

    @profile_function(engine="cprofile")
    def work() -> None:
        for _ in range(7):
            leaf()

    work()
    work()
    stats = work.performance_stats
    assert isinstance(stats.cpu_profile_stats, pstats.Stats)
    calls = {row["function"]: row["calls"] for row in stats._get_cpu_stats()["top"]}
    assert (calls["leaf"], calls["work"]) == (14, 2)
    assert not [name for name in calls if "disable" in name or "Clocks" in name]


def test_measured_at_once_or_when_asked() -> None:
    """The form of the other document: a mapping that runs the function once; arguments run it at once."""
    ran = []

    def slow_function(*args: Any) -> int:
        ran.append(args)
        burn(0.01)
        return len(args)

    profile = profile_function(slow_function)
    assert ran == []
    assert f"Time: {profile['time']:.3f}s Memory: {profile['memory']:.2f}MB"
    assert profile["time"] >= 0.01 and ran == [()]
    at_once = profile_function(slow_function, 1, 2)
    assert ran == [(), (1, 2)]
    assert (at_once["result"], at_once["calls"]) == (2, 1)
    assert set(at_once) == {"time", "cpu_time", "io_wait", "memory", "calls", "result"}


def test_methods_and_coroutines() -> None:
    """Bound methods keep their stats on the function; coroutines are measured while they run."""

    class Service:
        @profile_function
        def work(self, n: int) -> int:
            return n * 2

    assert Service().work(4) == 8
    assert Service.work.performance_stats.calls == 1

    @profile_function
    async def wait() -> str:
        await asyncio.sleep(0.05)
        return "done"

    assert asyncio.run(wait()) == "done"
    assert wait.performance_stats.calls == 1 and wait.performance_stats.wall_time >= 0.04


def test_nested_sections_share_the_sampler() -> None:
    """Each gets its own part: the outer all of it, the inner what is its own."""
    with profile_section("outer") as outer:
        burn(0.05)
        with profile_section("inner") as inner:
            burn(0.05)
    assert outer.cpu_time >= 0.1 > inner.cpu_time >= 0.05
    seen = [stats.to_dict()["cpu"]["samples"] for stats in (outer, inner)]
    assert seen[0] > seen[1] > 0
    assert not spprof.is_active()


def test_a_run_of_somebody_else_is_left_alone() -> None:
    """The clocks serve all the same, and why there are no samples is said."""
    with spprof.Profiler() as profiler:
        with profile_section() as stats:
            burn(0.01)
        assert spprof.is_active()
    assert stats.cpu_time >= 0.01
    assert "another run of the sampler" in stats.to_dict()["cpu"]["note"]
    assert profiler.profile is not None


def test_exceptions_pass_and_are_measured() -> None:
    """An exception is the caller's; what was measured until then stands."""

    @profile_function
    def fails() -> None:
        burn(0.01)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fails()
    assert fails.performance_stats.calls == 1 and fails.performance_stats.cpu_time >= 0.01


def test_memory_usage_is_a_float_and_a_mapping() -> None:
    """Both forms of the documents; it moves with what the program holds."""
    before = get_memory_usage()
    block = pages(50_000_000)
    mem = get_memory_usage()
    assert f"Memory: {mem:.2f}MB"
    assert isinstance(mem, float) and mem == mem["current_mb"] <= mem["peak_mb"]
    assert 40 <= mem - before <= 80
    del block


def test_profiles_of_the_last_measurement() -> None:
    """The CPU profile is a profile; memory tells places where tracemalloc runs."""
    import tracemalloc

    with profile_section():
        burn(0.02)
    assert isinstance(get_cpu_profile(), spprof.Profile) and get_cpu_profile().sample_count > 0
    with profile_section(engine="none") as stats:
        pass
    with pytest.raises(RuntimeError, match="there is no CPU profile: not asked for"):
        get_cpu_profile()
    assert stats.to_dict()["cpu"]["top"] == []
    assert get_memory_profile()["top"] is None
    tracemalloc.start()
    try:
        kept = [bytes(1_000_000) for _ in range(5)]
        top = get_memory_profile(limit=1)["top"]
    finally:
        tracemalloc.stop()
    assert top[0]["size_mb"] == pytest.approx(5.0, rel=0.01) and "test_profiling.py" in top[0]["place"]
    assert len(kept) == 5


def test_the_heap_profiler_s_snapshot(run_program: Any) -> None:
    """While it runs, the memory profile has what it knows; before and after, nothing."""
    program = """
        from spprof import memprof
        from spprof.profiling import get_memory_profile
        assert get_memory_profile()["heap"] is None
        memprof.start(sampling_rate_kb=4)
        kept = [bytearray(100_000) for _ in range(50)]
        heap = get_memory_profile()["heap"]
        memprof.stop()
        print(type(heap).__name__, len(heap.samples) > 0, get_memory_profile()["heap"])
    """
    assert run_program(program).stdout == "HeapSnapshot True None\n"


def test_compare_profiles() -> None:
    """Two measurements are compared as profiles are; those without samples are told."""
    with profile_section("a") as a:
        burn(0.02)
    with profile_section("b") as b:
        burn(0.2)
    comparison = compare_profiles(a, b)
    assert comparison["summary"]["noise"] == "samples"
    row = next(row for row in comparison["node_comparisons"] if row["name"].endswith(".burn"))
    assert row["regression"] and row["time_diff"] > 0
    with pytest.raises(TypeError, match="has no samples to compare"):
        compare_profiles(PerformanceStats(), b)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: profile_function(int), "int is a class"),
        (lambda: profile_function(3), "not int"),
        (lambda: profile_function(staticmethod(burn)), "goes below @staticmethod"),
        (lambda: profile_function(generator), "generator is a generator function"),
        (lambda: profile_function(engine="cprofile", speed=9), "no option speed"),
    ],
)
def test_the_wrong_kind_of_thing(make: Any, told: str) -> None:
    """What cannot be measured by decorating it is told, when decorating."""
    with pytest.raises(TypeError, match=told):
        make()


def generator() -> Any:
    yield 1


def test_unknown_engine() -> None:
    """Told before anything runs."""
    with pytest.raises(ValueError, match="unknown engine: 'magic'"):
        profile_function(engine="magic")
    with pytest.raises(ValueError, match="unknown engine: 'magic'"), profile_section(engine="magic"):
        pytest.fail("it ran")


def test_a_section_stays_in_its_thread() -> None:
    """Begun here and ended there: its times would mean nothing, which is said."""
    section = profile_section()
    threading_began = threading.Thread(target=section.__enter__)
    threading_began.start()
    threading_began.join()
    with pytest.raises(RuntimeError, match="ended in another"):
        section.__exit__(None, None, None)
    assert not spprof.is_active()
