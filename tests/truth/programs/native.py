"""C functions that take turns, each called in a way of its own (native/known.cpp): their CPU time, and the stacks seen.

native.py FOLDER ENGINE INTERVAL_US CPU_SECONDS
"""

from __future__ import annotations

import sys
from collections import Counter

import spprof
from account import Book, in_threads, report, seen

folder, engine, interval_us, cpu_s = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
sys.path.insert(0, folder)
import known  # type: ignore[import-not-found] # noqa: E402

WAYS = {"plain": 1, "pointer": 2, "tail": 3, "aligned": 1, "thrown": 2, "inner": 3}
ROUNDS = 20_000


def spin_plain() -> None:
    known.call_plain(ROUNDS * WAYS["plain"])


def spin_pointer() -> None:
    known.call_pointer(ROUNDS * WAYS["pointer"])


def spin_tail() -> None:
    known.call_tail(ROUNDS * WAYS["tail"])


def spin_aligned() -> None:
    known.call_aligned(ROUNDS * WAYS["aligned"])


def spin_thrown() -> None:
    known.call_thrown(ROUNDS * WAYS["thrown"])


def python_between() -> None:
    known.call_inner(ROUNDS * WAYS["inner"])


def spin_inner() -> None:
    known.call_back(python_between)


def work(book: Book, end_ns: float) -> None:
    while book.total_ns() < end_ns:
        for function in (spin_plain, spin_pointer, spin_tail, spin_aligned, spin_thrown, spin_inner):
            book.call(function)


# What C++ needs for its first exception is loaded.
work(Book(), 1)
spprof.start(interval_us=interval_us, engine=engine, native="full")
book = Book()
work(book, cpu_s * 0.5e9)
truth = book.close()
truth.update(in_threads({"aside": lambda own: work(own, cpu_s * 0.5e9)}))
losses = dict(spprof.stats().losses)  # type: ignore[union-attr]
profile = spprof.stop()

# Leaf first, one text a stack; Python frames in brackets.
stacks: Counter[str] = Counter()
for sample in profile.samples:
    names = [frame.function_name if frame.is_native else f"[{frame.function_name}]" for frame in sample.frames]
    stacks[" ".join(names)] += 1
report(truth=truth, stacks=stacks, losses=losses, metadata=profile.metadata, **seen(profile, truth))
