"""One measurement: clocks of the thread, memory of the process, samples or exact counts; and `PerformanceStats`, their sum.

Runs on the thread that is measured, around what is measured. The sampler's run is shared by all measurements that overlap.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Optional

from . import _native, profiler
from ._profile import Profile
from ._settings import checked

ENGINES = ("sampler", "cprofile", "none")
MB = 1e6
TOP = 20
_INTERVAL_MS = 1
_OWN_FOLDER = os.path.dirname(__file__)


class Clocks:
    """The clocks of the calling thread, read together."""

    def __init__(self) -> None:
        self.thread = threading.get_native_id()
        self.wall_ns = time.perf_counter_ns()
        self.cpu_ns = time.thread_time_ns()
        self.queued_ns = self._queued()
        self.switches = self._switches()

    def _queued(self) -> Optional[int]:
        """How long the thread was ready and did not run; None where the kernel does not count it."""
        try:
            with open(f"/proc/self/task/{self.thread}/schedstat", "rb") as file:
                return int(file.read().split()[1])
        except (OSError, IndexError, ValueError):
            return None

    def _switches(self) -> Optional[int]:
        import resource

        who = getattr(resource, "RUSAGE_THREAD", None)
        return None if who is None else resource.getrusage(who).ru_nvcsw


class PerformanceStats:
    """What was measured: of one section, or of all calls of a function together.

    Times are in seconds, memory in megabytes (10^6 bytes). Before the first measurement everything is zero and `calls` is 0.
    """

    def __init__(self, name: Optional[str] = None) -> None:
        self.name = name
        #: How many times it was measured.
        self.calls = 0
        #: When the last measurement began, as `time.time()`.
        self.start_time = 0.0
        #: Elapsed time.
        self.wall_time = 0.0
        #: Processor time of the thread.
        self.cpu_time = 0.0
        #: Time the thread was ready while the system ran others; None where that is not known.
        self.queued_time: Optional[float] = 0.0
        #: Time the thread waited: for input and output, sleep, locks, and for Python's own lock.
        self.io_wait_time = 0.0
        #: How often it gave up the processor to wait; None where that is not known.
        self.voluntary_switches: Optional[int] = 0
        #: What the memory of the process was at the start, at the end and at its peak, in the last measurement.
        self.memory_snapshot: Optional[dict[str, float]] = None
        #: The largest increase of memory over the start, in one measurement.
        self.memory_increase_mb = 0.0
        #: The `Profile` or `cProfile.Profile` of the last measurement; None when there is none, and `cpu_note` says why.
        self.cpu_profile: Any = None
        self.cpu_note = "nothing was measured yet"
        #: `pstats.Stats` of all measurements, with `engine="cprofile"`; else None.
        self.cpu_profile_stats: Any = None
        self._samples: dict[tuple[str, str, int], list[int]] = {}
        self._sample_count = 0

    def to_dict(self) -> dict[str, Any]:
        """`memory`, `cpu`, `io_wait` (seconds), and with them `name`, `calls`, `time`, `cpu_time`, `queued`, `off_cpu`."""
        return {
            "name": self.name,
            "calls": self.calls,
            "time": self.wall_time,
            "cpu_time": self.cpu_time,
            "off_cpu": self.wall_time - self.cpu_time,
            "queued": self.queued_time,
            "voluntary_switches": self.voluntary_switches,
            "io_wait": self.io_wait_time,
            "memory": self._get_memory_stats(),
            "cpu": self._get_cpu_stats(),
        }

    def _get_memory_stats(self) -> Optional[dict[str, float]]:
        """`current_mb`, `peak_mb`, `start_mb` of the process and `increase_mb`, the peak over the start; None before."""
        if self.memory_snapshot is None:
            return None
        return {**self.memory_snapshot, "increase_mb": self.memory_increase_mb}

    def _get_cpu_stats(self) -> Optional[dict[str, Any]]:
        """`profile_data` as text, `time`, and as data `samples` and `top`: functions with most time of their own first."""
        if not self.calls:
            return None
        top = self._top()
        lines = [f"{row['self_time']:10.6f} s  {row['total_time']:10.6f} s  {row['function']} ({row['place']})" for row in top]
        text = "\n".join([f"{'self':>12}  {'total':>12}  function", *lines]) if lines else self.cpu_note
        return {"time": self.cpu_time, "samples": self._sample_count, "top": top, "profile_data": text, "note": self.cpu_note}

    def _top(self) -> list[dict[str, Any]]:
        if self.cpu_profile_stats is not None:
            rows = [
                (name, file, line, own, total, calls)
                for (file, line, name), (_, calls, own, total, _) in self.cpu_profile_stats.stats.items()
            ]
        else:
            rows = [
                (name, file, line, own / 1e9, total / 1e9, None) for (name, file, line), (own, total) in self._samples.items()
            ]
        rows.sort(key=lambda row: (-row[3], -row[4]))
        return [
            {
                "function": name,
                "place": f"{file}:{line}",
                "self_time": own,
                "total_time": total,
                **({} if calls is None else {"calls": calls}),
            }
            for name, file, line, own, total, calls in rows[:TOP]
        ]

    def _add(self, before: Clocks, after: Clocks, start_bytes: int, end_bytes: int, peak_bytes: int) -> None:
        wall, cpu = (after.wall_ns - before.wall_ns) / 1e9, (after.cpu_ns - before.cpu_ns) / 1e9
        known = before.queued_ns is not None and after.queued_ns is not None
        queued = (after.queued_ns - before.queued_ns) / 1e9 if known else None  # type: ignore[operator]
        self.calls += 1
        self.wall_time += wall
        self.cpu_time += cpu
        self.queued_time = None if queued is None or self.queued_time is None else self.queued_time + queued
        self.io_wait_time += max(0.0, wall - cpu - (queued or 0.0))
        if before.switches is None or after.switches is None or self.voluntary_switches is None:
            self.voluntary_switches = None
        else:
            self.voluntary_switches += after.switches - before.switches
        self.memory_snapshot = {"start_mb": start_bytes / MB, "current_mb": end_bytes / MB, "peak_mb": peak_bytes / MB}
        self.memory_increase_mb = max(self.memory_increase_mb, (peak_bytes - start_bytes) / MB)

    def __repr__(self) -> str:
        return f"<PerformanceStats {self.name or ''}: {self.calls} measured, {self.wall_time:.6f} s, {self.cpu_time:.6f} s CPU>"


class _Sampling:
    """One run of the sampler for all sections that overlap, each of which gets its own part of it when the last has ended."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.open = 0
        self.run_number: Optional[int] = None
        self.start_ns = 0
        self.waiting: list[tuple[PerformanceStats, int, int, int]] = []

    def enter(self) -> bool:
        """Whether a run of ours is going on."""
        with self.lock:
            if self.run_number is None and not _native._is_active():
                self.start_ns = time.perf_counter_ns()
                self.run_number = profiler.begin(checked(_INTERVAL_MS, 100, "cpu", "auto", None), None, None)
            self.open += self.run_number is not None
            return self.run_number is not None

    def leave(self, stats: PerformanceStats, thread: int, from_ns: int, to_ns: int) -> None:
        with self.lock:
            self.waiting.append((stats, thread, from_ns - self.start_ns, to_ns - self.start_ns))
            self.open -= 1
            if self.open:
                stats.cpu_note = "known when the sections around it have ended"
                return
            run_number, self.run_number = self.run_number, None
            waiting, self.waiting = self.waiting, []
            if run_number is None or not profiler.is_running(run_number):
                for stats, *_ in waiting:
                    stats.cpu_note = "somebody stopped the sampler in between, and has its profile"
                return
            native, _ = profiler.end()
        for stats, thread, from_ns, to_ns in waiting:
            self._hand_out(native, stats, thread, from_ns, to_ns)

    @staticmethod
    def _hand_out(native: _native.NativeProfile, stats: PerformanceStats, thread: int, from_ns: int, to_ns: int) -> None:
        rows = [row["row"] for row in native.threads() if row["thread_id"] == thread]
        part = native.filter(rows, max(0, from_ns), max(0, to_ns))
        stats.cpu_profile = Profile._from_native(part)
        stats.cpu_note = f"{part.sample_count} samples in the last measurement, one a millisecond of the thread's CPU time"
        stats._sample_count += part.sample_count
        for row in part.functions():
            if os.path.dirname(row["file"]) == _OWN_FOLDER:
                continue
            sums = stats._samples.setdefault((row["name"], row["file"], row["first_line"]), [0, 0])
            sums[0] += row["self_ns"]
            sums[1] += row["total_ns"]


_sampling = _Sampling()
#: The last measurement that ended.
last: list[PerformanceStats] = []


def _after_fork_in_child() -> None:
    global _sampling
    _sampling = _Sampling()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


@contextmanager
def measured(stats: PerformanceStats, engine: str) -> Iterator[None]:
    """Measures the block into `stats`."""
    sampling = _sampling
    sampled = engine == "sampler" and sampling.enter()
    counter = None
    if engine == "cprofile":
        import cProfile

        counter = cProfile.Profile()
    stats.start_time = time.time()
    watch = _native.MemoryWatch()
    start_bytes = _native._resident_bytes()
    before = Clocks()
    try:
        if counter is not None:
            counter.enable()
        yield
    finally:
        if counter is not None:
            counter.disable()
        after = Clocks()
        peak_bytes = watch.stop()
        if after.thread != before.thread:
            note = "the section began in one thread and ended in another: its times would mean nothing"
            if sampled and sampling is _sampling:
                sampling.leave(PerformanceStats(), before.thread, before.wall_ns, after.wall_ns)
            raise RuntimeError(note)
        stats._add(before, after, start_bytes, _native._resident_bytes(), max(peak_bytes, start_bytes))
        stats.cpu_note = {
            "sampler": "no samples: another run of the sampler was going on, and its profile has them",
            "none": "not asked for",
        }.get(engine, "exact counts by cProfile")
        if counter is not None:
            _count(stats, counter)
        # In a child after fork the run is its parent's.
        if sampled and sampling is _sampling:
            sampling.leave(stats, before.thread, before.wall_ns, after.wall_ns)
        last[:] = [stats]


def _count(stats: PerformanceStats, counter: Any) -> None:
    import pstats

    stats.cpu_profile = counter
    counted: Any = pstats.Stats(counter)
    # What the profiler calls to end itself is no part of the program.
    counted.stats = {key: value for key, value in counted.stats.items() if "_lsprof.Profiler" not in key[2]}
    if stats.cpu_profile_stats is None:
        stats.cpu_profile_stats = counted
    else:
        stats.cpu_profile_stats.add(counted)
