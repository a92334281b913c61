"""`@spprof.profile`: profiles the calls of a function.

Calls that overlap (recursion, threads, tasks, other decorated functions) share one run: it starts with the first of
them and ends with the last, and every function that took part gets the profile. A run that somebody else started with
`spprof.start()` is joined and left alone: it is his to stop, and nothing is saved here.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import AsyncGenerator, Generator, Iterable
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar, Union, overload

from . import _native, profiler
from ._profile import PathLike, Profile
from ._settings import checked

if TYPE_CHECKING:
    from ._settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


class _Target:
    """One decorated function: how its runs start, where its profile goes."""

    def __init__(self, settings: Settings, output_path: Optional[PathLike]) -> None:
        self.settings = settings
        self.output_path = output_path
        self.wrapper: Any = None


class _SharedRun:
    """The run of all decorated calls that overlap."""

    def __init__(self) -> None:
        # Reentrant: a generator may be left in a garbage collection, at any line of ours.
        self.lock = threading.RLock()
        self.calls = 0
        # The number of the run while it is one that we started.
        self.run_number: Optional[int] = None
        # Who takes part, and the path to save to.
        self.targets: dict[_Target, Optional[str]] = {}

    def enter(self, target: _Target) -> None:
        with self.lock:
            if self.run_number is None and not _native._is_active():
                self.run_number = profiler.begin(target.settings, target.output_path, None)
            self.calls += 1
            if self.run_number is not None and target not in self.targets:
                path = target.output_path
                self.targets[target] = None if path is None else os.path.abspath(os.fsdecode(path))

    def leave(self, body_failed: bool) -> None:
        with self.lock:
            self.calls -= 1
            if self.calls > 0 or self.run_number is None:
                return
            run_number, self.run_number = self.run_number, None
            targets, self.targets = self.targets, {}
            if not profiler.is_running(run_number):
                return  # somebody called spprof.stop() in between, and has the profile
            native, _ = profiler.end()
            profile = Profile._from_native(native)
            for target in targets:
                target.wrapper.profile = profile
        failure = _save(native, profile, targets.values())
        if failure is not None:
            if not body_failed:
                raise failure
            import warnings

            # The exception of the function itself matters more, and must not be replaced.
            warnings.warn(f"spprof: {failure}", RuntimeWarning, stacklevel=4)


_shared = _SharedRun()


class _Call:
    """One call of a decorated function, from its first step to its end."""

    __slots__ = ("run", "target")

    def __init__(self, target: _Target) -> None:
        self.target = target

    def __enter__(self) -> None:
        self.run = _shared
        self.run.enter(self.target)

    def __exit__(self, *error: object) -> None:
        # After a fork the child has a shared run of its own. Its parent's may be locked for good, and has ended here anyway.
        if self.run is _shared:
            self.run.leave(body_failed=error[0] is not None)


def _after_fork_in_child() -> None:
    global _shared
    _shared = _SharedRun()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _save(native: _native.NativeProfile, profile: Profile, paths: Iterable[Optional[str]]) -> Optional[OSError]:
    """Save to every path; the first failure, with the profile attached."""
    failure: Optional[OSError] = None
    for path in paths:
        if path is not None:
            try:
                native.write(path)
            except OSError as error:
                error.profile = profile  # type: ignore[attr-defined]
                failure = failure or error
    return failure


@overload
def profile(function: F, /) -> F: ...
@overload
def profile(
    interval_ms: int = 10,
    output_path: Optional[PathLike] = None,
    memory_limit_mb: int = 100,
    *,
    clock: str = "cpu",
    engine: str = "auto",
    interval_us: Optional[int] = None,
    native: Union[bool, str, None] = None,
) -> Callable[[F], F]: ...
def profile(
    interval_ms: Any = 10,
    output_path: Optional[PathLike] = None,
    memory_limit_mb: int = 100,
    *,
    clock: str = "cpu",
    engine: str = "auto",
    interval_us: Optional[int] = None,
    native: Union[bool, str, None] = None,
) -> Union[Any, Callable[[Any], Any]]:
    """Profile the calls of a function: `@spprof.profile` or `@spprof.profile(interval_ms=1, output_path="f.json")`.

    The arguments are those of `spprof.start()`. The wrapper has an attribute `profile`: the profile of the last call (None
    before). Coroutines and generators are profiled from their first step to their end, not when they are created.
    Overlapping calls share one run; an active `spprof.start()` is joined and not stopped.

    Raises:
        ValueError, TypeError: an argument is bad (when decorating).
        PermissionError, RuntimeError, OSError: as `spprof.start()` and `spprof.stop()` (when called).
    """
    if callable(interval_ms):
        return _wrapped(interval_ms, _Target(checked(10, memory_limit_mb, clock, engine, interval_us, native), output_path))
    settings = checked(interval_ms, memory_limit_mb, clock, engine, interval_us, native)
    return lambda function: _wrapped(function, _Target(settings, output_path))


def _wrapped(function: Callable[..., Any], target: _Target) -> Any:
    """The wrapper is of the kind of what it wraps: function, coroutine function, generator or async generator function."""
    wrapper: Any
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with _Call(target):
                return await function(*args, **kwargs)

    elif inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            with _Call(target):
                inner = function(*args, **kwargs)
                step = inner.__anext__()
                while True:
                    try:
                        value = await step
                    except StopAsyncIteration:
                        return
                    try:
                        sent = yield value
                    except GeneratorExit:
                        await inner.aclose()
                        raise
                    except BaseException as error:
                        step = inner.athrow(error)
                    else:
                        step = inner.asend(sent)

    elif inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with _Call(target):
                return (yield from function(*args, **kwargs))

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with _Call(target):
                return function(*args, **kwargs)

    wrapper.profile = None
    target.wrapper = wrapper
    return wrapper
