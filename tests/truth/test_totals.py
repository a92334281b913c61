"""Nothing of the CPU time is lost and nothing is counted twice, whatever the interval."""

from __future__ import annotations

import statistics
from typing import Any, Callable

INTERVALS_US = (100, 1000, 10_000, 100_000)


def check_process(run: dict[str, Any]) -> None:
    """Weights and the unattributed rest lie between what the process read inside the run and around it."""
    inner, outer = run["process_ns"]
    meta = run["metadata"]
    assert outer < 1.05 * inner, "start() and stop() blur the comparison"
    assert meta["weight_ns"] == sum(run["weights"].values())
    assert inner <= meta["weight_ns"] + meta["unattributed_ns"] <= outer
    # The rest is the profiler's own thread and what followed each thread's last sample.
    rest = meta["unattributed_ns"] - meta["profiler_cpu_ns"]
    assert -0.001 * inner < rest < 0.01 * inner + 2 * sum(interval_ns(run, name) for name in run["spent_ns"]), run


def interval_ns(run: dict[str, Any], thread: str) -> int:
    """How much time one of the thread's samples stands for.

    The timer goes no faster than the kernel's tick, at most 10 ms; the ticks' thread may have to wait for a processor.
    """
    slowest = {"timer": 10_000_000, "tick": 4_000_000}
    mean = run["squares"].get(thread, 0) // run["weights"].get(thread, 1)
    return max(run["interval_us"] * 1000, slowest.get(run["metadata"]["engine"], 0), min(mean, 20_000_000))


def check_threads(run: dict[str, Any]) -> None:
    """Each thread has its own clock's time; one that has ended may lack what it used since the last look at its clock."""
    for name, spent in run["spent_ns"].items():
        if name not in run["threads"]:
            assert spent < 2 * interval_ns(run, name), f"{name} has no sample"
            continue
        thread = run["threads"][name]
        claimed = thread["weight_ns"] + thread["unattributed_ns"]
        assert thread["weight_ns"] == run["weights"][name]
        assert abs(claimed - thread["cpu_ns"]) < 0.001 * spent
        assert thread["unattributed_ns"] < 0.01 * spent + 3 * interval_ns(run, name)
        unseen = 60_000_000 if name == "leaves" else 0
        assert 0.99 * spent - unseen < claimed < 1.01 * spent, f"{name}: {claimed}, truly {spent}"


def test_all_time_is_accounted_for(report_of: Callable[..., Any], engine: str) -> None:
    """By the process and by thread, at 100 us, 1 ms, 10 ms and 100 ms."""
    report = report_of("totals.py", engine, 0.6, *INTERVALS_US)
    assert [run["interval_us"] for run in report["runs"]] == list(INTERVALS_US)
    for run in report["runs"]:
        check_process(run)
        check_threads(run)


def test_rate(report_of: Callable[..., Any], exact_engine: str) -> None:
    """1 ms is a thousand samples a second of CPU time, whatever the kernel's tick.

    Where others have the processor (the hypervisor or, for the ticks, any program) a sample comes late and stands for more.
    Those are excused, and few.
    """
    report = report_of("rate.py", exact_engine, 1000, 2)
    weights_ms = [weight / 1e6 for weight in report["weights"]]
    due = report["cpu_ns"] / 1e6
    excused = sum(weight - 1 for weight in weights_ms if weight > 3)
    assert 0.97 * due - excused < len(weights_ms) < 1.03 * due, f"{len(weights_ms)}, not {due:.0f}; excused {excused:.0f}"
    assert statistics.median(weights_ms) < 1.05
