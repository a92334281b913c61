"""How far a sampled profile may be from the truth by chance alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# Deviations of one share, in standard deviations: chance exceeds it once in 10^6 such comparisons.
SIGMAS = 5.0


def shares(amounts: Mapping[str, float]) -> dict[str, float]:
    total = sum(amounts.values())
    return {key: amount / total for key, amount in amounts.items()}


def distance(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Total-variation distance of two sets of shares."""
    return sum(abs(one.get(key, 0.0) - other.get(key, 0.0)) for key in {*one, *other}) / 2


def expected_distance(truth: Mapping[str, float], samples: float) -> float:
    """The mean distance from `truth` of as many independent samples.

    With some dozens of shares it is a sum of many terms, so that 1.5 times this is five standard deviations away.
    """
    return sum(math.sqrt(2 * share * (1 - share) / (math.pi * samples)) for share in truth.values()) / 2


def effective_samples(report: Mapping[str, Any]) -> float:
    """Samples of equal weight that would be as exact as these."""
    return sum(report["weights"].values()) ** 2 / report["squares"]


def deviation_of(share: float, samples: float) -> float:
    """The standard deviation of one share among that many independent samples."""
    return math.sqrt(share * (1 - share) / samples)


def grouped(amounts: Mapping[str, float]) -> dict[str, float]:
    """The functions of a kind ("hash_07") together, whatever the thread."""
    groups: dict[str, float] = {}
    for key, amount in amounts.items():
        kind = key.partition(":")[2].partition("_")[0]
        groups[kind] = groups.get(kind, 0.0) + amount
    return groups
