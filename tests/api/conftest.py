"""Profiles put together by hand, and work that lasts until it has been seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Callable

import pytest
import spprof
from spprof import Frame, Profile, Sample

# CPU time after which a busy thread that was not sampled never will be.
PATIENCE_NS = 20_000_000_000


@pytest.fixture(autouse=True)
def no_run_left_behind() -> Iterator[None]:
    """Every test starts without a run, and leaves none."""
    assert not spprof.is_active()
    yield
    if spprof.is_active():
        spprof.stop()
        pytest.fail("the test left a run behind")


@pytest.fixture
def work() -> Callable[..., None]:
    return be_sampled


def be_sampled(samples: int = 5) -> None:
    """Keep this thread busy until the run has that many samples more."""
    stats = spprof.stats()
    assert stats is not None
    goal = stats.collected_samples + samples
    end_ns = time.process_time_ns() + PATIENCE_NS
    while stats is not None and stats.collected_samples < goal:
        assert time.process_time_ns() < end_ns, f"never sampled: {stats}"
        for i in range(2000):
            i * i
        stats = spprof.stats()


MAIN = Frame("<module>", "/app/main.py", 40)
WORK = Frame("work", "/app/main.py", 12)
SORT = Frame("sort", "/app/lib.py", 7)
ZLIB = Frame("deflate", "", 0, True)


def sample(timestamp_ns: int, *frames: Frame, thread_id: int = 100, thread_name: Any = "MainThread", **more: Any) -> Sample:
    return Sample(timestamp_ns, thread_id, thread_name, frames, **more)


@pytest.fixture
def by_hand() -> Profile:
    """Four samples of two threads, 10 ms each."""
    start = datetime(2024, 5, 17, 12, 30, 0, 250_000)
    return Profile(
        start_time=start,
        end_time=start + timedelta(seconds=2),
        interval_ms=10,
        samples=[
            sample(1_000, SORT, WORK, MAIN),
            sample(11_000, SORT, WORK, MAIN),
            sample(15_000, ZLIB, WORK, MAIN, thread_id=200, thread_name=None),
            sample(21_000, WORK, MAIN),
        ],
        dropped_count=3,
        python_version="3.12.1",
        platform="Linux-6.1.0-x86_64",
    )
