"""Programs that measure the CPU time of their functions themselves: the profile's shares differ by sampling noise only."""

from __future__ import annotations

from typing import Any, Callable

import pytest
from noise import SIGMAS, deviation_of, distance, effective_samples, expected_distance, grouped, shares

# What chance does not explain. A tick's signal takes 10 to 20 us to reach a thread on a virtual machine, and a system call
# that ends meanwhile is where it lands: the programs' own reading of their clocks gets that much too much.
SYSTEMATIC = {"tick": 0.02, "perf": 0.002, "timer": 0.002}


def check(report: dict[str, Any]) -> None:
    truth, found = shares(report["truth"]), shares(report["weights"])
    samples = effective_samples(report)
    off, expected = distance(found, truth), expected_distance(truth, samples)
    systematic = SYSTEMATIC[report["metadata"]["engine"]]
    assert off < 1.5 * expected + systematic, f"off by {off:.3f} where {samples:.0f} samples are off by {expected:.3f}"
    groups, true_groups = grouped(found), grouped(truth)
    for kind, share in true_groups.items():
        if kind != "other":
            allowed = SIGMAS * deviation_of(share, samples) + systematic
            assert abs(groups[kind] - share) < allowed, f"{kind}: {groups[kind]:.4f}, truly {share:.4f}"
    # All of the time, not only its shares: a thread's last samples are missing, no more.
    missing = sum(report["truth"].values()) - sum(report["weights"].values())
    threads = len({key.partition(":")[0] for key in truth})
    assert -0.01 * sum(report["truth"].values()) < missing
    assert missing < 5 * threads * report["metadata"]["interval_ns"] + 0.01 * sum(report["truth"].values())


def test_functions(report_of: Callable[..., Any], engine: str) -> None:
    """Sixty functions of one thread, which take turns of 1 : 2 : 4."""
    check(report_of("shares.py", "functions", engine, 1000, 2))


def test_threads_with_and_without_the_gil(report_of: Callable[..., Any], exact_engine: str) -> None:
    """Pure Python, hashing and checksums without the GIL, reading in the kernel: one thread each, 4 : 3 : 2 : 1."""
    check(report_of("shares.py", "threads", exact_engine, 1000, 2))


@pytest.mark.parametrize("engine", ["perf", "timer"], indirect=True)
def test_kernel_time(report_of: Callable[..., Any], engine: str) -> None:
    """Long system calls and short stretches of Python in turn: neither may claim the other's time."""
    check(report_of("shares.py", "kernel", engine, 1000, 2))


@pytest.mark.parametrize("interval_us, cpu_s", [(1000, 1.5), (10_000, 2.4)])
def test_bursts(report_of: Callable[..., Any], exact_engine: str, interval_us: int, cpu_s: float) -> None:
    """Four threads that work for 2 ms and sleep for 5 ms."""
    check(report_of("shares.py", "bursty", exact_engine, interval_us, cpu_s))
