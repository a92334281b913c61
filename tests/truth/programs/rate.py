"""One busy thread: rate.py ENGINE INTERVAL_US CPU_SECONDS."""

from __future__ import annotations

import sys
import time

import spprof
from account import report


def main(engine: str, interval_us: str, cpu_s: str) -> None:
    spprof.start(engine=engine, interval_us=int(interval_us))
    begin = time.thread_time_ns()
    while time.thread_time_ns() < begin + float(cpu_s) * 1e9:
        for i in range(20_000):
            i * i
    cpu_ns = time.thread_time_ns() - begin
    profile = spprof.stop()
    report(weights=[sample.weight_ns for sample in profile.samples], cpu_ns=cpu_ns)


main(*sys.argv[1:])
