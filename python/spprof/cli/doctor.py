"""`spprof doctor`: what this machine and this interpreter allow."""

from __future__ import annotations

import click

from .. import _native
from .table import new_console, new_table, show


@click.command()
def doctor() -> None:
    """Say what this machine allows.

    The engines that can be used here and why, the kernel's tick, the rights to perf events, the versions.
    """
    table = new_table(header=False)
    for topic, finding in _native._doctor():
        table.add_row(topic, finding)
    show(new_console(), table)
