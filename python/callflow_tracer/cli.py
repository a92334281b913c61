"""`callflow_tracer.cli`: the `spprof` command under its second name."""

from spprof.cli import callflow_tracer as main

__all__ = ["main"]
