"""One open scope of the call tracer: its options, its graph while it fills, and what the interpreter needs for it.

Scopes may be nested, overlap and be opened in several threads: the engine counts once, every scope takes its part.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import types
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Callable, Optional, Union

from . import _native
from ._trace_args import Capture, Redact, qualnames

#: Never traced: the tracer's own Python code.
OWN_CODE = os.path.dirname(os.path.abspath(__file__)) + os.sep
TIMELINE_INTERVALS = 200_000

Patterns = Union[str, Iterable[str]]


@dataclass(frozen=True)
class Options:
    """What a scope records; see `trace_scope`."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    c_functions: bool = False
    max_depth: Optional[int] = None
    min_duration_ms: float = 0.0
    sampling_rate: float = 1.0
    threads: str = "all"
    timeline: int = 0
    include_args: bool = False
    redact: Optional[Redact] = None
    memory_limit_mb: float = 100.0

    @classmethod
    def of(
        cls,
        *,
        include_modules: Optional[Patterns] = None,
        exclude_modules: Optional[Patterns] = None,
        timeline: Union[bool, int] = False,
        **others: Any,
    ) -> Options:
        """Options from the arguments of a scope.

        Raises:
            TypeError, ValueError: an argument makes no sense.
        """
        options = cls(
            include=_patterns("include_modules", include_modules),
            exclude=_patterns("exclude_modules", exclude_modules),
            timeline=TIMELINE_INTERVALS if timeline is True else int(timeline),
            **others,
        )
        if options.threads not in ("all", "current"):
            raise ValueError(f"threads must be 'all' or 'current', not {options.threads!r}")
        if not 0.0 <= options.sampling_rate <= 1.0:
            raise ValueError(f"sampling_rate must be from 0 to 1, not {options.sampling_rate!r}")
        if options.max_depth is not None and options.max_depth < 1:
            raise ValueError(f"max_depth must be at least 1, not {options.max_depth!r}")
        if not 0.0 <= options.min_duration_ms < 1e9:
            raise ValueError(f"min_duration_ms must not be negative, nor beyond 1e9, not {options.min_duration_ms!r}")
        if not 0.0 < options.memory_limit_mb < 1e6:
            raise ValueError(f"memory_limit_mb must be above 0 and below 1e6, not {options.memory_limit_mb!r}")
        if not 0 <= options.timeline < 1 << 30:
            raise ValueError(f"timeline must be a number of intervals, not {timeline!r}")
        return options


def _patterns(name: str, patterns: Optional[Patterns]) -> tuple[str, ...]:
    found = () if patterns is None else (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for pattern in found:
        if not isinstance(pattern, str) or not pattern:
            raise TypeError(f"{name} holds module names or paths, not {pattern!r}")
    return found


@dataclass(eq=False)
class Scope:
    """A recording from `open()` to `close()`."""

    options: Options
    #: Told the profile at the end.
    on_close: Callable[[_native.NativeProfile], None]
    args: Capture = field(init=False)
    #: CPU seconds of the process while it was open.
    cpu_seconds: float = 0.0
    sampled: bool = True
    _open: Optional[_native.TraceScope] = None
    _outer: Any = None

    def __post_init__(self) -> None:
        self.args = Capture(self.options.redact)

    def open(self, frame: types.FrameType) -> None:
        """Records from now on, in the function that runs `frame`.

        Raises:
            RuntimeError: another tool holds what the interpreter has for tracing, or the scope is open.
        """
        if self._open is not None:
            raise RuntimeError("this scope is open already")
        options = self.options
        # Statistics, not secrets.
        self.sampled = options.sampling_rate >= 1.0 or random.random() < options.sampling_rate
        if self.sampled:
            with _lock:
                _prepare()
                self._open = _open_native(frame, options)
                _scopes.append(self)
                _watch_args()
        self.cpu_seconds = time.process_time()
        self._outer = _current.get()
        _current.set(self)

    def close(self) -> None:
        """Ends the recording; without effect when it has ended."""
        scope, self._open = self._open, None
        self.cpu_seconds = time.process_time() - self.cpu_seconds
        if _current.get() is self:
            _current.set(self._outer)
        self._outer = None
        if scope is None:
            return
        with _lock:
            _scopes.remove(self)
            _watch_args()
            _qualify()
            native = scope.close()
            _restore()
        self.on_close(native)

    @property
    def is_open(self) -> bool:
        return self._open is not None

    def profile(self) -> _native.NativeProfile:
        """What was recorded so far; only while it is open."""
        if self._open is None:
            raise RuntimeError("this scope is closed")
        _qualify()
        return self._open.profile()

    def restart(self) -> None:
        """Forgets what was recorded so far."""
        if self._open is not None:
            self._open.restart()
            self.args.clear()


_lock = threading.RLock()
_scopes: list[Scope] = []
_current: ContextVar[Optional[Scope]] = ContextVar("spprof_scope", default=None)
_prepared = False
_profile_hook: Any = None
_hooked = False


def current() -> Optional[Scope]:
    """The scope that the calling code is in: of its context, else the last one opened that traces every thread."""
    scope = _current.get()
    if scope is not None and scope.is_open:
        return scope
    for scope in reversed(_scopes):
        if scope.options.threads == "all":
            return scope
    return None


def _open_native(frame: types.FrameType, options: Options, exclude_own: bool = True) -> _native.TraceScope:
    _hook_threads()
    try:
        return _native._trace_open(
            frame,
            include=list(options.include),
            exclude=[*options.exclude, *([OWN_CODE] if exclude_own else [])],
            max_depth=options.max_depth,
            min_duration_ns=round(options.min_duration_ms * 1e6),
            builtins=options.c_functions,
            current_thread=options.threads == "current",
            intervals=options.timeline,
            memory_limit_bytes=round(options.memory_limit_mb * 2**20),
        )
    except BaseException:
        _restore()
        raise


def _prepare() -> None:
    """Once a process: hooks for forks and tasks, and what a call costs."""
    global _prepared
    if _prepared:
        return
    os.register_at_fork(
        before=_native._trace_before_fork,
        after_in_parent=lambda: _native._trace_after_fork(False),
        after_in_child=_after_fork_child,
    )
    _native._trace_on_task(_watch_running_loop)
    _calibrate()
    _prepared = True


def _after_fork_child() -> None:
    """The trace is the parent's."""
    global _lock
    _lock = threading.RLock()
    _native._trace_after_fork(True)
    scopes, _scopes[:] = _scopes[:], []
    for scope in scopes:
        scope._open = None
    _native._trace_on_call(None)
    _restore()


def _watch_running_loop() -> None:
    from ._tasks import watch_running_loop

    watch_running_loop()


def _watch_args() -> None:
    watching = [scope.args for scope in _scopes if scope.options.include_args]

    def on_call(frame: types.FrameType) -> None:
        for capture in watching:
            capture.call(frame)

    _native._trace_on_call(on_call if watching else None)


# --- Python 3.9 to 3.11 ---


def _hook_threads() -> None:
    """Threads that `threading` starts from now on trace themselves."""
    global _hooked, _profile_hook
    if _hooked or _native._trace_engine() != "setprofile":
        return
    _profile_hook = vars(threading)["_profile_hook"]
    threading.setprofile(_native._trace_bootstrap)
    _hooked = True


def _restore() -> None:
    """After the last scope: what was set up for all of them is taken down."""
    global _hooked, _profile_hook
    if _native._trace_is_armed():
        return
    if _hooked:
        threading.setprofile(_profile_hook)
        _hooked, _profile_hook = False, None
    if f"{__package__}._tasks" in sys.modules:
        # An import that another thread is still at is waited for.
        from ._tasks import unwatch_all

        unwatch_all()


def _qualify() -> None:
    """Names that the interpreter does not tell the engine."""
    names = qualnames()
    if names:
        _native._trace_rename(list(names.items()))


# --- what a call costs ---

CALIBRATION = """
def called():
    pass

def calls(times):
    for _ in times:
        called()
"""
CALIBRATION_FILE = "<spprof>/calibration.py"
CALIBRATION_CALLS = 1000
CALIBRATION_ROUNDS = 7


def _calibrate() -> None:
    """Measures what tracing adds to a call and its return, and where it shows up: in the callee's time or the caller's.

    The least of several rounds: whatever else the machine does only makes them longer.
    """
    if _native._trace_is_armed():
        return
    namespace: dict[str, Any] = {}
    exec(compile(CALIBRATION, CALIBRATION_FILE, "exec"), namespace)
    calls, times = namespace["calls"], range(CALIBRATION_CALLS)
    calls(times)
    bare, inside, outside = [], [], []
    for _ in range(CALIBRATION_ROUNDS):
        start = time.perf_counter_ns()
        calls(times)
        bare.append(time.perf_counter_ns() - start)
    _native._trace_set_cost(0.0, 0.0)
    for _ in range(CALIBRATION_ROUNDS):
        scope = _open_native(sys._getframe(), Options(include=(CALIBRATION_FILE,), threads="current"))
        try:
            calls(times)
        finally:
            native = scope.close()
        own = {name: values["self_ns"] for _, _, name, values in native.contexts()}
        inside.append(own.get("called", 0))
        outside.append(own.get("calls", 0))
    _restore()
    extra = max(0.0, (min(inside) + min(outside) - min(bare)) / CALIBRATION_CALLS)
    # An empty call spends about as much in itself as its caller spends on it.
    share = min(inside) / max(1, min(inside) + min(outside))
    _native._trace_set_cost(extra * share, extra * (1.0 - share))
