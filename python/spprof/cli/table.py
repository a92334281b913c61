"""Tables as text: aligned for a person, one row a line for `grep` and for programs."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

# No cell is cut or folded: a terminal wraps long lines by itself, and a file has no width.
WIDTH = 10_000


def new_console() -> Console:
    """Where tables are laid out; its `is_terminal` tells whether a person is looking."""
    return Console(highlight=False, markup=False, width=WIDTH)


def new_table(header: bool = True) -> Table:
    return Table(box=None, show_header=header, pad_edge=False, padding=(0, 2, 0, 0))


def show(console: Console, table: Table) -> None:
    """Prints it, without the blanks that fill the last column."""
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
