"""One measurement: loads a pyperformance program, runs it a number of times under one contender, prints the time as JSON.

Runs in a process of its own, started by compare.py. What is timed is the program's loop alone: imports, the profiler's
start and its output are outside, so that the ratio to `bare` is what the program feels while it is profiled.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import json
import runpy
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

# Program to (folder, its arguments); all are pure computations on one thread.
PROGRAMS = {
    "richards": ("bm_richards", []),
    "deltablue": ("bm_deltablue", []),
    "nbody": ("bm_nbody", []),
    "json_dumps": ("bm_json_dumps", []),
    "chaos": ("bm_chaos", []),
    "raytrace": ("bm_raytrace", []),
    "regex_compile": ("bm_regex_compile", []),
    "go": ("bm_go", []),
}


def load(program: str) -> Callable[[int], None]:
    """The program's loop: it is run as a script with a pyperf that takes the benchmark instead of timing it."""
    import pyperf
    import pyperformance

    taken: list[Callable[[int], Any]] = []

    class Taker:
        """As much of pyperf.Runner as the programs use."""

        def __init__(self, **_: Any) -> None:
            self.argparser = argparse.ArgumentParser()
            self.metadata: dict[str, str] = {}

        def parse_args(self) -> argparse.Namespace:
            return self.argparser.parse_args()

        def bench_func(self, _name: str, function: Callable[..., Any], *arguments: Any, **_: Any) -> None:
            def loop(times: int) -> None:
                for _ in range(times):
                    function(*arguments)

            taken.append(loop)

        def bench_time_func(self, _name: str, function: Callable[..., Any], *arguments: Any, **_: Any) -> None:
            taken.append(lambda times: function(times, *arguments))

    folder, arguments = PROGRAMS[program]
    path = Path(pyperformance.__file__).parent / "data-files/benchmarks" / folder / "run_benchmark.py"
    pyperf.Runner = Taker
    saved, sys.argv = sys.argv, [str(path), *arguments]
    sys.path.insert(0, str(path.parent))
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv = saved
    (loop,) = taken
    return loop


@contextlib.contextmanager
def contender(name: str, handler_library: str) -> Iterator[dict[str, Any]]:
    """Profiles what runs inside; gives a place for facts about the run. Outside profilers need nothing here."""
    kind, _, rest = name.partition("-")
    rate, _, way = rest.partition("-")
    interval_us = {"100hz": 10_000, "1khz": 1_000}.get(rate, 0)
    facts: dict[str, Any] = {}
    if kind == "spprof":
        import spprof

        spprof.start(interval_ms=interval_us // 1000, engine=way or "auto")
        yield facts
        facts["engine"] = spprof.stats().engine
        facts["samples"] = len(spprof.stop().samples)
    elif kind == "handler":
        library = ctypes.CDLL(handler_library)
        library.start.argtypes, library.stop.argtypes = [ctypes.c_char, ctypes.c_int64], [ctypes.c_char]
        letter = {"timer": b"t", "perf": b"p", "tick": b"k"}[way]
        if library.start(letter, interval_us * 1000) != 0:
            raise SystemExit(f"the kernel refuses {way}")
        yield facts
        facts["samples"] = library.stop(letter)
    elif kind == "pyinstrument":
        import pyinstrument

        profiler = pyinstrument.Profiler()
        profiler.start()
        yield facts
        facts["samples"] = profiler.stop().sample_count
    elif kind == "cprofile":
        import cProfile

        profile = cProfile.Profile()
        profile.enable()
        yield facts
        profile.disable()
    else:
        yield facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("contender")
    parser.add_argument("result", type=Path)
    parser.add_argument("--times", type=int, help="how often to run it; without, as often as fits into --seconds")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--handler-library", default="")
    options = parser.parse_args()
    with contextlib.redirect_stdout(io.StringIO()):
        loop = load(options.program)
        loop(1)  # warm: imports, caches, specialised code
        times = options.times or calibrated(loop, options.seconds)
        with contender(options.contender, options.handler_library) as facts:
            wall, cpu = time.perf_counter(), time.process_time()
            loop(times)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    options.result.write_text(json.dumps({"times": times, "wall_s": wall, "cpu_s": cpu, **facts}))


def calibrated(loop: Callable[[int], None], seconds: float) -> int:
    times = 1
    while True:
        began = time.perf_counter()
        loop(times)
        taken = time.perf_counter() - began
        if taken > seconds / 8:
            return max(1, round(times * seconds / taken))
        times *= 2


if __name__ == "__main__":
    main()
