"""Four threads whose functions live for a moment. Every name says its only legal caller.

churn.py ENGINE INTERVAL_US SAMPLES CPU_SECONDS: until there are so many samples, or so much time was spent.
"""

from __future__ import annotations

import asyncio
import functools
import marshal
import re
import sys
import threading
import time
from collections import Counter
from typing import Any, Callable, Optional

import spprof
from account import report

WORKERS = 4
BATCHES = 50  # different ones, a worker: a dead function's place is taken by one of another name
FUNCTIONS = 16  # a chain of so many in each batch
# f_<worker>_<batch>_<position> stands in the file <worker>/<batch> at line 3 * position + 1. The position before calls it.
NAME = re.compile(r"f_(\d+)_(\d+)_(\d+)")
working = True


def source(worker: int, batch: int) -> str:
    lines = []
    for position in range(FUNCTIONS):
        last = position == FUNCTIONS - 1
        call = "n" if last else f"f_{worker}_{batch}_{position + 1}(n + 1)"
        lines += [f"def f_{worker}_{batch}_{position}(n):", "    n = n * 3 % 1000003", f"    return {call}"]
    return "\n".join(lines)


def compiled(worker: int) -> list[bytes]:
    batches = range(BATCHES)
    return [marshal.dumps(compile(source(worker, batch), f"{worker}/{batch}", "exec")) for batch in batches]


CODE = [compiled(worker) for worker in range(WORKERS)]


def chain(worker: int, batch: int) -> Callable[[int], int]:
    """A fresh chain of functions, which nothing will know after its only call."""
    scope: dict[str, Any] = {}
    exec(marshal.loads(CODE[worker][batch]), scope)
    return scope[f"f_{worker}_{batch}_0"]


def churn(worker: int) -> None:
    batch = 0
    while working:
        start_chain(chain(worker, batch % BATCHES))
        if batch % 4 == 0:
            others(batch)
        batch += 1


def start_chain(first: Callable[[int], int]) -> None:
    first(1)


def others(batch: int) -> None:
    """Frames that come and go in other ways."""
    for _ in generator(5):
        pass
    sorted(range(20), key=sort_key)
    decorated(batch)
    recursion(10)
    coroutine_driver()
    [i + 1 for i in generator(3)]


def generator(n: int) -> Any:
    for i in range(n):
        yield generated(i)


def generated(i: int) -> int:
    return i * i


def sort_key(i: int) -> int:
    return -i


def decorator(function: Callable[[int], int]) -> Callable[[int], int]:
    @functools.wraps(function)
    def wrapper(n: int) -> int:
        return function(n)

    return wrapper


@decorator
def decorated(n: int) -> int:
    return n + 1


def recursion(n: int) -> int:
    return 0 if n == 0 else recursion(n - 1) + 1


async def outer_coroutine(n: int) -> int:
    return await inner_coroutine(n) + await inner_coroutine(n + 1)


async def inner_coroutine(n: int) -> int:
    await asyncio.sleep(0)
    return n


def coroutine_driver() -> None:
    coroutine = outer_coroutine(1)
    try:
        while True:
            coroutine.send(None)
    except StopIteration:
        pass


# Callee: its legal callers. What has no caller is None's. Comprehensions have a frame of their own before 3.12.
CALLERS: dict[str, set[Optional[str]]] = {
    "churn": {"run"},
    "chain": {"churn"},
    "<module> of a chain": {"chain"},
    "start_chain": {"churn"},
    "others": {"churn"},
    "generator": {"others", "<listcomp>"},
    "<listcomp>": {"others"},
    "generated": {"generator"},
    "sort_key": {"others"},
    "wrapper": {"others"},
    "decorated": {"wrapper"},
    "recursion": {"others", "recursion"},
    "coroutine_driver": {"others"},
    "outer_coroutine": {"coroutine_driver"},
    "inner_coroutine": {"outer_coroutine"},
    "sleep": {"inner_coroutine"},
    "__sleep0": {"sleep"},
}
# What threading's own frames are called does not matter here, only where they may stand.
THREADING = "threading.py"


def name_of(frame: Any) -> str:
    """Without what it is nested in, which Pythons before 3.11 do not tell."""
    if frame.filename.endswith(THREADING) or frame.filename.endswith("_threads.py"):
        return "run" if frame.function_name.endswith("run") else "threading"
    name = frame.function_name.rpartition(".")[2]
    return f"{name} of a chain" if name == "<module>" and "/" in frame.filename and frame.filename[0].isdigit() else name


def is_legal(callee: Any, caller: Any) -> bool:
    """Whether `caller` (None: nobody) can have called `callee`."""
    match = NAME.fullmatch(callee.function_name)
    if match:
        worker, batch, position = map(int, match.groups())
        first_line = 3 * position + 1
        if callee.filename != f"{worker}/{batch}" or not first_line <= callee.lineno <= first_line + 2:
            return False
        if position == 0:
            return caller is not None and caller.function_name == "start_chain"
        return (
            caller is not None
            and caller.function_name == f"f_{worker}_{batch}_{position - 1}"
            and caller.lineno == first_line - 1
        )
    if name_of(callee) in ("run", "threading"):
        return caller is None or name_of(caller) == "threading"
    return (None if caller is None else name_of(caller)) in CALLERS.get(name_of(callee), set())


def main(engine: str, interval_us: str, samples_wanted: str, cpu_s: str) -> None:
    global working
    spprof.start(engine=engine, interval_us=int(interval_us), memory_limit_mb=1000)
    workers = [threading.Thread(target=churn, args=(i,), name=f"worker {i}") for i in range(WORKERS)]
    end_ns = time.process_time_ns() + int(cpu_s) * 1_000_000_000
    for worker in workers:
        worker.start()
    while time.process_time_ns() < end_ns:
        time.sleep(0.1)
        stats = spprof.stats()
        if stats is None or stats.collected_samples >= int(samples_wanted):
            break
    working = False
    for worker in workers:
        worker.join()
    profile = spprof.stop()

    # Stacks repeat: each is judged once, and counts for all its samples.
    illegal: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    samples = 0
    for stack in profile.aggregate().stacks:
        if not stack.thread_name.startswith("worker"):
            continue
        samples += stack.count
        frames = stack.frames
        kinds["fresh" if NAME.fullmatch(frames[0].function_name) else name_of(frames[0])] += stack.count
        if len(frames) == 1 and frames[0].function_name in ("<native>", "<unresolved>"):
            continue  # before the thread was Python's; a stack that could not be followed and says so
        number = stack.thread_name.split()[1]
        for callee, caller in zip(frames, [*frames[1:], None]):
            foreign = (match := NAME.fullmatch(callee.function_name)) is not None and match[1] != number
            if foreign or not is_legal(callee, caller):
                illegal[f"{callee} called by {caller} in {stack.thread_name}"] += stack.count
    report(samples=samples, illegal=illegal.most_common(20), kinds=kinds, metadata=profile.metadata)


main(*sys.argv[1:])
