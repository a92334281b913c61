"""Work that is not the main interpreter's: elsewhere.py KIND ENGINE."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from typing import Any

import spprof
from account import report

BODY = """
import time
def in_sub_interpreter():
    end = time.thread_time_ns() + 300_000_000
    while time.thread_time_ns() < end:
        sum(range(1000))
in_sub_interpreter()
"""


def run_in_sub_interpreter() -> None:
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    run = getattr(interpreters, "run_string", None) or interpreters.exec
    ident = interpreters.create()
    run(ident, BODY)
    interpreters.destroy(ident)


def run_native() -> None:
    """A thread that never meets Python: it shuffles the letters of a long string."""
    libc = ctypes.CDLL(None)
    text = ctypes.create_string_buffer(b"x" * 40_000_000)
    thread = ctypes.c_ulong()
    if libc.pthread_create(ctypes.byref(thread), None, libc.strfry, text):
        raise OSError("no thread")
    libc.pthread_join(thread, None)


def main(kind: str, engine: str) -> None:
    body: Any = {"sub-interpreter": run_in_sub_interpreter, "native": run_native}[kind]
    spprof.start(engine=engine, interval_us=1000)
    process, own = time.process_time_ns(), time.thread_time_ns()
    python_ns = []

    def timed() -> None:
        body()
        python_ns.append(time.thread_time_ns())

    thread = threading.Thread(target=timed, name="python")
    thread.start()
    thread.join()
    others_ns = time.process_time_ns() - process - (time.thread_time_ns() - own)
    profile = spprof.stop()
    weights: dict[str, int] = {}
    for sample in profile.samples:
        names = [frame.function_name for frame in sample.frames]
        key = "in_sub_interpreter" if "in_sub_interpreter" in names else "/".join(names) if len(names) == 1 else "other"
        weights[key] = weights.get(key, 0) + sample.weight_ns
    report(weights=weights, others_ns=others_ns, python_ns=python_ns[0], metadata=profile.metadata)


main(*sys.argv[1:])
