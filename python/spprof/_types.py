"""The data classes of a profile's parts. Loaded with their first use, not by `import spprof`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Optional


@dataclass(frozen=True)
class Frame:
    """One level of a call stack."""

    #: The qualified name where the interpreter knows it (3.11+), else the name.
    function_name: str
    #: As in the code object; of compiled code its source file where debug information tells it, else the module.
    filename: str
    #: The line that was executing, for the leaf and for its callers; 0 when unknown.
    lineno: int
    #: True for frames of compiled code: C, C++, Rust...
    is_native: bool = False
    #: Path of the file the compiled code was loaded from; empty for Python code.
    module: str = ""


@dataclass(frozen=True)
class Sample:
    """One look at one thread."""

    #: Nanoseconds since profiling started.
    timestamp_ns: int
    #: The operating system's id of the thread.
    thread_id: int
    #: The Python thread's name, else the operating system's; None when there is neither.
    thread_name: Optional[str]
    #: The call stack, leaf first.
    frames: Sequence[Frame]
    #: CPU time (or elapsed time, by the wall clock) the sample stands for; None: the interval.
    weight_ns: Optional[int] = field(default=None, compare=False)
    #: How many samples this one holds: more than one after the memory limit made the timeline coarser.
    count: int = field(default=1, compare=False)


@dataclass(frozen=True)
class StackTrace:
    """A call stack of a thread, fit for use as a dictionary key."""

    #: Leaf first.
    frames: tuple[Frame, ...]
    thread_id: int
    thread_name: Optional[str] = field(default=None, hash=False)


@dataclass(frozen=True)
class AggregatedStack:
    """All samples of one stack in one thread."""

    #: Leaf first.
    frames: tuple[Frame, ...]
    thread_id: int
    thread_name: Optional[str]
    #: How many samples.
    count: int
    #: The time they stand for; None: `count` intervals.
    weight_ns: Optional[int] = field(default=None, compare=False)


@dataclass(frozen=True)
class Module:
    """A file of compiled code that frames are in."""

    path: str
    #: In hexadecimal digits, as tools print it; empty when the file has none.
    build_id: str


@dataclass(frozen=True)
class NativeFrame:
    """A frame of C or C++ code."""

    #: The instruction pointer.
    ip: int
    symbol: str
    filename: str
    #: Bytes from the start of the symbol.
    offset: int
    #: Whether the symbol is known.
    resolved: bool


@dataclass
class ProfilerStats:
    """Counters of the run in progress."""

    collected_samples: int
    #: Samples that were due and could not be taken.
    dropped_samples: int
    duration_ms: float
    #: Time the profiler took (its signal handler and its own thread), measured, as a percentage of the process's CPU time.
    overhead_estimate_pct: float
    interval_ns: int = 0
    #: "timer", "perf" or "tick", and why.
    engine: str = ""
    engine_reason: str = ""
    #: Samples per second of CPU time (by the wall clock: of a thread's life), asked for and delivered.
    requested_rate_hz: float = 0.0
    delivered_rate_hz: float = 0.0
    #: Time the program's threads spent in the signal handler.
    handler_ns: int = 0
    #: Median of one run of the handler, to 64 ns.
    handler_median_ns: int = 0
    #: CPU time of the profiler's own thread.
    profiler_cpu_ns: int = 0
    process_cpu_ns: int = 0
    #: Time the samples stand for, and time of the process no sample could claim.
    weight_ns: int = 0
    unattributed_ns: int = 0
    threads: int = 0
    memory_bytes: int = 0
    #: What went wrong how often, by reason. Always the full list.
    losses: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def _from_native(cls, counters: Mapping[str, Any]) -> ProfilerStats:
        """From `_native._get_stats()`, whose names are these fields' save for the two that are worked out here."""
        names = {f.name for f in fields(cls)}
        spent_ns = counters["handler_ns"] + counters["profiler_cpu_ns"]
        process_ns = counters["process_cpu_ns"]
        return cls(
            duration_ms=counters["duration_ns"] / 1e6,
            overhead_estimate_pct=100.0 * spent_ns / process_ns if process_ns else 0.0,
            **{name: value for name, value in counters.items() if name in names},
        )
