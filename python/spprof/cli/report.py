"""`spprof report`: the hot functions and lines of a saved profile, as text a person or a program can read."""

from __future__ import annotations

import json
from typing import Any, Optional

import click
from rich.console import Console
from rich.table import Table

from .. import _native

# Wide enough that no path is cut where there is no terminal to fit into.
FILE_WIDTH = 10_000


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--thread", "threads", multiple=True, metavar="NAME|ID", help="Only this thread (may be given again).")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Rows a table.")
@click.option("--lines", is_flag=True, help="Also the hot lines.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, one document.")
def report(file: str, threads: tuple[str, ...], limit: int, lines: bool, as_json: bool) -> None:
    """Show where the time of the profile FILE went."""
    try:
        profile = _native._load(file)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    chosen = _chosen_threads(profile, threads)
    content = {
        "file": file,
        "metadata": profile.metadata(),
        "threads": [thread for thread in profile.threads() if chosen is None or thread["row"] in chosen],
        "functions": profile.functions(chosen)[:limit],
    }
    if lines:
        content["lines"] = profile.lines(chosen)[:limit]
    if as_json:
        click.echo(json.dumps(content, indent=2))
        return
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    _show(console, content, lines)


def _chosen_threads(profile: _native.NativeProfile, wanted: tuple[str, ...]) -> Optional[list[int]]:
    """The rows of the threads asked for by name or id; None for all. (Ids are not unique: some formats do not keep them.)"""
    if not wanted:
        return None
    known = profile.threads()
    rows = [thread["row"] for thread in known if thread["name"] in wanted or str(thread["thread_id"]) in wanted]
    if not rows:
        names = ", ".join(map(_thread, known))
        raise click.ClickException(f"no such thread: {', '.join(wanted)}; there are: {names}")
    return rows


def _show(console: Console, content: dict[str, Any], lines: bool) -> None:
    meta = content["metadata"]
    total_ns = sum(thread["weight_ns"] for thread in content["threads"])
    console.print(
        f"{sum(thread['samples'] for thread in content['threads'])} samples, {_seconds(total_ns)} of "
        f"{'CPU' if meta['clock'] == 'cpu' else 'elapsed'} time in {_seconds(meta['duration_ns'])}"
    )
    if meta["engine"]:
        console.print(f"engine {meta['engine']}: {meta['engine_reason']}")
    if meta["unattributed_ns"]:
        console.print(f"unattributed: {_seconds(meta['unattributed_ns'])} of CPU time that no sample could claim")
    losses = ", ".join(_loss(reason, count) for reason, count in meta["losses"].items() if count)
    if losses:
        console.print(f"losses and troubles: {losses}")
    if meta["incomplete"]:
        console.print("incomplete: the run was killed; this is what had been written by then")

    _table(
        console,
        total_ns,
        "Threads",
        [(thread["weight_ns"], None, _thread(thread), "") for thread in content["threads"]],
    )
    _table(console, total_ns, "Functions", [_row(row, "first_line") for row in content["functions"]])
    if lines:
        _table(console, total_ns, "Lines", [_row(row, "line") for row in content["lines"]])


def _row(row: dict[str, Any], line: str) -> tuple[int, Optional[int], str, str]:
    place = f"{row['file']}:{row[line]}" if row["file"] and row[line] else row["file"]
    return row["self_ns"], row["total_ns"], _printable(row["name"]), _printable(place)


def _printable(name: str) -> str:
    """Names may hold lone surrogates, which no terminal takes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _table(console: Console, whole_ns: int, title: str, rows: list[tuple[int, Optional[int], str, str]]) -> None:
    """Aligned columns: self time and share, total time and share, name, place. Threads have no total of their own."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold" if console.is_terminal else None)
    with_total = any(total_ns is not None for _, total_ns, _, _ in rows)
    table.add_column("self" if with_total else "time", justify="right", no_wrap=True)
    table.add_column("%", justify="right", no_wrap=True)
    if with_total:
        table.add_column("total", justify="right", no_wrap=True)
        table.add_column("%", justify="right", no_wrap=True)
    table.add_column(title.lower().rstrip("s"), overflow="fold")
    table.add_column("place" if with_total else "", overflow="fold")
    for self_ns, total_ns, name, place in rows:
        totals = [] if total_ns is None else [_seconds(total_ns), _percent(total_ns, whole_ns)]
        table.add_row(_seconds(self_ns), _percent(self_ns, whole_ns), *totals, name, place)
    console.print(f"\n{title}")
    console.print(table)


def _thread(thread: dict[str, Any]) -> str:
    """Name and id; some formats do not keep the id."""
    name = _printable(thread["name"] or "?")
    return f"{name} ({thread['thread_id']})" if thread["thread_id"] else name


def _loss(reason: str, count: int) -> str:
    if reason.endswith("_ns"):
        return f"{_seconds(count)} {reason[:-3]}"
    return f"{count} {reason}"


def _seconds(time_ns: int) -> str:
    return f"{time_ns / 1e9:.3f} s"


def _percent(part_ns: int, whole_ns: int) -> str:
    return f"{100 * part_ns / whole_ns:.1f}" if whole_ns else "-"
