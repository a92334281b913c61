"""The data classes of the heap profiler: lazy views of a native snapshot. Loaded by `spprof.memprof`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Union, overload

from . import _native

PathLike = Union[str, "os.PathLike[str]"]
#: What `save()` can write.
FORMATS = ("speedscope", "collapsed", "pprof", "svg", "spprof")
#: Who was asked for the memory, by the number in a sample.
DOMAINS = ("malloc", "python", "mmap")
#: The 95 % quantile of the normal distribution.
Z95 = 1.959964


@dataclass(frozen=True)
class StackFrame:
    """One level of an allocation's call stack."""

    #: Of a native frame: the address of the call; else 0.
    address: int
    function: str
    #: Source file, or the object file of a native frame; empty when unknown.
    file: str
    #: 0 when unknown.
    line: int
    is_python: bool = False

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})" if self.line > 0 else f"{self.function} ({self.file})"


@dataclass
class AllocationSample:
    """A sampled block of memory."""

    address: int
    #: Bytes asked for.
    size: int
    #: The sampling rate it was taken at, in bytes.
    weight: int
    #: Bytes it stands for: size / (1 - exp(-size / weight)), rounded up or down by chance.
    estimated_bytes: int
    #: On the clock of `time.monotonic_ns()`.
    timestamp_ns: int
    #: From its allocation to its end; None while it is alive.
    lifetime_ns: Optional[int] = None
    #: Leaf first.
    stack: Sequence[StackFrame] = field(default_factory=list)
    #: Garbage collections that had ended before it, since the first start.
    gc_epoch: int = 0
    #: Blocks it stands for.
    estimated_count: int = 1
    #: The operating system's id of the thread that allocated it.
    thread_id: int = 0
    #: "malloc", "python" (CPython's own allocator) or "mmap" (mapped by the program itself).
    domain: str = "malloc"

    @property
    def is_live(self) -> bool:
        """Whether it was not freed when the snapshot was taken."""
        return self.lifetime_ns is None


@dataclass
class FramePointerHealth:
    """How far native stacks can be believed. (Native frames are found by unwind tables, or not at all.)"""

    shallow_stack_warnings: int = 0
    total_native_stacks: int = 0
    avg_native_depth: float = 0.0
    min_native_depth: int = 0

    @property
    def truncation_rate(self) -> float:
        """Share of the native stacks that end too early."""
        return self.shallow_stack_warnings / self.total_native_stacks if self.total_native_stacks else 0.0

    @property
    def confidence(self) -> str:
        """ "high", "medium" or "low"."""
        if self.truncation_rate < 0.05:
            return "high"
        return "medium" if self.truncation_rate < 0.20 else "low"

    @property
    def recommendation(self) -> Optional[str]:
        """What would make it better; None when nothing needs to."""
        if self.confidence == "high":
            return None
        return (
            f"{self.truncation_rate:.0%} of the native stacks end too early; "
            "compile C extensions with -fno-omit-frame-pointer to see all of them"
        )


@dataclass
class MemProfStats:
    """Counters of the heap profiler since its first start."""

    total_samples: int
    live_samples: int
    freed_samples: int
    unique_stacks: int
    estimated_heap_bytes: int
    #: Share of the table of live samples that is in use.
    heap_map_load_percent: float
    #: Live samples that found no room in the table.
    collisions: int
    sampling_rate_bytes: int
    shallow_stack_warnings: int = 0
    #: Blocks that had been freed unseen when their address came up again.
    death_during_birth: int = 0
    zombie_races_detected: int = 0
    #: The rate in use now: coarser than asked for while too many samples a second would come. 0: stopped.
    current_rate_bytes: int = 0
    #: What the profiler itself takes, roughly.
    memory_bytes: int = 0
    #: What was lost or cut, how often, by reason. Always the full list.
    losses: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def _from_native(cls, counters: Mapping[str, Any]) -> MemProfStats:
        losses = counters["losses"]
        names = cls.__dataclass_fields__
        return cls(
            **{name: value for name, value in counters.items() if name in names},
            collisions=losses["table_full"],
            death_during_birth=losses["unseen_frees"],
            zombie_races_detected=losses["not_put_back"],
        )


@dataclass(frozen=True)
class Estimate:
    """A total that was estimated from samples."""

    value: int
    #: Typical distance from the truth.
    standard_error: float

    @property
    def interval(self) -> tuple[float, float]:
        """The truth lies within these, in 95 of 100 cases."""
        return self.value - Z95 * self.standard_error, self.value + Z95 * self.standard_error


@dataclass(frozen=True)
class Site:
    """Everything that was allocated at one stack. Bytes and counts are estimates."""

    #: Leaf first.
    stack: Sequence[StackFrame]
    samples: int
    alloc_bytes: int
    alloc_count: int
    freed_samples: int
    freed_bytes: int
    freed_count: int
    live_bytes: int
    live_count: int
    #: What it held when the whole heap was largest.
    peak_bytes: int
    peak_count: int
    #: Freed within a millisecond.
    temporary_bytes: int
    temporary_count: int
    #: Mean over the freed samples; None when there are none.
    mean_lifetime_ns: Optional[float]


class _Rows(Sequence[AllocationSample]):
    """Samples that are made when they are looked at."""

    def __init__(self, native: _native.NativeHeap, stacks: dict[int, list[StackFrame]], freed: bool) -> None:
        self._native = native
        self._stacks = stacks
        self._row = native.freed if freed else native.sample
        self._length = native.freed_count if freed else len(native)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> AllocationSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[AllocationSample]: ...
    def __getitem__(self, index: Union[int, slice]) -> Union[AllocationSample, list[AllocationSample]]:
        if isinstance(index, slice):
            return [self._make(i) for i in range(*index.indices(self._length))]
        position = index + self._length if index < 0 else index
        if not 0 <= position < self._length:
            raise IndexError("sample index out of range")
        return self._make(position)

    def __iter__(self) -> Iterator[AllocationSample]:
        return map(self._make, range(self._length))

    def __repr__(self) -> str:
        return f"<{self._length} samples>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def _make(self, index: int) -> AllocationSample:
        address, size, rate, estimated, count, time_ns, lifetime, stack, thread, epoch, domain = self._row(index)
        return AllocationSample(
            address=address,
            size=size,
            weight=rate,
            estimated_bytes=estimated,
            timestamp_ns=time_ns,
            lifetime_ns=lifetime,
            stack=_stack(self._native, self._stacks, stack),
            gc_epoch=epoch,
            estimated_count=count,
            thread_id=thread,
            domain=DOMAINS[domain],
        )


def _stack(native: _native.NativeHeap, known: dict[int, list[StackFrame]], stack: int) -> list[StackFrame]:
    frames = known.get(stack)
    if frames is None:
        frames = known[stack] = [StackFrame(*frame) for frame in native.stack(stack)]
    return frames


@dataclass
class HeapSnapshot:
    """What was alive at one moment, and what was allocated and freed up to it.

    `samples` behaves as a list of the live samples; every total is the sum of theirs.
    """

    samples: Sequence[AllocationSample]
    #: Taken since the first start, freed ones included.
    total_samples: int
    live_samples: int
    #: Bytes that are alive: the sum over the samples.
    estimated_heap_bytes: int
    #: On the clock of `time.monotonic_ns()`, as the samples'.
    timestamp_ns: int
    frame_pointer_health: FramePointerHealth
    #: What was seen how, and what was lost: the rate, the hooks, losses by reason, notes.
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    _source: Optional[_native.NativeHeap] = field(default=None, compare=False, repr=False)

    @classmethod
    def _from_native(cls, native: _native.NativeHeap) -> HeapSnapshot:
        totals = native.totals()
        stacks: dict[int, list[StackFrame]] = {}
        snapshot = cls(
            samples=_Rows(native, stacks, freed=False),
            total_samples=totals["total_samples"],
            live_samples=len(native),
            estimated_heap_bytes=totals["live_bytes"][0],
            timestamp_ns=totals["time_ns"],
            frame_pointer_health=FramePointerHealth(),
            metadata=totals,
            _source=native,
        )
        snapshot._stacks = stacks
        return snapshot

    def __post_init__(self) -> None:
        self._stacks: dict[int, list[StackFrame]] = {}

    def _total(self, name: str) -> Estimate:
        return Estimate(*self.metadata[name])

    @property
    def inuse_space(self) -> Estimate:
        """Bytes alive."""
        return self._total("live_bytes")

    @property
    def inuse_objects(self) -> Estimate:
        """Blocks alive."""
        return self._total("live_count")

    @property
    def alloc_space(self) -> Estimate:
        """Bytes allocated since the first start."""
        return self._total("alloc_bytes")

    @property
    def alloc_objects(self) -> Estimate:
        """Blocks allocated since the first start."""
        return self._total("alloc_count")

    @property
    def peak_bytes(self) -> int:
        """The most that was ever alive; where, the sites' `peak_bytes` tell."""
        return int(self.metadata["peak_bytes"])

    @property
    def peak_timestamp_ns(self) -> int:
        """When that was."""
        return int(self.metadata["peak_time_ns"])

    @property
    def bytes_by_domain(self) -> dict[str, int]:
        """Live bytes by who was asked for them: "malloc", "python", "mmap"."""
        return {domain: figures[0] for domain, figures in zip(DOMAINS, self.metadata["by_domain"])}

    @property
    def freed_samples(self) -> Sequence[AllocationSample]:
        """The last few thousand samples that were freed, with their lifetimes."""
        return _Rows(self._behind(), self._stacks, freed=True)

    @property
    def history(self) -> list[tuple[int, int]]:
        """(time in ns, live bytes) since the first start, at most some thousand points."""
        return [(time_ns, live) for time_ns, live, _, _ in self._behind().history()]

    def sites(self) -> list[Site]:
        """Every stack that ever allocated, those that hold most first."""
        native = self._behind()
        result = []
        for stack, figures in native.sites():
            lifetime_ns = figures.pop("lifetime_ns")
            mean = lifetime_ns / figures["freed_samples"] if figures["freed_samples"] else None
            result.append(Site(stack=_stack(native, self._stacks, stack), mean_lifetime_ns=mean, **figures))
        return result

    def top_allocators(self, n: int = 10) -> list[dict[str, Any]]:
        """The lines that hold most memory, as dicts: function, file, line, estimated_bytes, sample_count.

        A line is that of the innermost Python frame; where there is none, the native function.
        """
        lines: dict[tuple[str, str, int], list[int]] = {}
        for sample in self.samples:
            figures = lines.setdefault(responsible(sample.stack), [0, 0])
            figures[0] += sample.estimated_bytes
            figures[1] += 1
        rows = sorted(lines.items(), key=lambda row: (-row[1][0], row[0]))
        return [
            {"function": function, "file": file, "line": line, "estimated_bytes": size, "sample_count": count}
            for (function, file, line), (size, count) in rows[:n]
        ]

    def diff(self, earlier: HeapSnapshot) -> list[dict[str, Any]]:
        """What changed since an earlier snapshot, by line, largest change first.

        Dicts: function, file, line, estimated_bytes (now), growth_bytes, growth_count, standard_error (of the growth, from the
        samples that only one of the two has).
        """
        lines: dict[tuple[str, str, int], list[float]] = {}
        common = {(s.address, s.timestamp_ns) for s in self.samples} & {(s.address, s.timestamp_ns) for s in earlier.samples}
        for samples, sign in ((self.samples, 1), (earlier.samples, -1)):
            for sample in samples:
                figures = lines.setdefault(responsible(sample.stack), [0, 0, 0, 0.0])
                if sign > 0:
                    figures[0] += sample.estimated_bytes
                if (sample.address, sample.timestamp_ns) not in common:
                    figures[1] += sign * sample.estimated_bytes
                    figures[2] += sign * sample.estimated_count
                    figures[3] += sample.estimated_bytes * max(sample.estimated_bytes - sample.size, 0)
        rows = sorted(lines.items(), key=lambda row: (-abs(row[1][1]), row[0]))
        return [
            {
                "function": function,
                "file": file,
                "line": line,
                "estimated_bytes": int(now),
                "growth_bytes": int(growth),
                "growth_count": int(count),
                "standard_error": variance**0.5,
            }
            for (function, file, line), (now, growth, count, variance) in rows
        ]

    def top_growth(self, earlier: HeapSnapshot, n: int = 10) -> list[dict[str, Any]]:
        """The lines that grew most since an earlier snapshot; as `diff()`, without those that shrank."""
        grown = [row for row in self.diff(earlier) if row["growth_bytes"] > 0]
        return sorted(grown, key=lambda row: -row["growth_bytes"])[:n]

    def save(self, path: PathLike, format: Optional[str] = "speedscope") -> None:
        """Write the live samples to a file, weighed by the bytes they stand for.

        Args:
            path: the file.
            format: "speedscope", "collapsed", "pprof", "svg" or "spprof"; None goes by the suffix.

        Raises:
            ValueError: the format is unknown.
            OSError: the file cannot be written.
        """
        if format is not None and format not in FORMATS:
            raise ValueError(f"Unknown format: {format}")
        self._behind().profile().write(os.fsdecode(path), format)

    def _behind(self) -> _native.NativeHeap:
        if self._source is None:
            raise ValueError("this snapshot was put together by hand: it has no more than its samples")
        return self._source


def responsible(stack: Sequence[StackFrame]) -> tuple[str, str, int]:
    """The innermost Python frame; else the innermost one; function, file, line."""
    for frame in stack:
        if frame.is_python:
            return frame.function, frame.file, frame.line
    if stack:
        return stack[0].function, stack[0].file, stack[0].line
    return "<unknown>", "", 0
