"""`compare_graphs` and its relatives: what is reported, and that noise is not."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import spprof
from known_graphs import graph_of, sampled
from spprof.callgraph import CallGraph
from spprof.comparison import compare_graphs, compare_traces, generate_comparison_report, get_diff

BEFORE = {"main": (1, 0.5), "main;old": (10, 2.0), "main;work": (100, 4.0), "main;work;leaf": (100, 1.0)}
AFTER = {"main": (1, 0.5), "main;new": (5, 1.0), "main;work": (50, 2.0), "main;work;leaf": (200, 3.0)}


def rows_of(comparison: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in comparison["node_comparisons"]}


def test_summary_and_rows() -> None:
    """The keys of the documents, with the time of the whole and not the sum of inclusive times."""
    comparison = compare_graphs(graph_of(BEFORE), graph_of(AFTER), "v1", "v2")
    summary = comparison["summary"]
    assert (comparison["label1"], comparison["label2"]) == ("v1", "v2")
    assert {key: summary[key] for key in ("total_time_before", "total_time_after", "time_saved")} == {
        "total_time_before": 7.5, "total_time_after": 6.5, "time_saved": 1.0,
    }  # fmt: skip
    assert summary["time_saved_pct"] == pytest.approx(100 / 7.5)
    assert [summary[f"nodes_{kind}"] for kind in ("added", "removed", "modified")] == [1, 1, 2]
    rows = rows_of(comparison)
    assert {name: row["status"] for name, row in rows.items()} == {
        "app.main": "unchanged", "app.old": "removed", "app.new": "added", "app.work": "modified", "app.leaf": "modified",
    }  # fmt: skip
    leaf = rows["app.leaf"]
    assert (leaf["time_before"], leaf["time_after"], leaf["time_diff"], leaf["time_diff_pct"]) == (1.0, 3.0, 2.0, 200.0)
    assert (leaf["calls_before"], leaf["calls_after"], leaf["calls_diff"]) == (100, 200, 100)
    assert (rows["app.work"]["self_diff"], rows["app.work"]["time_diff"]) == (-2.0, 0.0)
    assert (summary["regressions"], summary["improvements"]) == (1, 0)
    assert [(row["name"], row["time_diff"]) for row in comparison["top_regressions"]] == [("app.leaf", 2.0)]
    assert (rows["app.old"]["calls_after"], rows["app.new"]["calls_before"]) == (0, 0)


def test_the_other_way_around_it_is_an_improvement() -> None:
    """The seconds saved are positive in the list of improvements."""
    comparison = compare_graphs(before=graph_of(AFTER), after=graph_of(BEFORE))
    assert [(row["name"], row["time_diff"]) for row in comparison["top_improvements"]] == [("app.leaf", 2.0)]
    assert comparison["summary"]["time_saved"] == -1.0


def test_a_graph_with_itself() -> None:
    """The assertion of the documents holds: nothing is a regression, nothing is modified."""
    graph = graph_of(BEFORE)
    for other in (graph, graph.to_dict(), [graph] * 4):
        summary = compare_graphs([graph] * len(other) if isinstance(other, list) else graph, other)["summary"]
        assert summary["regressions"] == summary["improvements"] == summary["nodes_modified"] == 0
        assert summary["time_saved"] == 0.0


def test_one_trace_a_side_says_that_noise_is_not_known() -> None:
    """Then only large changes count, and none is called significant; calls are counted and certain."""
    slower = {**BEFORE, "main;work": (100, 4.8)}
    comparison = compare_graphs(graph_of(BEFORE), graph_of(slower))
    assert comparison["summary"]["noise"] == "unknown" and "at least 4 a side" in comparison["summary"]["noise_note"]
    assert comparison["summary"]["regressions"] == 0
    assert {row["significant"] for row in comparison["node_comparisons"]} == {None}
    assert compare_graphs(graph_of(BEFORE), graph_of(slower), threshold=0.12)["summary"]["regressions"] == 1
    # A tenth of a millisecond is nothing, however large a part.
    tiny = [graph_of({"main;f": (1, seconds)}) for seconds in (0.0001, 0.0002)]
    assert compare_graphs(*tiny)["summary"]["regressions"] == 0


def runs(noise: random.Random, count: int, planted: float = 1.0) -> list[CallGraph]:
    """Runs of a program of twelve functions, each with a few percent of noise, and now and then held up altogether."""
    graphs = []
    for _ in range(count):
        whole = noise.lognormvariate(0, 0.02) * (1.5 if noise.random() < 0.05 else 1.0)
        stacks = {"main": (1, 0.01 * whole)}
        for i in range(12):
            seconds = 0.1 * (i + 1) * whole * noise.lognormvariate(0, 0.02)
            stacks[f"main;f{i}"] = (10, seconds * (planted if i == 4 else 1.0))
        graphs.append(graph_of(stacks))
    return graphs


def test_noise_of_runs() -> None:
    """A program against itself: no regression in 95 of 100 trials. A tenth slower in one function: found, and there."""
    noise = random.Random(5)
    alarms, found, elsewhere = 0, 0, 0
    for _ in range(100):
        before = runs(noise, 6)
        alarms += compare_graphs(before, runs(noise, 6))["summary"]["regressions"] > 0
        comparison = compare_graphs(before, runs(noise, 6, planted=1.10))
        slower = [row["name"] for row in comparison["node_comparisons"] if row["regression"]]
        found += "app.f4" in slower
        elsewhere += any(name not in ("app.f4", "app.main") for name in slower)
    assert alarms <= 5
    assert found >= 90
    assert elsewhere <= 10


def test_runs_report_what_was_tested() -> None:
    """p-values and their verdict are in the rows; a change that is certain but small is none."""
    noise = random.Random(9)
    comparison = compare_graphs(runs(noise, 6), runs(noise, 6, planted=2.0))
    row = rows_of(comparison)["app.f4"]
    assert row["significant"] is True and row["p_value"] <= 0.05 and row["regression"]
    assert rows_of(comparison)["app.f7"]["significant"] is False
    assert (comparison["summary"]["noise"], comparison["summary"]["runs_before"]) == ("runs", 6)
    lenient = compare_graphs(runs(noise, 6), runs(noise, 6, planted=2.0), threshold=1.5)
    assert lenient["summary"]["regressions"] == 0


def test_noise_of_samples() -> None:
    """The scatter of counts: 100 against 120 is nothing, 1000 against 1200 is something, and intervals are accounted for."""

    def profile(count: int, interval_ms: int = 10) -> CallGraph:
        seconds = interval_ms / 1000
        stacks = {"main": (500, 500 * seconds), "main;f": (count, count * seconds)}
        return sampled(stacks, interval_ns=interval_ms * 1_000_000)

    def slower(before: CallGraph, after: CallGraph) -> list[str]:
        comparison = compare_graphs(before, after)
        assert comparison["summary"]["noise"] == "samples"
        return [row["name"] for row in comparison["node_comparisons"] if row["regression"]]

    assert slower(profile(100), profile(120)) == []
    assert "app.f" in slower(profile(1000), profile(1200))
    # Twice the samples at half the interval is the same time.
    comparison = compare_graphs(sampled({"main;f": (500, 5.0)}), sampled({"main;f": (1000, 5.0)}, interval_ns=5_000_000))
    assert rows_of(comparison)["app.f"]["significant"] is False


def test_samples_against_themselves() -> None:
    """Two profiles of one program: no regression in 95 of 100 trials, whatever the counts."""
    chance = random.Random(3)

    def profile() -> CallGraph:
        stacks = {}
        for i in range(20):
            mean = 3 * (i + 1) ** 2
            count = max(0, round(chance.gauss(mean, mean**0.5)))
            stacks[f"main;f{i}"] = (count, count * 0.01)
        return sampled(stacks)

    alarms = sum(compare_graphs(profile(), profile())["summary"]["regressions"] > 0 for _ in range(100))
    assert alarms <= 5


def test_functions_are_matched_across_versions() -> None:
    """By module and name: a function that moved down the file is the same."""
    data = graph_of({"main;f": (1, 1.0)}).to_dict()
    for node in data["nodes"]:
        node["line"] += 100
    comparison = compare_graphs(graph_of({"main;f": (1, 1.0)}), CallGraph.from_dict(data))
    assert comparison["summary"]["nodes_added"] == comparison["summary"]["nodes_removed"] == 0


def test_compare_traces_and_get_diff() -> None:
    """The other documents' names: both sets of keys, and the differences by name."""
    result = compare_traces(graph_of(BEFORE), graph_of(AFTER), threshold=0.1)
    assert [row["name"] for row in result["regressions"]] == ["app.leaf"]
    assert [row["name"] for row in result["improvements"]] == ["app.main"] and result["summary"]["regressions"] == 1
    diff = get_diff(graph_of(BEFORE), graph_of(AFTER))
    assert {part: sorted(names) for part, names in diff.items()} == {
        "added": ["app.new"], "removed": ["app.old"], "slower": ["app.leaf"], "faster": [], "calls": ["app.leaf", "app.work"],
    }  # fmt: skip


def test_reports() -> None:
    """Text, Markdown and JSON say the same."""
    comparison = compare_graphs(graph_of(BEFORE), graph_of(AFTER), "v1", "v2")
    text = generate_comparison_report(comparison)
    assert text.splitlines()[0] == "v1: 7.500 s, v2: 6.500 s, change -13.3 %"
    assert "1 slower, 0 faster, 1 added, 1 removed, 2 modified" in text
    line = next(line for line in text.splitlines() if line.endswith("app.leaf"))
    assert line.split() == ["1.000", "s", "3.000", "s", "+2.000", "s", "+200.0", "100", "->", "200", "SLOWER", "app.leaf"]
    markdown = generate_comparison_report(comparison, "markdown")
    assert "| --- |" in markdown and "| app.leaf |" in markdown
    assert json.loads(generate_comparison_report(comparison, "json")) == comparison
    with pytest.raises(ValueError, match="Unknown format: html"):
        generate_comparison_report(comparison, "html")
    with pytest.raises(TypeError, match="expected what compare_graphs"):
        generate_comparison_report({})


def test_bad_arguments(tmp_path: Path) -> None:
    """What cannot be compared is told."""
    with pytest.raises(TypeError, match="needs two graphs"):
        compare_graphs(graph_of(BEFORE))
    with pytest.raises(TypeError, match="no runs on one side"):
        compare_graphs([], graph_of(BEFORE))
    with pytest.raises(TypeError, match="expected a call graph"):
        compare_graphs(graph_of(BEFORE), 7)
    with pytest.raises(ValueError, match="CPU time, elapsed time"):
        compare_graphs(graph_of(BEFORE), sampled(BEFORE))
    with pytest.raises(ValueError, match="must not be negative"):
        compare_graphs(graph_of(BEFORE), graph_of(AFTER), threshold=-1)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(spprof.LoadError):
        compare_graphs(graph_of(BEFORE), tmp_path / "x.json")
