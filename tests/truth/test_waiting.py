"""Threads that wait: seen by the wall clock where they wait, and never disturbed by being looked at."""

from __future__ import annotations

from typing import Any, Callable

import pytest


@pytest.fixture(scope="module")
def _once() -> dict[str, Any]:
    return {}


@pytest.fixture
def wall(report_of: Callable[..., Any], _once: dict[str, Any]) -> Any:
    """One run serves all questions."""
    if not _once:
        _once.update(report_of("waiting.py", "wait", "wall", "auto", 1000, 2.5))
    return _once


def test_wall_weights_are_lifetimes(wall: Any) -> None:
    """Of threads that sleep, that wait for the GIL, and that run."""
    for name, life in wall["lives"].items():
        total = sum(wall["weights"][name].values())
        assert total == pytest.approx(life["ns"], rel=0.02, abs=20_000_000), name


def test_sleepers_appear_where_they_sleep(wall: Any) -> None:
    for name, function in (("parked", "parked"), ("parked in Python", "parked_in_python")):
        weights = wall["weights"][name]
        assert weights[function] > 0.98 * sum(weights.values())
        assert wall["samples"][name] > 100
    said = wall["lives"]["naps"]["said"]
    share = said["short_naps"] / sum(said.values())
    weights = wall["weights"]["naps"]
    found = weights["short_naps"] / (weights["short_naps"] + weights["long_naps"])
    assert found == pytest.approx(share, abs=0.03)
    assert weights["short_naps"] + weights["long_naps"] > 0.95 * sum(weights.values())


def test_sleepers_are_not_signalled(wall: Any) -> None:
    """A signal would end the poll, which is not taken up again."""
    assert wall["lives"]["parked"]["ns"] > 2.5e9
    # A lock is waited for again after a signal, which would be another sleep. Some are for the GIL, at the end.
    for name in ("parked", "parked in Python"):
        assert wall["lives"][name]["sleeps"] < 0.05 * wall["samples"][name]


def test_threads_that_wait_for_the_gil(wall: Any) -> None:
    """They are where they want to go on."""
    for name in ("computing 1", "computing 2"):
        weights = wall["weights"][name]
        assert weights["computing"] > 0.95 * sum(weights.values())


@pytest.mark.parametrize("clock", ["cpu", "wall"])
def test_few_system_calls_are_interrupted(report_of: Callable[..., Any], exact_engine: str, clock: str) -> None:
    """Threads that work for 0.6 ms and poll for 5 ms, at 1 ms: an engine that signals sleepers interrupts nearly all polls."""
    if clock == "wall" and exact_engine == "perf":
        pytest.skip("the wall clock needs ticks")
    polls = report_of("waiting.py", "poll", clock, exact_engine, 1000, 2)["polls"]
    assert polls["all"] > 100
    assert polls["interrupted"] <= 0.05 * polls["all"]
