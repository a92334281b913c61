"""spprof: a sampling profiler for Python that tells the truth and never hurts the program it watches.

    import spprof

    spprof.start()
    work()
    spprof.stop().save("profile.json")    # open at https://www.speedscope.app

This module is a map. `import spprof` loads the extension and the few functions that start and stop it; the data classes,
the decorator and the writers come with their first use, so that importing the profiler costs next to nothing.
"""

from __future__ import annotations

try:
    from . import _native
except ImportError as error:
    raise ImportError(f"spprof's native extension does not load: {error}", name="spprof._native") from error

from .profiler import (
    Profiler,
    ThreadProfiler,
    capture_native_stack,
    is_active,
    native_unwinding_available,
    native_unwinding_enabled,
    register_thread,
    set_native_unwinding,
    start,
    stats,
    stop,
    unregister_thread,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import memprof, output
    from ._decorator import profile
    from ._errors import LoadError, MissingColumnError
    from ._profile import AggregatedProfile, Profile, load
    from ._types import AggregatedStack, Frame, NativeFrame, ProfilerStats, Sample, StackTrace

__version__: str = _native.__version__
_HAS_NATIVE = True

__all__ = [
    "AggregatedProfile",
    "AggregatedStack",
    "Frame",
    "LoadError",
    "MissingColumnError",
    "NativeFrame",
    "Profile",
    "Profiler",
    "ProfilerStats",
    "Sample",
    "StackTrace",
    "ThreadProfiler",
    "capture_native_stack",
    "is_active",
    "load",
    "memprof",
    "native_unwinding_available",
    "native_unwinding_enabled",
    "output",
    "profile",
    "register_thread",
    "set_native_unwinding",
    "start",
    "stats",
    "stop",
    "unregister_thread",
]

_LAZY = {
    "AggregatedProfile": "_profile",
    "AggregatedStack": "_types",
    "Frame": "_types",
    "LoadError": "_errors",
    "MissingColumnError": "_errors",
    "NativeFrame": "_types",
    "Profile": "_profile",
    "ProfilerStats": "_types",
    "Sample": "_types",
    "StackTrace": "_types",
    "load": "_profile",
    "memprof": "memprof",
    "output": "output",
    "profile": "_decorator",
}


def __getattr__(name: str) -> Any:
    module_name = _LAZY.get(name)
    if module_name is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"{__name__}.{module_name}")
    value = module if name == module_name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
