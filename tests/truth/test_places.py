"""Where code may run besides a plain call: at the end of very many, in another interpreter, outside of Python."""

from __future__ import annotations

from typing import Any, Callable

import pytest


@pytest.mark.parametrize("interval_us", [100, 10_000])
def test_recursion_to_100_000_frames(report_of: Callable[..., Any], exact_engine: str, interval_us: int) -> None:
    """Both ends are kept, the middle is said to be missing, and the program goes on even if a walk takes an interval."""
    report = report_of("deep.py", exact_engine, interval_us, 100_000)
    shapes, losses = report["shapes"], report["metadata"]["losses"]
    assert shapes["whole"] >= 5
    assert "not whole" not in shapes and "others" not in shapes, shapes
    assert losses["truncated_stack"] >= shapes["whole"]
    assert losses["truncated_frames"] > 99_000 * shapes["whole"]
    assert report["found"]["turns"] > 10, "the program hardly got on"
    spent = report["found"]["cpu_ns"]
    # What follows the last sample is missing: some intervals, or the rest that a walk of milliseconds earns the thread.
    missing = 3e6 * interval_us / 1000 + 0.02 * spent + 20e6
    assert spent - missing < report["weight_ns"] < 1.01 * spent + 1e6


def test_sub_interpreter(report_of: Callable[..., Any], exact_engine: str) -> None:
    report = report_of("elsewhere.py", "sub-interpreter", exact_engine)
    assert report["weights"]["in_sub_interpreter"] > 270_000_000


def test_native_thread(report_of: Callable[..., Any], exact_engine: str) -> None:
    """A thread without a Python frame has its time, too."""
    report = report_of("elsewhere.py", "native", exact_engine)
    native_ns = report["others_ns"] - report["python_ns"] - report["metadata"]["profiler_cpu_ns"]
    assert 0.9 * native_ns - 10_000_000 < report["weights"]["<native>"] < 1.1 * native_ns
