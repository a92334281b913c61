"""What a profile costs after it was taken: memory per sample, stop(), and each export. Prints a table.

A recursive program is sampled at a high rate, so that there are many samples of stacks that repeat, as in a long run.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from typing import Any, Callable

import spprof

FORMATS = {"speedscope": ".json", "collapsed": ".collapsed", "pprof": ".pb.gz", "svg": ".svg", "spprof": ".spprof"}


def leaf(number: int) -> int:
    total = 0
    for value in range(200 + number):
        total += value
    return total


def work(depth: int) -> None:
    if depth:
        work(depth - 1)
    else:
        for number in range(8):
            leaf(number)


def timed(call: Callable[..., Any], *arguments: Any) -> float:
    began = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--interval-us", type=int, default=50)
    options = parser.parse_args()

    spprof.start(interval_us=options.interval_us, memory_limit_mb=1000)
    end = time.perf_counter() + options.seconds
    while time.perf_counter() < end:
        work(25)
    stats = spprof.stats()
    profiles = []
    stopped = timed(lambda: profiles.append(spprof.stop()))
    profile = profiles[0]
    count = len(profile.samples)
    print(f"{count} samples, {stats.memory_bytes / count:.1f} bytes each with the tree; stop() {stopped * 1e3:.1f} ms")
    print(f"| export | seconds | us per sample | MB |\n|{'---|' * 4}")
    with tempfile.TemporaryDirectory() as folder:
        for name, suffix in FORMATS.items():
            path = os.path.join(folder, "profile" + suffix)
            seconds = timed(profile.save, path, name)
            print(f"| {name} | {seconds:.3f} | {seconds / count * 1e6:.2f} | {os.path.getsize(path) / 1e6:.1f} |")
    touched = timed(profile.samples.__getitem__, count // 2)
    print(f"one sample of the middle, as Python objects: {touched * 1e6:.0f} us")


if __name__ == "__main__":
    main()
