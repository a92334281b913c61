"""What a function or a block of code costs: processor time, waiting, memory, and where the time goes.

    @profile_function
    def work(): ...

    work()
    print(work.performance_stats.to_dict())

    with profile_section("loading") as stats:
        load()
    print(stats.to_dict()["io_wait"])

Times are of the calling thread, by its own clocks, so that other threads change nothing: `waiting` is elapsed time minus
processor time minus the time the thread was ready and the system ran others. Where the time goes comes from the sampler,
at the cost of sampling, or with `engine="cprofile"` from cProfile, with exact counts, at the cost of that.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Callable, Optional

from . import _native
from ._measure import ENGINES, MB, TOP, PerformanceStats, last, measured
from ._profile import Profile


class MemoryUsage(float):
    """Megabytes (10^6 bytes) in memory; also answers `["current_mb"]` and `["peak_mb"]`, the most ever."""

    peak_mb: float

    def __new__(cls, current_mb: float, peak_mb: float) -> MemoryUsage:
        usage = super().__new__(cls, current_mb)
        usage.peak_mb = peak_mb
        return usage

    def __getitem__(self, key: str) -> float:
        return self.keys_and_values()[key]

    def keys_and_values(self) -> dict[str, float]:
        """Both figures as a dictionary."""
        return {"current_mb": float(self), "peak_mb": self.peak_mb}


def get_memory_usage() -> MemoryUsage:
    """The memory the process holds now, in megabytes: a float that also knows `["current_mb"]` and `["peak_mb"]`.

    Raises:
        OSError: the system does not tell.
    """
    return MemoryUsage(_native._resident_bytes() / MB, max(_lifetime_peak(), _native._resident_bytes()) / MB)


def _lifetime_peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def profile_section(name: Optional[str] = None, *, engine: str = "sampler", print: bool = False) -> Iterator[PerformanceStats]:
    """Measure a block: `with profile_section("loading") as stats: ...`. Sections may be nested and may overlap in threads.

    Args:
        name: what to call it.
        engine: `sampler`; `cprofile` for exact counts of calls; `none` for clocks and memory alone.
        print: print what was measured at the end.

    Returns:
        The `PerformanceStats`, filled when the block has ended.

    Raises:
        ValueError: the engine is unknown.
        RuntimeError: the block ended in another thread than it began in.
    """
    _check_engine(engine)
    stats = PerformanceStats(name)
    try:
        with measured(stats, engine):
            yield stats
    finally:
        if print and stats.calls:
            _print(stats)


def _print(stats: PerformanceStats) -> None:
    import sys

    memory = stats._get_memory_stats() or {}
    sys.stdout.write(
        f"{stats.name or 'section'}: {stats.wall_time:.6f} s, {stats.cpu_time:.6f} s of CPU time, "
        f"{stats.io_wait_time:.6f} s waiting, {memory.get('increase_mb', 0.0):+.2f} MB at its peak\n"
    )


class ProfiledFunction(Mapping[str, Any]):
    """A function that is measured whenever it is called, and what was measured.

    `performance_stats` sums up all calls. As a mapping it has `time`, `cpu_time`, `io_wait` (seconds), `memory` (the largest
    increase in megabytes), `calls`, `result` (of the last call); asking for one runs the function once if it never ran.
    """

    def __init__(self, function: Callable[..., Any], engine: str = "sampler") -> None:
        self._function = function
        self._engine = engine
        self._result: Any = None
        self.performance_stats = PerformanceStats(getattr(function, "__qualname__", repr(function)))
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if inspect.iscoroutinefunction(self._function):
            return self._awaited(args, kwargs)
        with measured(self.performance_stats, self._engine):
            self._result = self._function(*args, **kwargs)
        return self._result

    async def _awaited(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with measured(self.performance_stats, self._engine):
            self._result = await self._function(*args, **kwargs)
        return self._result

    def __get__(self, instance: Any, owner: Optional[type] = None) -> Any:
        """As a method: bound, and measured into the same stats."""
        if instance is None:
            return self
        bound = functools.partial(self.__call__, instance)
        functools.update_wrapper(bound, self._function)
        bound.performance_stats = self.performance_stats  # type: ignore[attr-defined]
        return bound

    def _figures(self) -> dict[str, Any]:
        stats = self.performance_stats
        if not stats.calls:
            if inspect.iscoroutinefunction(self._function):
                raise RuntimeError(f"{stats.name} is asynchronous and has not run: await it first")
            self()
        return {
            "time": stats.wall_time,
            "cpu_time": stats.cpu_time,
            "io_wait": stats.io_wait_time,
            "memory": stats.memory_increase_mb,
            "calls": stats.calls,
            "result": self._result,
        }

    def __getitem__(self, key: str) -> Any:
        return self._figures()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("time", "cpu_time", "io_wait", "memory", "calls", "result"))

    def __len__(self) -> int:
        return 6

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<ProfiledFunction {self.performance_stats.name}>"

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def profile_function(function: Any = None, /, *args: Any, **kwargs: Any) -> Any:
    """Measure a function: as a decorator, or at once.

    `@profile_function` and `@profile_function(engine="cprofile")` give a `ProfiledFunction`, with `performance_stats` from the
    start. `profile_function(f, 1, 2)` calls `f(1, 2)` at once and gives the same; `profile_function(f)["time"]` calls `f()`
    when something is asked for.

    Args:
        function: what to measure: a function, method, or coroutine function.
        args: for calling it at once.
        kwargs: likewise; without a function: `engine`, as in `profile_section()`.

    Raises:
        TypeError: `function` is no function, or one whose call does not run it: a class, a generator function.
        ValueError: the engine is unknown.
    """
    if function is None:
        unknown = set(kwargs) - {"engine"}
        if unknown or args:
            raise TypeError(f"profile_function() has no option {', '.join(sorted(unknown))}")
        engine = kwargs.get("engine", "sampler")
        _check_engine(engine)
        return lambda decorated: ProfiledFunction(_function(decorated), engine)
    profiled = ProfiledFunction(_function(function))
    if args or kwargs:
        profiled(*args, **kwargs)
    return profiled


def _function(thing: Any) -> Callable[..., Any]:
    if isinstance(thing, (staticmethod, classmethod)):
        raise TypeError(f"@profile_function goes below @{type(thing).__name__}, next to the function")
    if inspect.isclass(thing):
        raise TypeError(f"profile_function() measures functions, and {thing.__qualname__} is a class: decorate its methods")
    if inspect.isgeneratorfunction(thing) or inspect.isasyncgenfunction(thing):
        raise TypeError(
            f"{thing.__qualname__} is a generator function: its call returns before it runs; "
            "use profile_section() around the loop that runs it"
        )
    if not callable(thing):
        raise TypeError(f"profile_function() measures functions, not {type(thing).__name__}")
    return thing  # type: ignore[no-any-return]


def _check_engine(engine: str) -> None:
    if engine not in ENGINES:
        raise ValueError(f"unknown engine: {engine!r} (choose from {', '.join(ENGINES)})")


def get_cpu_profile() -> Any:
    """The CPU profile of the last section or function call that was measured: a `Profile`, or a `cProfile.Profile`.

    Raises:
        RuntimeError: there is none; the message says why.
    """
    if not last or last[0].cpu_profile is None:
        why = last[0].cpu_note if last else "nothing was measured yet: use profile_section() or profile_function()"
        raise RuntimeError(f"there is no CPU profile: {why}")
    return last[0].cpu_profile


def get_memory_profile(limit: int = TOP) -> dict[str, Any]:
    """The memory of the process now, and who allocated it.

    Args:
        limit: places at most.

    Returns:
        `current_mb`, `peak_mb` of the process, and `top`: dictionaries of `place`, `size_mb`, `count`, largest first, of what
        Python allocated since `tracemalloc.start()`; None where tracemalloc is not running. `heap`: the snapshot of
        `spprof.memprof`; None where that is not running.
    """
    import sys
    import tracemalloc

    memprof = sys.modules.get("spprof.memprof")
    heap = memprof.get_snapshot() if memprof is not None and memprof._running else None

    top = None
    if tracemalloc.is_tracing():
        statistics = tracemalloc.take_snapshot().statistics("lineno")[:limit]
        top = [
            {"place": f"{row.traceback[0].filename}:{row.traceback[0].lineno}", "size_mb": row.size / MB, "count": row.count}
            for row in statistics
        ]
    return {**get_memory_usage().keys_and_values(), "top": top, "heap": heap}


def compare_profiles(profile1: Any, profile2: Any) -> dict[str, Any]:
    """As `spprof.comparison.compare_graphs()`, of profiles, `PerformanceStats`, graphs or files.

    Raises:
        TypeError, LoadError, ValueError: as that; `PerformanceStats` without samples have no profile to compare.
    """
    from .comparison import compare_graphs

    return compare_graphs(*(_profile_of(profile) for profile in (profile1, profile2)))


def _profile_of(profile: Any) -> Any:
    if isinstance(profile, ProfiledFunction):
        profile = profile.performance_stats
    if not isinstance(profile, PerformanceStats):
        return profile
    if not isinstance(profile.cpu_profile, Profile):
        raise TypeError(f"{profile!r} has no samples to compare: {profile.cpu_note}")
    return profile.cpu_profile


__all__ = [
    "MemoryUsage",
    "PerformanceStats",
    "ProfiledFunction",
    "compare_profiles",
    "get_cpu_profile",
    "get_memory_profile",
    "get_memory_usage",
    "profile_function",
    "profile_section",
]
