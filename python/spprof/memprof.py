"""The heap profiler: who holds the memory, and who churns it.

    import spprof.memprof as memprof

    memprof.start(sampling_rate_kb=512)
    work()
    print(memprof.get_snapshot().top_allocators(5))
    memprof.stop()

Allocations are sampled, one in about every `sampling_rate_kb` KiB, and weighed so that every total is an unbiased estimate with
a known error (docs/heap-sampling.md). `python -m spprof run --memory` and LD_PRELOAD of `preload_path()` see every native
allocation of a process; `start()` alone sees those of CPython, and the native ones from then on.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Optional

from . import _native
from ._heap import AllocationSample, FramePointerHealth, HeapSnapshot, MemProfStats, StackFrame
from ._rss import RssReport, RssRow, explain
from ._settings import whole

if TYPE_CHECKING:
    from types import TracebackType

    # See `_Module`.
    _running: bool
    _initialized: bool
    _shutdown: bool

__all__ = [
    "AllocationSample",
    "FramePointerHealth",
    "HeapSnapshot",
    "MemProfStats",
    "MemoryProfiler",
    "RssReport",
    "RssRow",
    "StackFrame",
    "explain_rss",
    "get_snapshot",
    "get_stats",
    "preload_path",
    "shutdown",
    "start",
    "stop",
]

#: Samples a second beyond which the rate is made coarser: some 2 % of a processor.
MAX_SAMPLES_PER_SECOND = 10_000

_lock = threading.RLock()
_hooked_exit = False


def start(
    sampling_rate_kb: int = 512,
    *,
    sampling_rate_bytes: Optional[int] = None,
    max_samples_per_second: Optional[int] = None,
) -> None:
    """Start sampling allocations of every thread.

    Args:
        sampling_rate_kb: mean distance of two samples in KiB of allocated memory, from 1 to 2**20. Less is more exact and costs
            more.
        sampling_rate_bytes: the distance in bytes instead, for tests; then there is no bound on the samples per second.
        max_samples_per_second: when more come, the distance is doubled (estimates stay unbiased), and comes back later;
            0 is no bound. Default: 10,000.

    Raises:
        ValueError: a number is out of range.
        TypeError: a number is not an integer.
        RuntimeError: the profiler is running already, or was shut down, or this interpreter is not supported.
    """
    with _lock:
        running, _, ended = _native._memprof_phase()
        if ended:
            raise RuntimeError("Cannot restart after shutdown")
        if running:
            raise RuntimeError("Memory profiler is already running")
        rate = whole("sampling_rate_kb", sampling_rate_kb, 1, 1024, maximum=1 << 20)
        bound = MAX_SAMPLES_PER_SECOND
        if sampling_rate_bytes is not None:
            rate = whole("sampling_rate_bytes", sampling_rate_bytes, 1, 1, maximum=1 << 30)
            bound = 0
        if max_samples_per_second is not None:
            bound = whole("max_samples_per_second", max_samples_per_second, 0, 1)
        _native._memprof_start(rate, bound, _max_stacks())
        _hook_exit()
        if _native._memprof_note_gc not in gc.callbacks:
            gc.callbacks.append(_native._memprof_note_gc)


def stop() -> None:
    """Stop sampling. Frees are followed on, so that later snapshots are true. Never raises; may be called again."""
    with _lock:
        _native._memprof_stop()


def get_snapshot() -> HeapSnapshot:
    """The sampled blocks that are alive now, with what is known of all that were allocated. Also after `stop()`.

    Raises:
        RuntimeError: the profiler was never started, or was shut down.
    """
    if not _is_initialized():
        raise RuntimeError("Memory profiler is not initialized")
    names = {
        thread.native_id: (thread.ident, thread.name)
        for thread in threading.enumerate()
        if thread.native_id is not None and thread.ident is not None
    }
    return HeapSnapshot._from_native(_native._memprof_snapshot(names))


def get_stats() -> MemProfStats:
    """Counters of the profiler.

    Raises:
        RuntimeError: the profiler was never started, or was shut down.
    """
    return MemProfStats._from_native(_native._memprof_stats())


def explain_rss() -> RssReport:
    """What the resident memory of this process consists of: a row each for Python's objects, native blocks, mappings, what the
    allocators keep, files, stacks and the profiler itself. The rows sum to RSS; `print()` shows them as a table.

    What the kernel tells is exact; what the samples tell is an estimate, with its interval. Other threads go on meanwhile:
    what they allocate between two looks is in the row of its allocator.

    Raises:
        RuntimeError: the profiler was never started, or was shut down.
        OSError: /proc cannot be read.
    """
    return explain(get_snapshot())


def shutdown() -> None:
    """End the profiler for good and take every hook out. May be called again; `start()` may not."""
    with _lock:
        if _native._memprof_note_gc in gc.callbacks:
            gc.callbacks.remove(_native._memprof_note_gc)
        _native._memprof_shutdown()


def preload_path() -> Path:
    """The library for LD_PRELOAD, which sees every native allocation of a process and of its children.

    Raises:
        FileNotFoundError: it is not there, because spprof was not installed from a wheel.
    """
    path = Path(__file__).with_name("libspprof_alloc.so")
    if not path.exists():
        raise FileNotFoundError(f"{path}: spprof was installed without its library for LD_PRELOAD")
    return path


class MemoryProfiler:
    """Profiles the memory of a `with` block.

        with memprof.MemoryProfiler(sampling_rate_kb=256) as mp:
            work()
        mp.snapshot.save("memory.json")

    The snapshot is taken before the profiler stops, also when the block raises, whose exception goes on its way.
    """

    def __init__(self, sampling_rate_kb: int = 512, *, sampling_rate_bytes: Optional[int] = None) -> None:
        self._rates = (sampling_rate_kb, sampling_rate_bytes)
        self._snapshot: Optional[HeapSnapshot] = None
        self._pid: Optional[int] = None

    @property
    def snapshot(self) -> Optional[HeapSnapshot]:
        """What was alive at the block's end; None before it."""
        return self._snapshot

    def __enter__(self) -> MemoryProfiler:
        start(self._rates[0], sampling_rate_bytes=self._rates[1])
        self._pid = os.getpid()
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if os.getpid() != self._pid:
            return  # a forked child leaves the block too; the run goes on there
        try:
            self._snapshot = get_snapshot()
        finally:
            stop()


def _is_initialized() -> bool:
    _, initialized, ended = _native._memprof_phase()
    return initialized and not ended


def _max_stacks() -> Optional[int]:
    """SPPROF_STACK_TABLE_MAX: different stacks at most."""
    text = os.environ.get("SPPROF_STACK_TABLE_MAX")
    if not text:
        return None
    try:
        return min(max(int(text), 1), 2**32 - 1)
    except ValueError:
        raise ValueError(f"SPPROF_STACK_TABLE_MAX must be a whole number, not {text!r}") from None


def _hook_exit() -> None:
    global _hooked_exit
    if not _hooked_exit:
        _hooked_exit = True
        atexit.register(_native._memprof_at_exit)


def _after_fork_in_child() -> None:
    """The child goes on with the parent's run. Another thread of the parent may have held the lock: take a new one."""
    global _lock
    _lock = threading.RLock()
    _native._memprof_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class _Module(ModuleType):
    """The state that programs look at, as it is; assigning to it changes nothing."""

    @property
    def _running(self) -> bool:
        return _native._memprof_phase()[0]

    @_running.setter
    def _running(self, value: Any) -> None:
        pass

    @property
    def _initialized(self) -> bool:
        return _is_initialized()

    @_initialized.setter
    def _initialized(self, value: Any) -> None:
        pass

    @property
    def _shutdown(self) -> bool:
        return _native._memprof_phase()[2]

    @_shutdown.setter
    def _shutdown(self, value: Any) -> None:
        pass


sys.modules[__name__].__class__ = _Module
