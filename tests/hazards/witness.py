"""What hazard programs share: work of a known cost, what the process owns, and whether a profile is true of the work.

Imported by the programs, not by pytest. Nothing here waits for time to pass: work ends when enough CPU time was used.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

import spprof

# Engines that can be asked for here; perf needs a privilege.
ENGINES = ["timer", "tick"]
if dict(spprof._native._doctor())["engine perf"] == "allowed":
    ENGINES.append("perf")


def burn(seconds: float) -> int:
    """Use that much CPU time of the calling thread; the nanoseconds it really took."""
    began = time.thread_time_ns()
    goal = began + int(seconds * 1e9)
    while (now := time.thread_time_ns()) < goal:
        for i in range(300):
            i * i
    return now - began


def named(name: str) -> Callable[[float], int]:
    """`burn` under another name, to be told apart in a profile."""
    namespace = {"burn": burn}
    exec(f"def {name}(seconds):\n    return burn(seconds)", namespace)
    return namespace[name]  # type: ignore[return-value]


def seen_ns(profile: spprof.Profile, function: str) -> int:
    """CPU time of the samples that have `function` on their stack."""
    return sum(
        sample.weight_ns or 0
        for sample in profile.samples
        if any(frame.function_name.rpartition(".")[2] == function for frame in sample.frames)
    )


# A sample that stands for more than this is no excuse for anything.
COARSEST_NS = 20e6


def grain_ns(profile: spprof.Profile) -> float:
    """How much time one sample stands for: the interval, or more where the kernel's tick or a busy machine made it more."""
    weights = [sample.weight_ns or 0 for sample in profile.samples]
    mean = sum(weight * weight for weight in weights) / max(sum(weights), 1)
    return min(max(profile.interval_ms * 1e6, mean), COARSEST_NS)


def assert_true(profile: spprof.Profile, tolerance: float = 0.1, pieces: int = 1, **spent_ns: int) -> None:
    """The profile accounts for the process' CPU time, and for what each function is known to have spent.

    `pieces`: how many stretches a function's time came in. At both ends of each, a sample may stand for what was next to it.
    """
    meta = profile.metadata
    weight, unattributed, process = meta["weight_ns"], meta["unattributed_ns"], meta["process_cpu_ns"]
    figures = f"{weight=} {unattributed=} {process=} {meta['losses']} {meta['notes']}"
    assert abs(sum(sample.weight_ns or 0 for sample in profile.samples) - weight) <= weight // 1000 + 1, figures
    assert weight <= process * 1.01, figures
    assert abs(weight + unattributed - process) <= process * 0.01, figures
    slack = 3 * grain_ns(profile) * pieces**0.5 + 4e6
    for function, spent in spent_ns.items():
        seen = seen_ns(profile, function)
        assert abs(seen - spent) <= spent * tolerance + slack, f"{function}: {seen=} {spent=}; {figures}"


def assert_inactive() -> None:
    assert not spprof.is_active()
    assert spprof.stats() is None


def timers() -> int:
    return Path("/proc/self/timers").read_text().count("ID:")


def descriptors() -> dict[int, str]:
    """Every open descriptor and what it is."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the listing itself
    return found


def thread_count() -> int:
    return len(os.listdir("/proc/self/task"))


def resident_mb() -> float:
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def owned() -> dict[str, object]:
    """What must be the same before and after a run. A joined thread stays in the kernel's list for a moment."""
    deadline = time.monotonic() + 5
    while thread_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    return {
        "threads": thread_count(),
        "descriptors": sorted(descriptors().items()),
        "timers": timers(),
        "dispositions": dispositions(),
        "itimers": [signal.getitimer(which) for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)],
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "handlers": [str(signal.getsignal(number)) for number in range(1, signal.NSIG)],
    }


def dispositions() -> dict[int, bytes]:
    """Handler and flags of every signal as the C library has them (struct sigaction of Linux on 64-bit machines)."""
    restorer = 0x4000000  # set by the C library once any sigaction() was made
    libc = ctypes.CDLL(None)
    found = {}
    for number in range(1, 65):
        action = ctypes.create_string_buffer(152)
        if libc.sigaction(number, None, action) == 0:
            flags = int.from_bytes(action.raw[136:140], "little") & ~restorer
            found[number] = action.raw[:16] + flags.to_bytes(4, "little")
    return found


@contextmanager
def unchanged() -> Iterator[None]:
    """Whatever the block does, the process owns the same things after it as before."""
    # What the first run of a process makes for good (a module, a pool) is not a leak.
    spprof.start()
    spprof.stop()
    before = owned()
    yield
    after = owned()
    for key in before:
        assert before[key] == after[key], f"{key}: {before[key]} before, {after[key]} after"
