"""Many functions with known shares of the CPU time: shares.py KIND ENGINE INTERVAL_US CPU_SECONDS."""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
import zlib
from typing import Callable

import spprof
from account import Book, in_threads, report, seen

BUFFER = os.urandom(1 << 16)
ZERO = os.open("/dev/zero", os.O_RDONLY)
# Long reads must not come from /dev/zero: a signal cuts them short there, and so the samples would change the shares.
TARGET = bytearray(1 << 21)
FILE = os.memfd_create("shares")
os.pwrite(FILE, TARGET, 0)
# What each kind of function does over and over; all but the first release the GIL, the last two are the kernel's time.
BODIES = {
    "python": "total = 0\n        for i in range(200):\n            total += i * i",
    "hash": "sha256(BUFFER)",
    "zlib": "crc32(BUFFER); crc32(BUFFER)",
    "kernel": "read(ZERO, 1 << 18)",
    "onekernel": "preadv(FILE, (TARGET,), 0)",
}
PORTIONS = (1, 2, 4)
THREADS = ("python", "hash", "zlib", "kernel")


def make(kind: str, number: int) -> list[Callable[[int], None]]:
    """Functions kind_00, kind_01, ... which do their work `n` times."""
    scope = {"sha256": hashlib.sha256, "crc32": zlib.crc32, "read": os.read, "BUFFER": BUFFER, "ZERO": ZERO}
    scope.update(preadv=os.preadv, FILE=FILE, TARGET=TARGET)
    functions = []
    for i in range(number):
        name = f"{kind}_{i:02}"
        exec(f"def {name}(n):\n    for _ in range(n):\n        {BODIES[kind]}\n", scope)
        functions.append(scope[name])
    return functions


def units_per_ms(function: Callable[[int], None]) -> float:
    """How much work is a millisecond of CPU time, roughly: the truth is measured later, call by call."""
    n = 1
    while True:
        begin = time.thread_time_ns()
        function(n)
        took = time.thread_time_ns() - begin
        if took > 2_000_000:
            return n * 1e6 / took
        n *= 2


def steady(kind: str, number: int, cpu_s: float, mean_ms: float) -> Callable[[Book], None]:
    """Calls functions in random order, the (1, 2, 4)-fold long, without a pause."""
    functions = make(kind, number)

    def body(book: Book) -> None:
        pace = units_per_ms(functions[0])
        chance = random.Random(kind)
        while book.total_ns() < cpu_s * 1e9:
            i = chance.randrange(number)
            book.call(functions[i], max(1, round(pace * mean_ms * PORTIONS[i % 3] * chance.uniform(0.2, 0.7))))

    return body


def alternating(number: int, cpu_s: float) -> Callable[[Book], None]:
    """One long call into the kernel, then some Python, each shorter than the sampling interval."""
    kernel, python = make("onekernel", number), make("python", number)

    def body(book: Book) -> None:
        pace = units_per_ms(python[0])
        chance = random.Random(number)
        while book.total_ns() < cpu_s * 1e9:
            book.call(kernel[chance.randrange(number)], chance.randrange(1, 4))
            book.call(python[chance.randrange(number)], max(1, round(pace * chance.uniform(0.1, 0.5))))

    return body


def bursty(kind: str, number: int, cpu_s: float) -> Callable[[Book], None]:
    """2 ms of work, 5 ms of sleep."""
    functions = make(kind, number)

    def body(book: Book) -> None:
        pace = units_per_ms(functions[0])
        chance = random.Random(kind)
        while book.total_ns() < cpu_s * 1e9:
            book.call(functions[chance.randrange(number)], max(1, round(pace * 2)))
            time.sleep(0.005)

    return body


def bodies_of(program: str, cpu_s: float) -> dict[str, Callable[[Book], None]]:
    if program == "functions":
        return {"one": steady("python", 60, cpu_s, 2.0)}
    if program == "threads":
        return {kind: steady(kind, 20, cpu_s * part, 2.0) for kind, part in zip(THREADS, (0.4, 0.3, 0.2, 0.1))}
    if program == "kernel":
        return {"one": alternating(25, cpu_s)}
    if program == "bursty":
        return {f"{kind} {i}": bursty(kind, 15, cpu_s / 4) for kind in ("python", "hash") for i in range(2)}
    raise ValueError(program)


def main(program: str, engine: str, interval_us: str, cpu_s: str) -> None:
    bodies = bodies_of(program, float(cpu_s))
    spprof.start(engine=engine, interval_us=int(interval_us))
    truth = in_threads(bodies)
    profile = spprof.stop()
    report(truth=truth, samples=len(profile.samples), metadata=profile.metadata, **seen(profile, truth))


main(*sys.argv[1:])
