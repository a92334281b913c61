"""Threads that wait in all kinds of ways: waiting.py wait|poll CLOCK ENGINE INTERVAL_US SECONDS."""

from __future__ import annotations

import ctypes
import errno
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable

import spprof
from account import report

libc = ctypes.CDLL(None, use_errno=True)
end = threading.Event()
lives: dict[str, dict[str, Any]] = {}
polls = {"all": 0, "interrupted": 0}


def switches() -> int:
    """How often the calling thread has given up its processor of its own accord: once for each sleep."""
    status = Path(f"/proc/self/task/{threading.get_native_id()}/status").read_text()
    return int(status.partition("voluntary_ctxt_switches:")[2].split()[0])


def parked() -> None:
    """One long sleep, by a call that does not sleep on when it is disturbed."""
    libc.poll(None, 0, round(1000 * seconds))


def parked_in_python() -> None:
    end.wait()


def short_naps() -> None:
    time.sleep(0.02)


def long_naps() -> None:
    time.sleep(0.04)


def naps() -> dict[str, int]:
    spent = {"short_naps": 0, "long_naps": 0}
    while not end.is_set():
        for nap in (short_naps, long_naps):
            begin = time.monotonic_ns()
            nap()
            spent[nap.__name__] += time.monotonic_ns() - begin
    return spent


def polling() -> None:
    """0.6 ms of work and a poll of 5 ms, over and over."""
    while not end.is_set():
        work_until = time.thread_time_ns() + 600_000
        while time.thread_time_ns() < work_until:
            sum(range(100))
        polls["all"] += 1
        if libc.poll(None, 0, 5) < 0 and ctypes.get_errno() == errno.EINTR:
            polls["interrupted"] += 1


def computing() -> None:
    """Two of these want the GIL all the time, and one waits for it."""
    while not end.is_set():
        sum(range(1000))


def live(body: Callable[[], Any]) -> None:
    name = threading.current_thread().name
    begin, slept = time.monotonic_ns(), switches()
    said = body()
    lives[name] = {"ns": time.monotonic_ns() - begin, "sleeps": switches() - slept, "said": said}


def main(kind: str, clock: str, engine: str, interval_us: str) -> None:
    waits = {
        "parked": parked,
        "parked in Python": parked_in_python,
        "naps": naps,
        "computing 1": computing,
        "computing 2": computing,
    }
    pollers = {f"polling {i}": polling for i in range(6)}
    bodies = waits if kind == "wait" else pollers
    spprof.start(clock=clock, engine=engine, interval_us=int(interval_us))
    threads = [threading.Thread(target=live, args=(body,), name=name) for name, body in bodies.items()]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    end.set()
    for thread in threads:
        thread.join()
    profile = spprof.stop()
    weights: dict[str, dict[str, int]] = {}
    samples: dict[str, int] = {}
    names = {body.__name__ for body in bodies.values()} | {"short_naps", "long_naps"}
    for sample in profile.samples:
        thread = str(sample.thread_name)
        by_function = weights.setdefault(thread, {})
        function = next((f.function_name for f in sample.frames if f.function_name in names), "other")
        by_function[function] = by_function.get(function, 0) + sample.weight_ns
        samples[thread] = samples.get(thread, 0) + 1
    report(lives=lives, polls=polls, weights=weights, samples=samples, metadata=profile.metadata)


seconds = float(sys.argv[5])
main(*sys.argv[1:5])
