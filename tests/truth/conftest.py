"""Profiles of programs that know the truth about themselves. Each runs in a process of its own and reports in JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
import spprof

PROGRAMS = Path(__file__).parent / "programs"


def perf_is_allowed() -> bool:
    try:
        spprof.start(engine="perf")
    except PermissionError:
        return False
    spprof.stop()
    return True


@pytest.fixture(params=["perf", "tick", "timer"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "perf" and not perf_is_allowed():
        pytest.skip("perf events with kernel time are not allowed here")
    return request.param


@pytest.fixture(params=["perf", "tick"])
def exact_engine(request: pytest.FixtureRequest) -> str:
    """The engines that keep to any interval; the timer goes no faster than the kernel's tick."""
    if request.param == "perf" and not perf_is_allowed():
        pytest.skip("perf events with kernel time are not allowed here")
    return request.param


@pytest.fixture
def report_of(run_program: Any) -> Callable[..., Any]:
    """`report_of("shares.py", ...)` runs that program of ours and gives its report."""

    def run(name: str, *arguments: object, **options: Any) -> Any:
        return run_program(PROGRAMS / name, *arguments, **options).json

    return run
