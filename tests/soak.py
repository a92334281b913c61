"""A long, hostile run: everything that disturbs a sampler at once, at 5 kHz, on one Python. `make soak` starts it.

Each kind of churn runs on a thread of its own until the time is over. Then nothing may be left behind: no thread, no
descriptor, no timer, and no memory that grew with time. Whatever hangs is shown by faulthandler's stacks.

    python tests/soak.py --seconds 600 --cycles 50000
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import os
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path
from typing import Callable

import spprof

INTERVAL_US = 200
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
# Resident memory after the first third, when all caches are warm, and at the end may differ by this much.
GROWTH_MB = 24


def churn_code(turn: int) -> None:
    """Functions that are compiled, called and thrown away. Their names come again: CPython keeps each for ever from 3.12 on."""
    turn %= 50
    source = "\n".join(f"def f{turn}_{i}(n):\n    return sum(range(n))" for i in range(20))
    namespace: dict[str, Callable[[int], int]] = {}
    exec(compile(source, f"<soak {turn}>", "exec"), namespace)
    for i in range(20):
        namespace[f"f{turn}_{i}"](50)


def churn_threads(turn: int) -> None:
    """Threads that live for a moment."""
    threads = [threading.Thread(target=sum, args=(range(2000 * (i + 1)),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def churn_garbage(turn: int) -> None:
    """Cycles for the collector."""
    for _ in range(200):
        cycle: list[object] = []
        cycle.append(cycle)
    gc.collect(turn % 3)


def churn_recursion(turn: int) -> None:
    """Stacks of some thousand frames, which come and go."""

    def down(n: int) -> int:
        return 0 if n == 0 else 1 + down(n - 1)

    down(200 + turn % 5 * 900)


def churn_generators(turn: int) -> None:
    """Frames that are suspended and resumed."""

    def count(n: int):
        while n:
            n -= yield n

    generator = count(3000)
    next(generator)
    for _ in range(2000):
        generator.send(1)


def churn_processes(turn: int) -> None:
    """A fork whose child must find itself without a profiler, and a subprocess."""
    if turn % 2:
        subprocess.run([sys.executable, "-S", "-c", "pass"], check=True)
        return
    child = os.fork()
    if child == 0:
        os._exit(7 if spprof.is_active() else 0)
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise AssertionError(f"the forked child ended with status {status}")


def churn_greenlets(turn: int) -> None:
    """Stacks exchanged under the interpreter's feet."""
    from greenlet import getcurrent, greenlet

    main = getcurrent()

    def body() -> None:
        for _ in range(200):
            main.switch()

    workers = [greenlet(body) for _ in range(5)]
    while any(not worker.dead for worker in workers):
        for worker in workers:
            if not worker.dead:
                worker.switch()


CHURNS = [churn_code, churn_threads, churn_garbage, churn_recursion, churn_generators, churn_processes]


def settled_footprint() -> dict[str, int]:
    """The footprint once it stays the same: a joined thread is still in the kernel's list for a moment."""
    earlier: dict[str, int] = {}
    while (now := footprint()) != earlier:
        earlier = now
        time.sleep(0.5)
    return now


def footprint() -> dict[str, int]:
    """What a leak would show in: threads, descriptors, timers of the process."""
    timers = Path("/proc/self/timers").read_text().count("ID:")
    return {
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "timers": timers,
    }


def resident_mb() -> float:
    gc.collect()
    # Free memory of the allocator's that it has not given back is not a leak.
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def churn_for(seconds: float) -> None:
    """All kinds at once; the first failure of any ends the run and is raised here."""
    deadline = time.monotonic() + seconds
    failures: list[BaseException] = []

    def repeat(churn: Callable[[int], None]) -> None:
        turn = 0
        try:
            while time.monotonic() < deadline and not failures:
                churn(turn)
                turn += 1
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=repeat, args=(churn,), name=churn.__name__) for churn in CHURNS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def watched(seconds: float) -> int:
    """One run of the profiler over the churn; how many samples it took."""
    spprof.start(interval_us=INTERVAL_US, memory_limit_mb=32)
    churn_for(seconds)
    profile = spprof.stop()
    return len(profile.samples)


def start_and_stop(cycles: int) -> None:
    for number in range(cycles):
        spprof.start(interval_ms=1 + number % 10)
        spprof.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--cycles", type=int, default=50_000)
    options = parser.parse_args()
    faulthandler.enable()
    faulthandler.dump_traceback_later(options.seconds * 2 + options.cycles / 50 + 120, exit=True)
    sys.setrecursionlimit(10_000)
    try:
        import greenlet  # noqa: F401

        CHURNS.append(churn_greenlets)
    except ImportError:
        print("without greenlets: they are not installed")

    start_and_stop(20)
    watched(options.seconds / 3)
    before, before_mb = settled_footprint(), resident_mb()
    samples = watched(options.seconds * 2 / 3)
    churned_mb = resident_mb()
    start_and_stop(options.cycles)
    after, after_mb = settled_footprint(), resident_mb()
    resident = f"{before_mb:.1f} -> {churned_mb:.1f} -> {after_mb:.1f} MB"
    print(f"{samples} samples, {options.cycles} cycles, resident {resident}, {before} -> {after}")
    expected = options.seconds * 2 / 3 * 1e6 / INTERVAL_US / 20
    assert samples > expected, f"{samples} samples are fewer than {expected:.0f}: was anything watched?"
    assert before == after, "something is left behind"
    assert after_mb < churned_mb + GROWTH_MB, "memory grows with every run"
    # CPython 3.13t itself grows by what this churn does (without a profiler: 55 -> 178 MB in 400 s).
    assert FREE_THREADED or churned_mb < before_mb + GROWTH_MB, "memory grows"
    print("soak passed")


if __name__ == "__main__":
    main()
