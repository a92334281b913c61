"""`spprof doctor`: what this machine and this interpreter allow."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from .. import _native
from .report import FILE_WIDTH


@click.command()
def doctor() -> None:
    """Say what this machine allows: engines, the kernel's tick, perf rights, versions."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for topic, finding in _native._doctor():
        table.add_row(topic, finding)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    console.print(table)
