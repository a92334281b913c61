"""`spprof report`: the hot functions and lines of a saved profile, as text a person or a program can read."""

from __future__ import annotations

import json
import os
import re
from typing import Any, NamedTuple, Optional

import click
from rich.console import Console

from .. import _native
from .._report import graph_text, tree_text
from ..callgraph import CallGraph
from .heap_report import is_heap, show_heap
from .table import new_console, new_table, show

# A part of the time that calls for a word on how to get at it.
MUCH = 0.1

# What the loss counters of a profile say. All of them are in the file and in --json; one that is not here is shown by its name.
LOSSES = {
    "dropped": "samples dropped",
    "ring_full": "samples dropped: the buffer of their thread was full",
    "broken_stack": "samples whose stack could not be followed (<unresolved>)",
    "truncated_stack": "samples of stacks too deep to keep whole (<truncated>)",
    "truncated_frames": "frames left out of the middle of deep stacks",
    "restarted_walk": "samples taken in the middle of a call, shown at the caller",
    "rested_signal": "signals not answered, so that deep stacks leave the program time for its own work",
    "stale_signal": "signals of threads that had ended",
    "foreign_signal": "profiling signals that were not spprof's, and nobody's",
    "thread_not_armed": "threads that could not be sampled",
    "signal_blocked_threads": "threads that block the profiling signal, sampled from outside",
    "remote_walk_discarded": "looks at a waiting thread that ran meanwhile",
    "code_objects_not_kept": "code objects freed before their samples were named",
    "unresolved_not_code": "frames without a code object",
    "unresolved_unreadable": "frames whose code object could not be read",
    "unresolved_name": "frames whose name could not be read",
    "unresolved_line_table": "frames whose line could not be told",
    "native_ends_in_unknown_code": "native stacks that end at code without unwind information (<native callers unknown>)",
    "native_ends_in_bad_stack": "native stacks that end at memory which is no stack (<native callers unknown>)",
    "native_ends_too_deep": "native stacks that end where they got too deep (<native callers unknown>)",
    "native_frames_omitted": "native frames left out of the middle of deep stacks",
    "native_not_tried": "samples without native frames",
    "native_addresses_without_symbol": "native addresses without a symbol (module+0xoffset)",
    "filtered_samples": "samples left out by a filter",
    "filtered_ns": "ns of samples left out by a filter",
}


class Row(NamedTuple):
    """A row of a table, in nanoseconds or samples; threads have no total of their own."""

    own: int
    total: Optional[int]
    name: str
    place: str


@click.command(epilog="Example: spprof report --lines -n 10 profile.spprof")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--thread", "threads", multiple=True, metavar="NAME|ID", help="Only this thread (may be given again).")
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), metavar="ROWS", default=20, show_default=True, help="Most rows of a table."
)
@click.option("--lines", is_flag=True, help="Also the hot lines.")
@click.option("--no-native", is_flag=True, help="Time of native frames at the Python code that called them.")
@click.option("--native-only", is_flag=True, help="Only native frames, of the samples that have any.")
@click.option("--tree", is_flag=True, help="The calls as a tree, instead.")
@click.option("--markdown", is_flag=True, help="The functions as a Markdown table, instead.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document, times in nanoseconds, paths in full.")
def report(
    file: str,
    threads: tuple[str, ...],
    limit: int,
    lines: bool,
    no_native: bool,
    native_only: bool,
    tree: bool,
    markdown: bool,
    as_json: bool,
) -> None:
    """Show where the time of a profile went: threads, functions, lines.

    FILE is a profile in spprof's own format, or speedscope, pprof or collapsed stacks, or a trace. `self` is time in the
    function itself (and in C code it called, unless the profile has native frames: those are marked `[native]`), `total`
    also in the functions it called; a function that calls itself counts once.
    """
    if no_native and native_only:
        raise click.UsageError("--no-native and --native-only exclude each other")
    try:
        profile = _native._load(file)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    if no_native or native_only:
        profile = profile.by_native(native_only)
    columns = CallGraph(profile).columns
    # A call graph from a file has no samples in time: only functions can be told.
    traced = "calls" in columns or ("samples" in columns and not len(profile))
    if tree or markdown or (traced and not as_json):
        click.echo(_of_graph(profile, limit, tree, markdown))
        return
    if traced:
        click.echo(json.dumps(CallGraph(profile).to_dict(), indent=2))
        return
    chosen = _chosen_threads(profile, threads)
    if is_heap(profile) and not as_json:
        show_heap(profile, chosen, limit)
        return
    functions = profile.functions(chosen)
    content: dict[str, Any] = {
        "file": file,
        # After the functions: native ones may have got their names only now, and what has none is among the losses.
        "metadata": profile.metadata(),
        "threads": [thread for thread in profile.threads() if chosen is None or thread["row"] in chosen],
        "functions": functions,
    }
    if lines:
        content["lines"] = profile.lines(chosen)
    if as_json:
        content.update({table: content[table][:limit] for table in ("functions", "lines") if table in content})
        click.echo(json.dumps(content, indent=2))
        return
    _show(new_console(), content, limit)


def _of_graph(profile: _native.NativeProfile, limit: int, tree: bool, markdown: bool) -> str:
    graph = CallGraph(profile)
    return tree_text(graph) if tree else graph_text(graph, limit, markdown)


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


def _show(console: Console, content: dict[str, Any], limit: int) -> None:
    meta = content["metadata"]
    samples = sum(thread["samples"] for thread in content["threads"])
    total_ns = sum(thread["weight_ns"] for thread in content["threads"])
    # Collapsed stacks have counts and no times.
    timed = total_ns > 0 or samples == 0
    if timed:
        kind = "CPU time" if meta["clock"] == "cpu" else "the threads' elapsed time"
        click.echo(f"{samples} samples, {_seconds(total_ns)} of {kind} in {_seconds(meta['duration_ns'])}")
    else:
        click.echo(f"{samples} samples; the file does not say how much time they stand for")
    if meta["engine"]:
        click.echo(f"engine {meta['engine']}: {meta['engine_reason']}")
    if meta["unattributed_ns"]:
        click.echo(_unattributed(meta))
    for reason, count in meta["losses"].items():
        if count:
            click.echo(f"{count} {LOSSES.get(reason, reason)}")
    if meta["incomplete"]:
        click.echo("incomplete: the run was killed; this is what had been written by then")

    def table(title: str, rows: list[Row]) -> None:
        click.echo(f"\n{title}")
        _table(console, total_ns if timed else samples, timed, title, rows, limit)

    weight = "weight_ns" if timed else "samples"
    table("Threads", [Row(thread[weight], None, _thread(thread), "") for thread in content["threads"]])
    for title, line in (("Functions", "first_line"), ("Lines", "line")):
        if title.lower() in content:
            rows = [_row(row, line, timed, console.is_terminal) for row in content[title.lower()]]
            table(title, sorted(rows, key=lambda row: -row.own))


def _unattributed(meta: dict[str, Any]) -> str:
    """How much time is in no sample, and, when it is much, what to do about it."""
    if meta["clock"] != "cpu":
        return f"unattributed: {_seconds(meta['unattributed_ns'])} of the threads' elapsed time, that of dropped samples"
    whole_ns = meta["weight_ns"] + meta["unattributed_ns"]
    text = (
        f"unattributed: {_seconds(meta['unattributed_ns'])} ({_percent(meta['unattributed_ns'], whole_ns)} %) of CPU time "
        "that no sample could claim"
    )
    if meta["profiler_cpu_ns"]:
        text += f", {_seconds(meta['profiler_cpu_ns'])} of it spprof's own"
    if meta["unattributed_ns"] - meta["profiler_cpu_ns"] > MUCH * whole_ns:
        interval = f"{meta['interval_ns'] / 1e6:g} ms"
        text += f"; threads which end within an interval ({interval}) leave none, and a shorter interval shows more of them"
    return text


def _row(row: dict[str, Any], line: str, timed: bool, shorten: bool) -> Row:
    file = _short(row["file"]) if shorten else row["file"]
    place = f"{file}:{row[line]}" if file and row[line] else file
    native = row["kind"] == "native"
    if not place and native:
        place = "(outside Python code)"
    # (`<native>` and the like say it themselves.)
    mark = "[native] " if native and not row["name"].startswith("<") else ""
    unit = "ns" if timed else "samples"
    return Row(row[f"self_{unit}"], row[f"total_{unit}"], _printable(mark + row["name"]), _printable(place))


def _short(file: str) -> str:
    """A path as one reads it: from the current folder, from site-packages, or from the standard library's parent."""
    here = os.getcwd() + os.sep
    if file.startswith(here):
        return file[len(here) :]
    return re.sub(r"^/.*/(?:(?:site|dist)-packages/|(?=python3\.\d+t?/))", "", file)


def _printable(name: str) -> str:
    """Names may hold lone surrogates, which no terminal takes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _table(console: Console, whole: int, timed: bool, title: str, rows: list[Row], limit: int) -> None:
    """Aligned columns: self and its share, total and its share, name, place; and what the rows left out add up to."""
    table = new_table()
    with_total = any(row.total is not None for row in rows)
    headers = ["self", "%", "total", "%"] if with_total else ["time" if timed else "samples", "%"]
    for header in headers:
        table.add_column(header, justify="right")
    table.add_column(title.lower().rstrip("s"))
    if with_total:
        table.add_column("place")

    def amount(value: Optional[int]) -> list[str]:
        if value is None:
            return ["", ""] if with_total else []
        return [_seconds(value) if timed else str(value), _percent(value, whole)]

    for row in rows[:limit]:
        table.add_row(*amount(row.own), *amount(row.total), row.name, *([row.place] if with_total else []))
    rest = rows[limit:]
    if rest:
        table.add_row(*amount(sum(row.own for row in rest)), *amount(None), f"({len(rest)} more {title.lower()})")
    show(console, table)


def _thread(thread: dict[str, Any]) -> str:
    """Name and id; some formats do not keep the id."""
    name = _printable(thread["name"] or "?")
    return f"{name} ({thread['thread_id']})" if thread["thread_id"] else name


def _seconds(time_ns: int) -> str:
    return f"{time_ns / 1e9:.3f} s"


def _percent(part_ns: int, whole_ns: int) -> str:
    return f"{100 * part_ns / whole_ns:.1f}" if whole_ns else "-"
