"""The line that was executing, for the leaf and for its callers."""

from __future__ import annotations

from typing import Any, Callable

from noise import distance, effective_samples, expected_distance, shares


def test_lines(report_of: Callable[..., Any], exact_engine: str) -> None:
    """Of the standard library no line that its function does not have; of lines with known shares, those shares."""
    report = report_of("lines.py", exact_engine, 2.4)
    assert report["illegal"] == []
    assert report["checked"] > 100 and report["files"] > 5
    truth, found = shares(report["truth"]), shares(report["weights"])
    samples = effective_samples(report)
    off, expected = distance(found, truth), expected_distance(truth, samples)
    assert off < 1.5 * expected, f"off by {off:.3f} where {samples:.0f} samples are off by {expected:.3f}"
