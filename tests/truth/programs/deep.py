"""Work at the end of 100,000 calls: deep.py ENGINE INTERVAL_US DEPTH."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter

import spprof
from account import report

# Before 3.11 each call also takes a part of the C stack.
STACK_BYTES = 512 << 20
found: dict[str, int] = {}


def down(n: int) -> None:
    if n == 0:
        work()
    else:
        down(n - 1)


def work() -> None:
    begin = time.thread_time_ns()
    while time.thread_time_ns() < begin + 400_000_000:
        found["turns"] = found.get("turns", 0) + 1
        sum(range(1000))


def root(depth: int) -> None:
    down(depth)
    found["cpu_ns"] = time.thread_time_ns()


def main(engine: str, interval_us: str, depth: str) -> None:
    sys.setrecursionlimit(int(depth) + 1000)
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=root, args=(int(depth),), name="deep")
    spprof.start(engine=engine, interval_us=int(interval_us))
    thread.start()
    thread.join()
    profile = spprof.stop()
    shapes: Counter[str] = Counter()
    weight_ns = 0
    for sample in profile.samples:
        if sample.thread_name != "deep":
            continue
        weight_ns += sample.weight_ns
        names = [frame.function_name.rpartition(".")[2] for frame in sample.frames]
        if names[0] == "work":
            cut = names.index("<truncated>") if "<truncated>" in names else -1
            shapes[f"{len(names)} {cut} {set(names[1:cut])} {names[-3:]}"] += 1
            roots = "root" in names[-10:] and names[-1] == "_bootstrap"
            shapes["whole" if roots and names.count("<truncated>") == 1 else "not whole"] += 1
            shapes["only down" if set(names[1:cut]) == {"down"} else "others"] += 1
    report(found=found, shapes=shapes, weight_ns=weight_ns, metadata=profile.metadata)


main(*sys.argv[1:])
