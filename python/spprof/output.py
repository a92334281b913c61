"""Profiles as Python objects in the exchange formats; for files, `Profile.save()` streams without making any."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from . import _native

if TYPE_CHECKING:
    from ._profile import AggregatedProfile, Profile


def to_speedscope(profile: Profile) -> dict[str, Any]:
    """A profile in speedscope's file format: one sampled profile a thread, stacks root first."""
    return _parsed(profile._to_native().to_bytes("speedscope"))


def to_collapsed(profile: Profile, mark_native: bool = True) -> str:
    """A profile as collapsed stacks, sorted lines `root;...;leaf count`, threads merged.

    Args:
        profile: the profile.
        mark_native: put `[native] ` before the names of C and C++ frames.
    """
    return _text(profile._to_native().to_bytes("collapsed", mark_native=mark_native))


def aggregated_to_speedscope(profile: AggregatedProfile) -> dict[str, Any]:
    """An aggregated profile in speedscope's file format: one sample a stack, weights summed."""
    return _parsed(profile._to_native().to_bytes("aggregated-speedscope"))


def aggregated_to_collapsed(profile: AggregatedProfile, mark_native: bool = True) -> str:
    """An aggregated profile as collapsed stacks; as `to_collapsed()`."""
    return _text(profile._to_native().to_bytes("collapsed", mark_native=mark_native))


def _parsed(data: bytes) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(data)
    return parsed


def _text(data: bytes) -> str:
    # Names may hold lone surrogates.
    return data.decode("utf-8", "surrogatepass")


def _get_version() -> str:
    return _native.__version__
