"""The statistics behind the benchmark tables."""

import random

import pytest
import statistics_of_ratios as ratios


def test_rounds_are_paired():
    """A slow round on both sides leaves the ratio as it was."""
    assert ratios.ratios([1.1, 11.0], [1.0, 10.0]) == pytest.approx([1.1, 1.1])


def test_the_interval_covers_the_truth():
    """The 95 % interval holds the true median about 95 times in 100 (here: 200 experiments of 15 rounds)."""
    generator = random.Random(7)
    experiments = [ratios.spread([generator.gauss(1.02, 0.03) for _ in range(15)]) for _ in range(200)]
    covering = sum(row.low <= 1.02 <= row.high for row in experiments)
    # binomial(200, 0.95) has a standard deviation of 3.1; the percentile bootstrap of a median is a little off by itself
    assert 178 <= covering <= 199


def test_a_single_round_has_no_spread():
    """One value is its own median and interval."""
    assert set(ratios.spread([1.5])) == {1.5}
