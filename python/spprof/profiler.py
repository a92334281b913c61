"""Start and stop: the state of the one CPU run a process can have, and where its profile goes.

Whether a run is active is known to the native side alone (so that a forked child, in which it is not, needs no telling).
This module only remembers the output path between `start()` and `stop()`. Imported by `import spprof`: keep it light.
"""

from __future__ import annotations

import _thread
import atexit
import os
import sys

from . import _native
from ._settings import checked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType, TracebackType
    from typing import Optional, Union

    from ._profile import Profile
    from ._settings import Settings
    from ._types import NativeFrame, ProfilerStats

    PathLike = Union[str, "os.PathLike[str]"]

ALREADY_RUNNING = "Profiler already running"

# Reentrant: a Python signal handler that calls stop() may interrupt start() on the same thread.
_lock = _thread.RLock()
# (path, format or None for "by suffix") of the run in progress.
_output: Optional[tuple[str, Optional[str]]] = None
# Runs started so far; tells one run from the next.
_run_number = 0
_exit_hook_set = False
# What a run captures that was not told: "none" or "folded".
_native_default = "none"
# `set_native_unwinding(True)` was called.
_native_wanted = False
# Tells thread names to the run; imported by the first start().
_threads: Optional[ModuleType] = None


def start(
    interval_ms: int = 10,
    output_path: Optional[PathLike] = None,
    memory_limit_mb: int = 100,
    *,
    clock: str = "cpu",
    engine: str = "auto",
    interval_us: Optional[int] = None,
    native: Union[bool, str, None] = None,
) -> None:
    """Start sampling every thread of the process.

    Args:
        interval_ms: time between two samples of a thread, in milliseconds.
        output_path: where `stop()`, or the exit of the interpreter, saves the profile. The suffix decides the format:
            `.collapsed`, `.folded` and `.txt` collapsed stacks, `.pb.gz` and `.pprof` pprof, `.svg` a flame graph,
            `.spprof` spprof's own lossless format, anything else speedscope. Missing folders are made.
        memory_limit_mb: most memory the profile may take, in MiB; when it is reached the timeline becomes coarser, while
            counts and weights stay exact.
        clock: "cpu" samples what runs, by the CPU time it takes; "wall" also what waits, by elapsed time.
        engine: "auto", or what makes samples happen: "timer", "perf" or "tick".
        interval_us: the interval in microseconds (at least 20), instead of `interval_ms`.
        native: True captures the frames of C, C++ and Rust code, too, each where it stands between the Python frames, and
            threads that run no Python; "full" also those of the interpreter itself. None: as `set_native_unwinding()` said.
            Threads that wait are seen (by the wall clock) with their Python frames alone.

    Raises:
        ValueError: an argument is out of range.
        TypeError: a number is not an integer.
        RuntimeError: a run is already active, or this interpreter is not supported.
        PermissionError: `output_path` cannot be written.
        OSError: the operating system refused what the engine needs.
    """
    settings = checked(interval_ms, memory_limit_mb, clock, engine, interval_us, native)
    begin(settings, output_path, None)


def begin(settings: Settings, output_path: Optional[PathLike], output_format: Optional[str]) -> int:
    """Start a run with checked settings and give its number; `output_format` None goes by the suffix."""
    global _output, _run_number, _exit_hook_set
    with _lock:
        if _native._is_active():
            raise RuntimeError(ALREADY_RUNNING)
        # Before the run: a signal handler that stops it must not find half a module.
        threads = _load_threads()
        path = None if output_path is None else os.path.abspath(os.fsdecode(output_path))
        created = path is not None and _touch(path)
        # Set first: a stop() from a signal handler may come before the next line of ours.
        _output = None if path is None else (path, output_format)
        try:
            interval_ns, clock, engine, memory_limit_bytes, native = settings
            native = native or _native_default
            _native._start(interval_ns, clock, engine, memory_limit_bytes, native, path, output_format)
        except BaseException:
            _output = None
            if created:
                os.unlink(path)  # type: ignore[arg-type]
            raise
        if threads is not None:
            threads.watch()
        if not _exit_hook_set:
            _exit_hook_set = True
            atexit.register(_at_exit)
        _run_number += 1
        return _run_number


def stop() -> Profile:
    """Stop sampling and return the profile, saved to the `output_path` given to `start()`.

    May be called from another thread than `start()`.

    Raises:
        RuntimeError: no run is active.
        OSError: the profile could not be saved; it is the `profile` attribute of the error.
    """
    native, output = end()
    from ._profile import Profile

    profile = Profile._from_native(native)
    if output is not None:
        try:
            native.write(*output)
        except OSError as error:
            error.profile = profile  # type: ignore[attr-defined]
            raise
    return profile


def end() -> tuple[_native.NativeProfile, Optional[tuple[str, Optional[str]]]]:
    """Stop the run: its profile, and the (path, format) it was to be saved to."""
    global _output
    with _lock:
        if _threads is not None:
            _threads.tell()
            _threads.unwatch()
        native = _native._stop()
        output, _output = _output, None
    return native, output


def is_running(run_number: int) -> bool:
    """Whether the run that `begin()` gave this number is still active."""
    return run_number == _run_number and _native._is_active()


def is_active() -> bool:
    """Whether a run is active in this process."""
    return _native._is_active()


def stats() -> Optional[ProfilerStats]:
    """Counters of the run in progress, or None when there is none."""
    counters = _native._get_stats()
    if counters is None:
        return None
    from ._types import ProfilerStats

    return ProfilerStats._from_native(counters)


def register_thread() -> bool:
    """Accepted everywhere and never needed: every thread of the process is sampled. Returns True."""
    return _native._register_thread()


def unregister_thread() -> bool:
    """The counterpart of `register_thread()`; the thread goes on being sampled. Returns True."""
    return _native._unregister_thread()


def native_unwinding_available() -> bool:
    """Whether C and C++ frames can be captured besides Python frames."""
    return _native.native_unwinding_available


def native_unwinding_enabled() -> bool:
    """Whether C and C++ frames are captured by runs that are not told otherwise."""
    return _native_default != "none"


def set_native_unwinding(enabled: bool) -> None:
    """Choose whether C and C++ frames are captured by runs that start from now on and are not told by `native=`.

    Raises:
        RuntimeError: they are asked for and cannot be had (`native_unwinding_available()`).
    """
    global _native_default, _native_wanted
    if enabled and not _native.native_unwinding_available:
        raise RuntimeError("Native unwinding not available on this platform")
    _native_default = "folded" if enabled else "none"
    _native_wanted = _native_wanted or bool(enabled)


def capture_native_stack() -> list[NativeFrame]:
    """The native stack of the calling thread, leaf first. No run is needed, but `set_native_unwinding(True)` once before.

    Raises:
        RuntimeError: it was not called, or native stacks cannot be had (`native_unwinding_available()`).
    """
    if not _native_wanted:
        raise RuntimeError("Failed to capture native stack")
    from ._types import NativeFrame

    return [NativeFrame(*frame) for frame in _native._capture_native_stack()]


class Profiler:
    """Profiles a `with` block.

        with spprof.Profiler(interval_ms=5) as p:
            do_work()
        p.profile.save("profile.json")

    The arguments are those of `start()`. An exception of the block goes on its way after the profile was saved.
    """

    def __init__(
        self,
        interval_ms: int = 10,
        output_path: Optional[PathLike] = None,
        memory_limit_mb: int = 100,
        *,
        clock: str = "cpu",
        engine: str = "auto",
        interval_us: Optional[int] = None,
        native: Union[bool, str, None] = None,
    ) -> None:
        self._arguments = (interval_ms, output_path, memory_limit_mb)
        self._keywords = {"clock": clock, "engine": engine, "interval_us": interval_us, "native": native}
        self._profile: Optional[Profile] = None
        self._pid: Optional[int] = None

    @property
    def profile(self) -> Optional[Profile]:
        """The profile of the block; None before its end."""
        return self._profile

    def __enter__(self) -> Profiler:
        start(*self._arguments, **self._keywords)  # type: ignore[arg-type]
        self._pid = os.getpid()
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if os.getpid() != self._pid:
            return  # a forked child leaves the block too; the run is its parent's
        try:
            self._profile = stop()
        except (OSError, RuntimeError) as failure:
            self._profile = getattr(failure, "profile", None)
            if error is None:
                raise
            import warnings

            # The block's own exception matters more, and must not be replaced.
            warnings.warn(f"spprof: {failure}", RuntimeWarning, stacklevel=2)


class ThreadProfiler:
    """Accepted everywhere and never needed: every thread of the process is sampled."""

    def __enter__(self) -> ThreadProfiler:
        register_thread()
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        unregister_thread()


def _load_threads() -> Optional[ModuleType]:
    """`_threads`, unless its import would make this thread the main one in the eyes of `threading`."""
    global _threads
    if _threads is None and ("threading" in sys.modules or _thread.get_native_id() == os.getpid()):
        from . import _threads as module

        _threads = module
    return _threads


# With threads about, now rather than in start(): a child forked in the middle of an import could never import it again.
if "threading" in sys.modules:
    _load_threads()


def _touch(path: str) -> bool:
    """Make sure `path` can be written, leaving what it holds as it is; whether the file is new."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        existed = os.path.lexists(path)
        with open(path, "ab"):
            return not existed
    except OSError as error:
        raise PermissionError(f"Cannot write to {path}: {error}") from error


def _at_exit() -> None:
    """The interpreter ends while a run is active: save it where `start()` was told to, else let it go."""
    # Daemon threads still run, and may end the run first.
    with _lock:
        if not _native._is_active():
            return
        native, output = end()
    if output is not None:
        native.write(*output)


def _after_fork_in_child() -> None:
    """The child has no run. Another thread of the parent may have held the lock: take a new one."""
    global _lock, _output
    _lock = _thread.RLock()
    _output = None
    if _threads is not None:
        _threads.unwatch()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
