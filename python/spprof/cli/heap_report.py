"""`spprof report` of a heap profile: which lines and functions hold the memory."""

from __future__ import annotations

from typing import Any, Optional

import click
from rich.console import Console

from .. import _native
from .table import new_console, new_table, show

# What the loss counters of a heap profile say.
LOSSES = {
    "table_full": "samples dropped: the table of live samples was full",
    "table_full_bytes": "bytes that the dropped samples stood for",
    "stack_table_full": "samples without a stack of their own: the stack table was full (<stack table full>)",
    "broken_stack": "samples whose stack could not be followed (<unresolved>)",
    "truncated": "samples of stacks too deep to keep whole (<truncated>)",
    "unseen_frees": "blocks that were freed where no hook saw it",
    "not_put_back": "samples lost at a realloc that failed",
    "slowed_down": "times that the sampling rate was made coarser, to bound the samples per second",
    "names_full": "names refused by the memory limit",
}


def is_heap(profile: _native.NativeProfile) -> bool:
    return bool(profile.metadata()["clock"] == "heap")


def show_heap(profile: _native.NativeProfile, threads: Optional[list[int]], limit: int) -> None:
    """Prints totals, losses, and the lines and functions that hold most."""
    meta = profile.metadata()
    chosen = [thread for thread in profile.threads() if threads is None or thread["row"] in threads]
    samples, alive = (sum(thread[key] for thread in chosen) for key in ("samples", "weight_ns"))
    click.echo(f"{amount(alive)} alive, by {samples} samples of about every {amount(meta['interval_ns'])} allocated")
    for reason, count in meta["losses"].items():
        if count:
            click.echo(f"{count} {LOSSES.get(reason, reason)}")
    for note in meta["notes"]:
        click.echo(note)
    console = new_console()
    table(console, "Lines", profile.lines(threads), "line", alive, limit)
    table(console, "Functions", profile.functions(threads), "first_line", alive, limit)


def table(console: Console, title: str, rows: list[dict[str, Any]], line: str, alive: int, limit: int) -> None:
    """`self` is what a line allocated itself, `total` also what it called."""
    click.echo(f"\n{title}")
    out = new_table()
    for name in ("self", "%", "total", "%"):
        out.add_column(name, justify="right")
    out.add_column("function")
    out.add_column("place")
    rows = sorted(rows, key=lambda row: (-row["self_ns"], -row["total_ns"]))
    for row in rows[:limit]:
        place = f"{row['file']}:{row[line]}" if row["file"] and row[line] else row["file"]
        mark = "[native] " if row["kind"] == "native" and not row["name"].startswith("<") else ""
        own, total = row["self_ns"], row["total_ns"]
        figures = [amount(own), f"{100 * own / max(alive, 1):.1f}", amount(total), f"{100 * total / max(alive, 1):.1f}"]
        out.add_row(*figures, mark + row["name"], place)
    show(console, out)
    if len(rows) > limit:
        click.echo(f"({len(rows) - limit} more)")


def amount(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"
