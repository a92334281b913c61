"""`Profile` and `AggregatedProfile`: what a run gives, and how it is saved.

Saving goes through the native profile behind `samples`. Where there is none, because the samples are the caller's own
list, one is built from them: so there is one writer a format, in Rust, whatever the origin.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Optional, Union

from . import _native
from ._errors import LoadError
from ._samples import Samples
from ._types import AggregatedStack, Module, Sample

if TYPE_CHECKING:
    from .callgraph import CallGraph

PathLike = Union[str, "os.PathLike[str]"]
#: What `save()` can write.
FORMATS = ("speedscope", "collapsed", "pprof", "svg", "spprof")

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass
class Profile:
    """The samples of a run.

    `samples` behaves as a list and may be replaced by one; saving then writes that list.
    """

    #: Naive, in local time.
    start_time: datetime
    end_time: datetime
    #: An int, or a float when the interval is no whole number of milliseconds.
    interval_ms: float
    samples: Sequence[Sample]
    #: Samples that were due and could not be taken.
    dropped_count: int = 0
    #: "3.12.1"
    python_version: str = ""
    #: "Linux-6.1.0-x86_64"
    platform: str = ""
    #: What else is known of the run: clock, engine and why, rates asked for and delivered, losses by reason, cost.
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def _from_native(cls, native: _native.NativeProfile) -> Profile:
        meta = native.metadata()
        start = EPOCH + timedelta(microseconds=meta["start_unix_ns"] // 1000)
        end = start + timedelta(microseconds=meta["duration_ns"] // 1000)
        return cls(
            start_time=_naive_local(start),
            end_time=_naive_local(end),
            interval_ms=_milliseconds(meta["interval_ns"]),
            samples=Samples(native),
            dropped_count=meta["dropped_samples"],
            python_version=meta["python_version"],
            platform=meta["platform"],
            metadata=meta,
        )

    @property
    def sample_count(self) -> int:
        """How many samples were taken; more than `len(samples)` when the memory limit made the timeline coarser."""
        native = _native_of(self.samples)
        if native is not None:
            return native.sample_count
        return sum(sample.count for sample in self.samples)

    @property
    def total_duration_ms(self) -> float:
        """Elapsed time from start to stop."""
        return (self.end_time - self.start_time) / timedelta(milliseconds=1)

    @property
    def effective_rate_hz(self) -> float:
        """Samples per elapsed second; 0.0 when no time went by."""
        duration_ms = self.total_duration_ms
        return 1000.0 * self.sample_count / duration_ms if duration_ms > 0 else 0.0

    def aggregate(self) -> AggregatedProfile:
        """The same profile with equal stacks of a thread put together."""
        native = self._to_native()
        frames = Samples(native)
        stacks = [
            AggregatedStack(frames.stack(stack_id), thread_id, thread_name, count, weight_ns)
            for thread_id, thread_name, stack_id, count, weight_ns in native.aggregate()
        ]
        return AggregatedProfile(
            start_time=self.start_time,
            end_time=self.end_time,
            interval_ms=self.interval_ms,
            stacks=stacks,
            total_samples=self.sample_count,
            dropped_count=self.dropped_count,
            python_version=self.python_version,
            platform=self.platform,
        )

    @property
    def modules(self) -> list[Module]:
        """The files of compiled code that native frames are in."""
        return [Module(*parts) for parts in self._to_native().modules()]

    def filter(
        self, *, native: Optional[bool] = None, module: Optional[str] = None, thread: Optional[Union[str, int]] = None
    ) -> Profile:
        """A part of the profile, or a simpler view of it, as a new profile.

        Args:
            native: False merges frames of compiled code into the Python code that called it: samples and times stay, a
                stack without any Python becomes the one frame `<native>`. True keeps these frames alone, of the samples that
                have any.
            module: only samples with a frame in compiled code of such a module: its path, its file name, or a pattern of
                either such as "libscipy_openblas*".
            thread: only samples of the threads with this name or id.

        Returns:
            The new profile. What `native=True`, `module` and `thread` left out stands in its metadata: `filtered_samples` and
            `filtered_ns` among the losses.

        Raises:
            ValueError: no such module or thread is in the profile.
        """
        part = self._to_native()
        if thread is not None:
            rows = [row["row"] for row in part.threads() if thread in (row["name"], row["thread_id"])]
            if not rows:
                raise ValueError(f"no such thread in the profile: {thread!r}")
            part = part.filter(rows)
        if module is not None:
            part = part.through_modules(_matching_modules(part, module))
        if native is not None:
            part = part.by_native(native)
        return Profile._from_native(part)

    def to_speedscope(self) -> dict[str, Any]:
        """The profile in speedscope's file format, as a dictionary."""
        from .output import to_speedscope

        return to_speedscope(self)

    def to_collapsed(self) -> str:
        """The profile as collapsed stacks: one line `root;...;leaf count` a stack."""
        from .output import to_collapsed

        return to_collapsed(self)

    def call_graph(self) -> CallGraph:
        """Who called whom, from the samples: times and shares, but no counts of calls, which samples cannot give."""
        from .callgraph import CallGraph

        return CallGraph(self._to_native())

    def save(self, path: PathLike, format: Optional[str] = None) -> None:
        """Write the profile to a file, whole or not at all.

        Args:
            path: the file.
            format: "speedscope", "collapsed", "pprof", "svg" or "spprof"; None goes by the suffix as in
                `spprof.start(output_path=...)`, which for `.json` is speedscope.

        Raises:
            ValueError: the format is unknown.
            OSError: the file cannot be written.
        """
        _check_format(format, FORMATS)
        self._to_native().write(os.fsdecode(path), format)

    def _to_native(self) -> _native.NativeProfile:
        native = _native_of(self.samples)
        if native is not None:
            return native
        return _built(self, self.samples)


@dataclass
class AggregatedProfile:
    """A profile with equal stacks of a thread put together."""

    start_time: datetime
    end_time: datetime
    interval_ms: float
    stacks: Sequence[AggregatedStack]
    total_samples: int
    dropped_count: int = 0
    python_version: str = ""
    platform: str = ""

    @property
    def unique_stack_count(self) -> int:
        return len(self.stacks)

    @property
    def compression_ratio(self) -> float:
        """Samples per unique stack; 1.0 when empty."""
        return self.total_samples / len(self.stacks) if self.stacks else 1.0

    @property
    def memory_reduction_pct(self) -> float:
        """How much smaller the list became by putting equal stacks together; 0.0 when empty."""
        return 100.0 * (1.0 - len(self.stacks) / self.total_samples) if self.total_samples else 0.0

    def to_speedscope(self) -> dict[str, Any]:
        """The profile in speedscope's file format, as a dictionary: one sample a stack, weights summed."""
        from .output import aggregated_to_speedscope

        return aggregated_to_speedscope(self)

    def to_collapsed(self) -> str:
        """The profile as collapsed stacks: one line `root;...;leaf count` a stack."""
        from .output import aggregated_to_collapsed

        return aggregated_to_collapsed(self)

    def save(self, path: PathLike, format: Optional[str] = None) -> None:
        """Write the profile to a file; as `Profile.save()`."""
        _check_format(format, FORMATS)
        native = self._to_native()
        file = os.fsdecode(path)
        format = format or _native._format_of(file)
        native.write(file, "aggregated-speedscope" if format == "speedscope" else format)

    def _to_native(self) -> _native.NativeProfile:
        samples = (
            Sample(0, stack.thread_id, stack.thread_name, stack.frames, stack.weight_ns, stack.count) for stack in self.stacks
        )
        return _built(self, samples)


def load(path: PathLike) -> Profile:
    """Open a profile that was saved as `.spprof` (everything comes back), speedscope or collapsed stacks.

    The journal of a run that was killed opens too; its metadata then says `incomplete`.

    Raises:
        LoadError: the file is foreign, truncated or damaged; the message names the file, the offset and what was expected.
        OSError: the file cannot be read.
    """
    try:
        native = _native._load(os.fsdecode(path))
    except ValueError as error:
        raise LoadError(str(error)) from None
    return Profile._from_native(native)


def _native_of(samples: Sequence[Sample]) -> Optional[_native.NativeProfile]:
    return samples.native if isinstance(samples, Samples) else None


def _built(profile: Union[Profile, AggregatedProfile], samples: Iterable[Sample]) -> _native.NativeProfile:
    """A native profile of the caller's own samples."""
    interval_ns = round(profile.interval_ms * 1_000_000)
    rows = (
        (
            sample.timestamp_ns,
            sample.thread_id,
            sample.thread_name,
            [(f.function_name, f.filename, f.lineno, f.is_native, f.module) for f in sample.frames],
            interval_ns * sample.count if sample.weight_ns is None else sample.weight_ns,
            sample.count,
        )
        for sample in samples
    )
    start, end = profile.start_time.astimezone(timezone.utc), profile.end_time.astimezone(timezone.utc)
    return _native._build_profile(
        rows,
        interval_ns=interval_ns,
        start_unix_ns=(start - EPOCH) // timedelta(microseconds=1) * 1000,
        duration_ns=max(0, (end - start) // timedelta(microseconds=1) * 1000),
        dropped_samples=profile.dropped_count,
        python_version=profile.python_version,
        platform=profile.platform,
        clock=getattr(profile, "metadata", {}).get("clock", "cpu"),
    )


def _matching_modules(native: _native.NativeProfile, pattern: str) -> list[str]:
    """The paths that a path, a file name or a pattern of either means."""
    paths = [path for path, _ in native.modules()]
    matching = [path for path in paths if any(fnmatchcase(name, pattern) for name in (path, os.path.basename(path)))]
    if not matching:
        raise ValueError(f"no such module in the profile: {pattern!r}; there are: {', '.join(paths) or 'none'}")
    return matching


def _check_format(format: Optional[str], known: Sequence[str]) -> None:
    if format is not None and format not in known:
        raise ValueError(f"Unknown format: {format}")


def _naive_local(moment: datetime) -> datetime:
    return moment.astimezone().replace(tzinfo=None)


def _milliseconds(interval_ns: int) -> float:
    return interval_ns / 1_000_000 if interval_ns % 1_000_000 else interval_ns // 1_000_000
