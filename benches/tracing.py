"""What tracing adds to a call and its return, against other tracers and the floor of the interpreter's own events.

    python benches/tracing.py [--calls 60000] [--rounds 15]

CPU time of the thread, the least of several rounds in turns: other load makes a round longer, never shorter. The floor on
3.12+ is callbacks that are built-in functions and do next to nothing, before 3.12 a profile hook of that kind (by ctypes).
cProfile, and viztracer and yappi where they are installed.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import ctypes
import importlib
import operator
import sys
import time
from collections.abc import Callable, Iterator

from spprof.tracing import trace_scope


def called() -> None:
    pass


def calls(times: range) -> None:
    for _ in times:
        called()


def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)


@contextlib.contextmanager
def floor() -> Iterator[None]:
    if sys.version_info >= (3, 12):
        monitoring = sys.monitoring
        events = monitoring.events
        monitoring.use_tool_id(3, "floor")
        monitoring.register_callback(3, events.PY_START, operator.is_)
        monitoring.register_callback(3, events.PY_RETURN, slice)
        monitoring.set_events(3, events.PY_START | events.PY_RETURN)
        try:
            yield
        finally:
            monitoring.set_events(3, 0)
            monitoring.free_tool_id(3)
    else:
        # It takes no arguments, looks at a flag and gives 0.
        hook = ctypes.cast(ctypes.pythonapi.PyErr_CheckSignals, ctypes.c_void_p)
        ctypes.pythonapi.PyEval_SetProfile(hook, None)
        try:
            yield
        finally:
            ctypes.pythonapi.PyEval_SetProfile(None, None)


@contextlib.contextmanager
def yappi() -> Iterator[None]:
    module = importlib.import_module("yappi")
    module.set_clock_type("wall")
    module.start(builtins=False)
    try:
        yield
    finally:
        module.stop()
        module.clear_stats()


@contextlib.contextmanager
def viztracer() -> Iterator[None]:
    tracer = importlib.import_module("viztracer").VizTracer(verbose=0, ignore_c_function=True, tracer_entries=1_000_000)
    tracer.start()
    try:
        yield
    finally:
        tracer.stop()
        tracer.clear()


TOOLS: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "floor": floor,
    "spprof": trace_scope,
    "spprof, filtered out": lambda: trace_scope(include_modules="no.such.module"),
    "spprof, timeline": lambda: trace_scope(timeline=True),
    "cProfile": cProfile.Profile,
    "viztracer": viztracer,
    "yappi": yappi,
}


def measure(tool: Callable[[], contextlib.AbstractContextManager[object]], work: Callable[[], None]) -> float:
    with tool():
        work()
        start = time.thread_time_ns()
        work()
        return float(time.thread_time_ns() - start)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--calls", type=int, default=60_000)
    arguments.add_argument("--rounds", type=int, default=15)
    options = arguments.parse_args()
    times = range(options.calls)
    programs = {"loop": (lambda: calls(times), options.calls), "fib": (lambda: print(end=str(fib(22))[:0]), 57_313)}
    with trace_scope():
        # The tracer's calibration is not measured.
        pass
    print(f"CPython {sys.version.split()[0]}: ns a call with its return, in CPU time; extra, and extra over that of cProfile")
    for program, (work, count) in programs.items():
        best = {"bare": float("inf")}
        for _ in range(options.rounds):
            best["bare"] = min(best["bare"], measure(contextlib.nullcontext, work))
            for name, tool in TOOLS.items():
                try:
                    best[name] = min(best.get(name, float("inf")), measure(tool, work))
                except ImportError:
                    continue
        bare = best["bare"]
        print(f"{program}: bare {bare / count:.1f}")
        for name in [name for name in best if name != "bare"]:
            extra = best[name] - bare
            share = extra / (best["cProfile"] - bare)
            print(f"  {name:22} {extra / count:7.1f}  {share:6.2f}  ({best[name] / bare:.2f} times bare)")


if __name__ == "__main__":
    main()
