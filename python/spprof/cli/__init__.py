"""The `spprof` command. It needs the extra: `pip install 'spprof[cli]'`; everything else in spprof does not."""

from __future__ import annotations

import sys


def main(name: str = "spprof") -> None:
    """The entry point of the command, and the only place that ends the process on an error of ours."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError as error:
        sys.exit(f"{name}: the command line needs {error.name}: pip install 'spprof[cli]'")
    from .commands import spprof

    # Names of functions and files may be what the terminal's encoding cannot say.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    spprof(prog_name=name)


def callflow_tracer() -> None:
    """The same command under its second name."""
    main("callflow-tracer")
