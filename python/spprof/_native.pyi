"""The extension, as Python sees it. Private: what programs use is in `spprof`."""

from collections.abc import Iterable
from os import PathLike
from typing import Any, Optional, Union, final

__version__: str
platform: str
frame_walker: str
unwind_method: str
native_unwinding_available: bool
free_threaded_build: bool
free_threading_safe: bool

# (function_name, filename, lineno, is_native)
_Frame = tuple[str, str, int, bool]
_Path = Union[str, PathLike[str]]

@final
class NativeProfile:
    @property
    def sample_count(self) -> int: ...
    def __len__(self) -> int: ...
    def sample(self, index: int) -> tuple[int, int, Optional[str], int, int, int]:
        """(timestamp_ns, thread_id, thread_name, stack_id, weight_ns, count)"""
    def stack(self, stack_id: int) -> list[_Frame]:
        """Leaf first."""
    def aggregate(self) -> list[tuple[int, Optional[str], int, int, int]]:
        """(thread_id, thread_name, stack_id, count, weight_ns), one a thread and stack."""
    def threads(self) -> list[dict[str, Any]]: ...
    def functions(self, threads: Optional[list[int]] = None) -> list[dict[str, Any]]: ...
    def lines(self, threads: Optional[list[int]] = None) -> list[dict[str, Any]]: ...
    def filter(self, threads: Optional[list[int]] = None, from_ns: int = 0, to_ns: int = ...) -> NativeProfile: ...
    def metadata(self) -> dict[str, Any]: ...
    def write(self, path: _Path, format: Optional[str] = None, *, mark_native: bool = True) -> None: ...
    def to_bytes(self, format: str, *, mark_native: bool = True) -> bytes: ...

@final
class NativeGraph:
    def __init__(self, profile: NativeProfile) -> None: ...
    @property
    def columns(self) -> list[str]:
        """What own values and totals are of, in this order."""
    @property
    def time_column(self) -> Optional[str]: ...
    def nodes(self) -> list[tuple[str, str, str, str, int, str, list[int], list[int], int]]:
        """(full name, qualified name, module, file, first line, kind, own values, totals, primitive calls)"""
    def edges(self) -> list[tuple[int, int, list[int], list[int]]]:
        """(caller, callee, own values, totals), by position in `nodes`."""
    def tree(self) -> list[tuple[int, int, list[int], list[int]]]:
        """(parent, node, own values, totals), parents first; row 0 is the root, whose node means nothing."""

@final
class MemoryWatch:
    def __init__(self) -> None: ...
    def stop(self) -> int:
        """The most bytes the process held in memory since this was made."""

def _resident_bytes() -> int: ...
def _start(
    interval_ns: int,
    clock: str = "cpu",
    engine: str = "auto",
    memory_limit_bytes: int = ...,
    native: str = "none",
    output_path: Optional[_Path] = None,
    output_format: Optional[str] = None,
) -> None: ...
def _stop() -> NativeProfile: ...
def _note_thread(native_id: int, ident: int, name: str) -> None: ...
def _is_active() -> bool: ...
def _get_stats() -> Optional[dict[str, Any]]: ...
def _register_thread() -> bool: ...
def _unregister_thread() -> bool: ...
def _doctor() -> list[tuple[str, str]]: ...
def _format_of(path: _Path) -> str: ...
def _load(path: _Path) -> NativeProfile: ...
def _differences(before: list[list[float]], after: list[list[float]]) -> list[float]: ...
def _write_whole(path: _Path, data: bytes) -> None: ...
def _load_bytes(data: bytes) -> NativeProfile: ...
def _build_profile(
    rows: Iterable[tuple[int, int, Optional[str], list[_Frame], int, int]],
    *,
    interval_ns: int,
    start_unix_ns: int,
    duration_ns: int,
    dropped_samples: int,
    python_version: str,
    platform: str,
    clock: str,
) -> NativeProfile: ...
