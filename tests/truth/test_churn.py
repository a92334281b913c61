"""Code that dies by the thousand a second, sampled as fast as it goes: no stack that the program cannot have."""

from __future__ import annotations

import os
from typing import Any, Callable

import pytest

# A million, with as much time as they take: SPPROF_TRUTH_SAMPLES=1000000 (run_program takes no SPPROF* variable to programs).
SAMPLES = int(os.environ.get("SPPROF_TRUTH_SAMPLES", "0"))


@pytest.mark.parametrize("interval_us", [100, 500])
def test_no_impossible_stack(report_of: Callable[..., Any], exact_engine: str, interval_us: int) -> None:
    """Every function's name says which one alone may have called it, and from which line."""
    if exact_engine == "tick" and interval_us == 100:
        pytest.skip("the ticks' own thread would take most of a processor")
    cpu_s = SAMPLES * interval_us // 500_000 or 3
    report = report_of("churn.py", exact_engine, interval_us, SAMPLES or 50_000, cpu_s, timeout=60 + 20 * cpu_s)
    losses = report["metadata"]["losses"]
    assert losses["code_objects_not_kept"] == 0
    assert report["illegal"] == [], losses
    kinds, samples = report["kinds"], report["samples"]
    assert samples > 1000, "too few to say anything"
    # Without a GIL compiling takes most of the time: one sample in a hundred.
    assert kinds["fresh"] > 0.003 * samples, "not much of what dies was seen"
    for kind in ("generator", "recursion", "sort_key", "inner_coroutine"):
        assert kinds[kind] > 0
    # What could not be followed says so, and is rare. Nothing of what was followed lacks its name.
    assert kinds.get("<unresolved>", 0) < 0.001 * samples + 5
    assert {name: count for name, count in losses.items() if name.startswith("unresolved") and count} == {}
