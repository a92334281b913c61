"""C functions that take turns, each called in a way of its own (native/known.cpp): their CPU time, and the stacks seen.

    native.py FOLDER ENGINE INTERVAL_US CPU_SECONDS
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from typing import Any

from account import Book, report, seen

import spprof

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


def run(book: Book) -> None:
    work(book, cpu_s * 0.5e9)


# What C++ needs for its first exception, and Python for its first call, is loaded.
run_once = Book()
work(run_once, 1)
spprof.start(interval_us=interval_us, engine=engine, native="full")
book = Book()
thread_book: dict[str, Any] = {}


def in_thread() -> None:
    own = Book()
    work(own, cpu_s * 0.5e9)
    thread_book.update(own.close())


thread = threading.Thread(target=in_thread, name="other")
work(book, cpu_s * 0.5e9)
truth = book.close()
thread.start()
thread.join()
truth.update(thread_book)
losses = spprof.stats().losses  # type: ignore[union-attr]
profile = spprof.stop()

# Leaf first, one text a stack; Python frames in brackets.
stacks: Counter[str] = Counter()
for sample in profile.samples:
    names = [frame.function_name if frame.is_native else f"[{frame.function_name}]" for frame in sample.frames]
    stacks[" ".join(names)] += 1
report(truth=truth, stacks=stacks, losses=losses, metadata=profile._native.metadata(), **seen(profile, truth))
