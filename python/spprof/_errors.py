"""Errors of spprof that have no standard exception of their own."""

from __future__ import annotations


class LoadError(ValueError):
    """A profile file cannot be read: it is foreign, truncated or damaged.

    The message names the file, the byte offset and what was expected there.
    """


class MissingColumnError(AttributeError, LookupError):
    """A profile was asked for what it does not hold, as the calls of a sampled profile. Never answered with a zero."""
