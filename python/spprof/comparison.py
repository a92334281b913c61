"""What became slower between two versions of a program, and whether that is more than noise.

    comparison = compare_graphs(before, after)
    print(generate_comparison_report(comparison))

Each side is a call graph, a profile, a dictionary of `to_dict()`, a file, or, better, a list of these: repeated runs. A
function is a regression when it takes longer by more than the threshold *and* by more than noise explains. How noise is known:

- From repeated runs, at least four a side: a permutation test of all functions together (`src/analysis/permutation.rs`), which
  holds for any distribution of the noise. Of comparisons of a program with itself at most 5 in 100 show any difference.
- From one sampled profile a side: the counts of samples, whose scatter is known, corrected for the number of functions.
- From one trace a side it is not known. Then `significant` is None, and the threshold is wider.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from . import _native
from .callgraph import CallGraph, CallNode, as_graph

#: The chance of an alarm when nothing differs.
ALPHA = 0.05
#: Changes below this part are no regression, where noise is known and where it is not.
THRESHOLD = 0.05
BLIND_THRESHOLD = 0.25
#: Nor are changes below this many seconds, where noise is not known.
BLIND_SECONDS = 0.001
#: Functions with less than this part of the whole time are compared, but not tested: the clock decides about them.
LEAST_SHARE = 0.001
#: With fewer runs a side no arrangement of them is unlikely enough.
LEAST_RUNS = 4
TOP = 10


def compare_graphs(
    graph1: Any = None,
    graph2: Any = None,
    label1: str = "Before",
    label2: str = "After",
    *,
    threshold: Optional[float] = None,
    before: Any = None,
    after: Any = None,
) -> dict[str, Any]:
    """Compare two call graphs, or two lists of repeated runs.

    Args:
        graph1: before: a `CallGraph`, a profile, a dictionary of `to_dict()`, a path, or a list of these: several runs.
        graph2: after, likewise.
        label1: what to call `graph1` in reports.
        label2: what to call `graph2`.
        threshold: the relative change from which on a function counts as changed; None: 0.05, or 0.25 when each side
            is a single trace, whose noise is not known.
        before: another name of `graph1`.
        after: another name of `graph2`.

    Returns:
        `summary`: times in seconds (medians of the runs), `time_saved`, `time_saved_pct` (of before), the numbers of
        `improvements`, `regressions`, `nodes_added`, `nodes_removed`, `nodes_modified`, the `threshold`, the numbers of
        runs and how `noise` was told. `node_comparisons`: one dictionary a function, largest change of its own first: `name`,
        `status` (`added`, `removed`, `modified`, `unchanged`), `time_before`, `time_after`, `time_diff` (after - before),
        `time_diff_pct`, the same of `self_`, `calls_`, and `significant` (None: not known), `p_value`, `improvement`,
        `regression`. `top_improvements` and `top_regressions`: the largest of these, with `time_diff` the seconds saved or
        lost. What a side does not know, as the calls of samples, is None.

    Raises:
        TypeError: an argument is no graph and holds none, or is missing.
        LoadError: a file or dictionary is something else.
        ValueError: one side holds CPU time and the other elapsed time, or `threshold` is negative.
    """
    sides = [_runs(graph1 if graph1 is not None else before), _runs(graph2 if graph2 is not None else after)]
    if threshold is not None and not threshold >= 0:
        raise ValueError(f"threshold must not be negative: {threshold}")
    clocks = {run.clock for runs in sides for run in runs if run.clock}
    if len(clocks) > 1:
        raise ValueError(f"these times are of different kinds and cannot be compared: {', '.join(sorted(clocks))}")
    noise = _Noise(sides)
    threshold = threshold if threshold is not None else BLIND_THRESHOLD if noise.kind == "unknown" else THRESHOLD
    rows = [_compared(name, sides) for name in dict.fromkeys(name for runs in sides for run in runs for name in run.nodes)]
    total = _row("total", *[[run.total for run in runs] for runs in sides])
    noise.judge([row for row in rows if row["status"] == "both"], total)
    for row in (*rows, total):
        _classify(row, threshold, noise)
    # The culprit before its callers, whose times grow with its own.
    rows.sort(key=lambda row: (-abs(row["self_diff"] or 0.0), -abs(row["time_diff"])))
    improvements = [row for row in rows if row["improvement"]]
    regressions = [row for row in rows if row["regression"]]
    first, second = total["time_before"], total["time_after"]
    return {
        "label1": label1,
        "label2": label2,
        "summary": {
            "total_time_before": first,
            "total_time_after": second,
            "time_saved": first - second,
            "time_saved_pct": _percent(first - second, first) or 0.0,
            "improvements": len(improvements),
            "regressions": len(regressions),
            "nodes_added": sum(row["status"] == "added" for row in rows),
            "nodes_removed": sum(row["status"] == "removed" for row in rows),
            "nodes_modified": sum(row["status"] == "modified" for row in rows),
            "total_significant": total["significant"],
            "total_regression": total["regression"],
            "threshold": threshold,
            "runs_before": len(sides[0]),
            "runs_after": len(sides[1]),
            "noise": noise.kind,
            "noise_note": noise.note,
        },
        "node_comparisons": rows,
        "top_improvements": [{**row, "time_diff": -row["time_diff"]} for row in improvements[:TOP]],
        "top_regressions": regressions[:TOP],
    }


def compare_traces(trace1: Any, trace2: Any, threshold: Optional[float] = None) -> dict[str, Any]:
    """As `compare_graphs()`, with the lists `regressions` and `improvements` of all functions that changed."""
    comparison = compare_graphs(trace1, trace2, threshold=threshold)
    rows = comparison["node_comparisons"]
    return {
        **comparison,
        "regressions": [row for row in rows if row["regression"]],
        "improvements": [row for row in rows if row["improvement"]],
    }


def get_diff(trace1: Any, trace2: Any, threshold: Optional[float] = None) -> dict[str, Any]:
    """What differs, by name: `added`, `removed`, `slower`, `faster`, `calls`; each name with its row of `compare_graphs()`.

    `calls` are the functions whose number of calls changed, which needs no test: calls are counted, not estimated.
    """
    rows = compare_graphs(trace1, trace2, threshold=threshold)["node_comparisons"]
    diff: dict[str, Any] = {part: {} for part in ("added", "removed", "slower", "faster", "calls")}
    for row in rows:
        if row["status"] in ("added", "removed"):
            diff[row["status"]][row["name"]] = row
        elif row["calls_diff"]:
            diff["calls"][row["name"]] = row
        if row["regression"] or row["improvement"]:
            diff["slower" if row["regression"] else "faster"][row["name"]] = row
    return diff


def generate_comparison_report(comparison: Mapping[str, Any], format: str = "text") -> str:
    """A comparison to read.

    Args:
        comparison: from `compare_graphs()` or `compare_traces()`.
        format: `text`, `markdown` (for a pull request) or `json`.

    Raises:
        ValueError: the format is unknown.
        TypeError: `comparison` is something else.
    """
    if not isinstance(comparison, Mapping) or "summary" not in comparison:
        raise TypeError("expected what compare_graphs() returns")
    if format == "json":
        return json.dumps(comparison, indent=2)
    if format not in ("text", "markdown"):
        raise ValueError(f"Unknown format: {format} (choose from text, markdown, json)")
    from ._report import comparison_text

    return comparison_text(comparison, markdown=format == "markdown")


class _Run:
    """One run: its functions by a name that is the same in other runs, and its whole time."""

    def __init__(self, graph: CallGraph) -> None:
        self.nodes = _by_stable_name(graph)
        self.columns = graph.columns
        whole = graph.call_tree()
        self.total = whole.total_time if self.nodes else 0.0
        self.samples = whole.samples if "samples" in self.columns else 0
        view = graph.metadata
        self.sampled = view["source"] == "samples"
        self.interval = view["interval_ns"] / 1e9
        time = view["time"]
        # The time of a trace is elapsed time.
        self.clock = {"cpu_ns": "CPU time", "wall_ns": "elapsed time", "self_ns": "elapsed time"}.get(time or "", "")


def _by_stable_name(graph: CallGraph) -> dict[str, CallNode]:
    """The functions by module and name; of several with one name the first in the file is the first in any version."""
    nodes: dict[str, CallNode] = {}
    for node in sorted(graph.nodes.values(), key=lambda node: (node.line, node.id)):
        name = f"{node.module}.{node.qualname}" if node.module else node.qualname
        again = 1
        while (key := name if again == 1 else f"{name}#{again}") in nodes:
            again += 1
        nodes[key] = node
    return nodes


def _runs(side: Any) -> list[_Run]:
    if side is None:
        raise TypeError("compare_graphs() needs two graphs")
    sources = list(side) if isinstance(side, (list, tuple)) else [side]
    if not sources:
        raise TypeError("there are no runs on one side")
    return [_Run(as_graph(source)) for source in sources]


def _compared(name: str, sides: Sequence[Sequence[_Run]]) -> dict[str, Any]:
    found = [[run.nodes[name] for run in runs if name in run.nodes] for runs in sides]
    times = [[run.nodes[name].total_time if name in run.nodes else 0.0 for run in runs] for runs in sides]
    row = _row(name, *times)
    node = (found[0] or found[1])[0]
    row.update(file=node.file, line=node.line, module=node.module)
    for key, attribute in (("self", "self_time"), ("calls", "call_count"), ("samples", "samples")):
        values = [_median(nodes, attribute) for nodes in found]
        # A function that is not there was not called; one that is there without counting is not known.
        known = [0 if not nodes else value for nodes, value in zip(found, values)]
        row[f"{key}_before"], row[f"{key}_after"] = known
        row[f"{key}_diff"] = None if None in known else known[1] - known[0]  # type: ignore[operator]
    row["status"] = "added" if not found[0] else "removed" if not found[1] else "both"
    return row


def _row(name: str, before: list[float], after: list[float]) -> dict[str, Any]:
    first, second = statistics.median(before), statistics.median(after)
    return {
        "name": name,
        "status": "both",
        "time_before": first,
        "time_after": second,
        "time_diff": second - first,
        "time_diff_pct": _percent(second - first, first),
        "significant": None,
        "p_value": None,
        "_runs": (before, after),
    }


def _median(nodes: Sequence[CallNode], attribute: str) -> Optional[float]:
    values = [getattr(node, attribute, None) for node in nodes]
    return statistics.median(values) if values and None not in values else None  # type: ignore[type-var]


def _percent(part: float, whole: float) -> Optional[float]:
    return 100.0 * part / whole if whole else None


class _Noise:
    """Which changes noise explains."""

    def __init__(self, sides: Sequence[Sequence[_Run]]) -> None:
        self.sides = sides
        fewest = min(map(len, sides))
        intervals = [runs[0].interval for runs in sides]
        if fewest >= LEAST_RUNS:
            self.kind = "runs"
            self.note = f"told from {len(sides[0])} and {len(sides[1])} runs by a permutation test"
        elif all(len(runs) == 1 and runs[0].sampled and "samples" in runs[0].columns for runs in sides) and all(intervals):
            self.kind = "samples"
            self.note = "told from the number of samples; what differs between runs of one program is not in it"
        else:
            self.kind = "unknown"
            self.note = (
                f"not known from {len(sides[0])} and {len(sides[1])} runs: give at least {LEAST_RUNS} a side, taken in turns, "
                "to tell changes from noise"
            )

    def judge(self, rows: list[dict[str, Any]], total: dict[str, Any]) -> None:
        """Fills in `p_value` and `significant`."""
        whole = max(total["time_before"], total["time_after"])
        tested = [row for row in rows if max(row["time_before"], row["time_after"]) >= LEAST_SHARE * whole]
        if self.kind == "runs":
            tested.append(total)
            p_values = _p_values_of_runs(tested)
        elif self.kind == "samples":
            total["samples_before"], total["samples_after"] = (runs[0].samples for runs in self.sides)
            tested.append(total)
            first, second = (runs[0].interval for runs in self.sides)
            alone = [_binomial(row["samples_before"], row["samples_after"], second / (first + second)) for row in tested]
            p_values = _holm(alone)
        else:
            return
        for row, p_value in zip(tested, p_values):
            row["p_value"] = p_value
            row["significant"] = p_value <= ALPHA
        for row in rows:
            row["significant"] = bool(row["significant"])


def _p_values_of_runs(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """How likely differences as large are found by chance, the chance being that of finding any in all rows.

    Each row is tested as it is and relative to how long its run took as a whole: what holds up a whole run is no change of one
    function. Both are in one family, so that looking twice costs no more alarms; the second counts where it goes the same way.
    """
    times = [[*row["_runs"][0], *row["_runs"][1]] for row in rows]
    relative = [[value / statistics.fmean(row) if any(row) else 1.0 for value in row] for row in times]
    paces = [statistics.median(run) or 1.0 for run in zip(*relative)]
    family = times + [[value / pace for value, pace in zip(row, paces)] for row in times]
    first = len(rows[0]["_runs"][0])
    p_values = _native._differences([row[:first] for row in family], [row[first:] for row in family])
    return [
        min(plain, paced) if _rise(row, first) * _rise(relative, first) > 0 else plain
        for row, relative, plain, paced in zip(times, family[len(rows) :], p_values, p_values[len(rows) :])
    ]


def _rise(values: Sequence[float], first: int) -> float:
    return statistics.median(values[first:]) - statistics.median(values[:first])


def _binomial(before: float, after: float, share_before: float) -> float:
    """How likely counts differ as much as these when each sample falls to a side by chance (two-sided, normal limit)."""
    n = before + after
    if n == 0:
        return 1.0
    deviation = math.sqrt(n * share_before * (1 - share_before))
    distance = max(0.0, abs(before - n * share_before) - 0.5) / deviation
    return math.erfc(distance / math.sqrt(2))


def _holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for being many."""
    corrected = [1.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[place] * (len(p_values) - rank)))
        corrected[place] = largest
    return corrected


def _classify(row: dict[str, Any], threshold: float, noise: _Noise) -> None:
    """Tells what the row is, now that all is known of it."""
    del row["_runs"]
    least = max(threshold * row["time_before"], BLIND_SECONDS if noise.kind == "unknown" else 0.0)
    both = row["status"] == "both"
    changed = both and abs(row["time_diff"]) > least and row["significant"] is not False
    row["regression"] = changed and row["time_diff"] > 0
    row["improvement"] = changed and row["time_diff"] < 0
    if both:
        row["status"] = "modified" if changed or row.get("calls_diff") else "unchanged"
