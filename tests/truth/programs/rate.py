"""One busy thread: rate.py ENGINE INTERVAL_US CPU_SECONDS."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import spprof
from account import report


def profiler_waited_ns() -> int:
    """How long the profiler's own thread stood in the queue for a processor, so far."""
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text() == "spprof\n":
            return int((task / "schedstat").read_text().split()[1])
    raise LookupError("the profiler has no thread")


def main(engine: str, interval_us: str, cpu_s: str) -> None:
    spprof.start(engine=engine, interval_us=int(interval_us))
    began_ns, begin = time.monotonic_ns(), time.thread_time_ns()
    while time.thread_time_ns() < begin + float(cpu_s) * 1e9:
        for i in range(20_000):
            i * i
    cpu_ns = time.thread_time_ns() - begin
    waited = profiler_waited_ns() / (time.monotonic_ns() - began_ns)
    profile = spprof.stop()
    report(samples=len(profile.samples), cpu_ns=cpu_ns, waited=waited, metadata=profile.metadata)


main(*sys.argv[1:])
