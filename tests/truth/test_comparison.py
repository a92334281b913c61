"""Comparison of real runs: a program with itself, and with one whose function does twice the work."""

import random

import regressions


def test_real_runs_are_told_apart():
    """Whatever the machine's noise is, it raises no more alarms than it may by chance; a real change is found.

    Each trial draws runs of one pool, taken in turns: so the chance of an alarm is at most 5 %, however the machine behaves.
    Of 100 trials 12 or more would have it once in 500 times.
    """
    alarms, found, _ = regressions.trials(slower=2.0, runs=6, count=100, chance=random.Random(2))
    assert alarms < 12
    assert found >= 80
