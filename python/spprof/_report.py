"""Call graphs and comparisons as text, aligned for a person or as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from .callgraph import CallGraph

ROWS = 20
TREE_DEPTH = 30


def graph_text(graph: CallGraph, limit: int = ROWS, markdown: bool = False) -> str:
    """The functions of a graph, those with most time of their own first."""
    meta = graph.metadata
    traced = meta["source"] == "trace"
    counted = "calls" if traced else "samples"
    nodes = sorted(graph.nodes.values(), key=lambda node: -(getattr(node, "self_time", None) or 0.0))
    whole = graph.total_time if nodes else 0.0
    text = [f"{len(nodes)} functions, {_seconds(whole)} of {_kind(meta)} in {_seconds(meta['duration'])}"]
    if traced:
        text[0] += f", {sum(node.call_count for node in nodes)} calls"
    if meta["overhead_ns"]:
        text.append(f"tracing took {_seconds(meta['overhead'])}, which is not in these times")
    text += [f"{count} {reason.replace('_', ' ')}" for reason, count in meta["losses"].items() if count]
    headers = ["self", "%", "total", "%", counted, "function", "place"]
    rows = [
        [
            _seconds(node.self_time),
            _share(node.self_time, whole),
            _seconds(node.total_time),
            _share(node.total_time, whole),
            str(node.call_count if traced else node.samples),
            node.full_name,
            f"{node.file}:{node.line}" if node.file else "",
        ]
        for node in nodes[:limit]
    ]
    text += ["", *_table(headers, rows, left=2, markdown=markdown)]
    if len(nodes) > limit:
        text.append(f"({len(nodes) - limit} more functions)")
    return _clean("\n".join(text))


def tree_text(graph: CallGraph, depth: int = TREE_DEPTH, least: float = 0.005) -> str:
    """The calls as an indented tree.

    Args:
        graph: the graph.
        depth: levels shown at most.
        least: branches with less than this part of the whole time are left out, and counted.
    """
    root = graph.call_tree()
    whole = getattr(root, "total_time", None) or 0.0
    traced = "calls" in graph.columns
    lines = []
    left_out = 0
    stack = [(0, child) for child in reversed(root.children)]
    while stack:
        level, node = stack.pop()
        if level >= depth or node.total_time < least * whole:
            left_out += 1
            continue
        counted = f" {node.call_count}x" if traced else ""
        lines.append(
            f"{_seconds(node.total_time):>10} {_share(node.total_time, whole):>5} %  {'  ' * level}{node.name}{counted}"
        )
        stack += [(level + 1, child) for child in reversed(node.children)]
    if left_out:
        lines.append(f"({left_out} branches deeper than {depth} or below {100 * least:g} % left out)")
    return _clean("\n".join(lines))


def comparison_text(comparison: Mapping[str, Any], limit: int = ROWS, markdown: bool = False) -> str:
    """What `compare_graphs()` found."""
    summary = comparison["summary"]
    first, second = comparison["label1"], comparison["label2"]
    sure = {None: "", True: "", False: " (within noise)"}[summary["total_significant"]]
    text = [
        f"{first}: {_seconds(summary['total_time_before'])}, {second}: {_seconds(summary['total_time_after'])}, "
        f"change {_signed(-summary['time_saved_pct'])} %{sure}",
        f"{summary['regressions']} slower, {summary['improvements']} faster, {summary['nodes_added']} added, "
        f"{summary['nodes_removed']} removed, {summary['nodes_modified']} modified",
        f"noise: {summary['noise_note']}; changes below {100 * summary['threshold']:g} % are left alone",
    ]
    headers = [first, second, "change", "%", "calls", "p", "", "function"]
    changed = [row for row in comparison["node_comparisons"] if row["status"] != "unchanged"]
    rows = [
        [
            _seconds(row["time_before"]),
            _seconds(row["time_after"]),
            _signed(row["time_diff"], "s", 3),
            _signed(row["time_diff_pct"]),
            _calls(row),
            f"{row['p_value']:.3f}" if row["p_value"] is not None else "",
            _word(row),
            row["name"],
        ]
        for row in changed[:limit]
    ]
    if rows:
        text += ["", *_table(headers, rows, left=2, markdown=markdown)]
    if len(changed) > limit:
        text.append(f"({len(changed) - limit} more functions)")
    return _clean("\n".join(text))


def _word(row: Mapping[str, Any]) -> str:
    return "SLOWER" if row["regression"] else "faster" if row["improvement"] else str(row["status"])


def _calls(row: Mapping[str, Any]) -> str:
    before, after = row["calls_before"], row["calls_after"]
    if before is None or after is None:
        return ""
    return f"{before:g}" if before == after else f"{before:g} -> {after:g}"


def _kind(meta: Mapping[str, Any]) -> str:
    return "CPU time" if meta["time"] == "cpu_ns" else "elapsed time"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 0.1 or seconds == 0 else f"{1000 * seconds:.3f} ms"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"


def _signed(value: Optional[float], unit: str = "", digits: int = 1) -> str:
    return f"{value:+.{digits}f}{' ' + unit if unit else ''}" if value is not None else ""


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]], left: int, markdown: bool) -> list[str]:
    """Columns, all but the last `left` of them flush right."""
    lines = [list(headers), *map(list, rows)]
    if markdown:
        lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
        rule = ["---:"] * (len(headers) - left) + ["---"] * left
        return [f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:])]
    widths = [max(map(len, column)) for column in zip(*lines)]
    aligned = len(headers) - left
    return [
        "  ".join(
            cell.rjust(width) if i < aligned else cell.ljust(width) for i, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    ]


def _clean(text: str) -> str:
    """Names may hold lone surrogates, which no terminal or file takes."""
    return text.encode("utf-8", "backslashreplace").decode()
