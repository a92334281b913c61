"""Where all of the CPU time went, at several intervals: totals.py ENGINE CPU_SECONDS INTERVAL_US..."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from typing import Any, Callable

import spprof
from account import report

BUFFER = bytes(1 << 16)


def use(cpu_ns: int, work: Callable[[], object]) -> None:
    """Works for that much CPU time of this thread."""
    end = time.thread_time_ns() + cpu_ns
    while time.thread_time_ns() < end:
        work()


def in_python() -> None:
    for i in range(20_000):
        i * i


def without_gil() -> None:
    for _ in range(10):
        hashlib.sha256(BUFFER)


def run(engine: str, interval_us: int, cpu_ns: int) -> dict[str, Any]:
    """The main thread, one that computes without the GIL, one that ends early; the first two live when the run ends."""
    spent_ns: dict[str, int] = {}
    may_end = threading.Event()

    def body(share: float, work: Callable[[], object], stay: bool) -> None:
        use(round(cpu_ns * share), work)
        # What its own clock says, from its birth to here: no more is to come but going to sleep.
        spent_ns[threading.current_thread().name] = time.thread_time_ns()
        done.release()
        if stay:
            may_end.wait()

    done = threading.Semaphore(0)
    threads = [
        threading.Thread(name="stays", target=body, args=(0.3, without_gil, True)),
        threading.Thread(name="leaves", target=body, args=(0.2, in_python, False)),
    ]
    outer = time.process_time_ns()
    spprof.start(engine=engine, interval_us=interval_us)
    inner, own = time.process_time_ns(), time.thread_time_ns()
    for thread in threads:
        thread.start()
    use(round(cpu_ns * 0.5), in_python)
    for _ in threads:
        done.acquire()
    threads[1].join()
    spent_ns["MainThread"] = time.thread_time_ns() - own
    inner = time.process_time_ns() - inner
    profile = spprof.stop()
    outer = time.process_time_ns() - outer
    may_end.set()
    threads[0].join()
    weights: dict[str, int] = {}
    squares: dict[str, int] = {}
    for sample in profile.samples:
        name = str(sample.thread_name)
        weights[name] = weights.get(name, 0) + sample.weight_ns
        squares[name] = squares.get(name, 0) + sample.weight_ns**2
    return {
        "interval_us": interval_us,
        "process_ns": [inner, outer],
        "spent_ns": spent_ns,
        "weights": weights,
        "squares": squares,
        "threads": {row["name"]: row for row in profile._to_native().threads()},
        "metadata": profile.metadata,
    }


def main(engine: str, cpu_s: str, *intervals: str) -> None:
    spprof.start()  # what the first run of a process costs more than others
    spprof.stop()
    report(runs=[run(engine, int(interval), round(float(cpu_s) * 1e9)) for interval in intervals])


main(*sys.argv[1:])
