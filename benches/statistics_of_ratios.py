"""Ratios with their spread. Pure functions; the resampling has a fixed seed."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import NamedTuple

RESAMPLES = 2000


class Spread(NamedTuple):
    """Median, quartiles, and the 95 % bootstrap interval of the median."""

    median: float
    quartile_1: float
    quartile_3: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value; the interval is that of the percentile bootstrap."""
    generator = random.Random(20)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(RESAMPLES))
    low, high = medians[round(0.025 * (RESAMPLES - 1))], medians[round(0.975 * (RESAMPLES - 1))]
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return Spread(statistics.median(values), quartiles[0], quartiles[2], low, high)


def ratios(times: Sequence[float], bare: Sequence[float]) -> list[float]:
    """Round by round, so that a machine which is slow for a while is slow on both sides."""
    return [mine / base for mine, base in zip(times, bare)]
