"""The documents' examples of comparison, profiling, export and data structures, as they are written there.

What an example leaves open (`old_implementation`, `data`...) is defined here, with work of which the outcome is known; times
are those of the machine, so what is asserted is counts, names, keys and large differences.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from callflow_tracer import export_json, get_memory_usage, profile_function, profile_section
from callflow_tracer.comparison import compare_graphs, compare_traces, generate_comparison_report, get_diff
from spprof.callgraph import load_graph
from spprof.tracing import CallTracer, trace_scope


def calls(graph: Any) -> dict[str, int]:
    return {node.name: node.call_count for node in graph.nodes.values()}


def rows(comparison: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"].rpartition(".")[2]: row for row in comparison["node_comparisons"]}


def fibonacci(n: int) -> int:
    if n <= 1:
        return n
    return fibonacci(n - 1) + fibonacci(n - 2)


def bubble_sort(data: list[int]) -> list[int]:
    """Quadratic."""

    def swap(data: list[int], i: int) -> None:
        data[i], data[i + 1] = data[i + 1], data[i]

    data = list(data)
    for end in range(len(data) - 1, 0, -1):
        for i in range(end):
            if data[i] > data[i + 1]:
                swap(data, i)
    return data


def expensive_calculation(item: int) -> int:
    return fibonacci(item)


def test_quick_start_of_comparison_mode() -> None:
    """Before and after, the functions that went and came, and the seconds of the whole."""

    def old_implementation() -> int:
        return fibonacci(12)

    def new_implementation() -> int:
        a, b = 0, 1
        for _ in range(12):
            a, b = b, a + b
        return a

    with trace_scope() as graph_before:
        old_implementation()
    with trace_scope() as graph_after:
        new_implementation()
    comparison = compare_graphs(graph_before, graph_after, label1="Before", label2="After")
    by_name = rows(comparison)
    assert by_name["old_implementation"]["status"] == by_name["fibonacci"]["status"] == "removed"
    assert by_name["new_implementation"]["status"] == "added"
    assert by_name["fibonacci"]["calls_before"] == 465
    summary = comparison["summary"]
    assert set(summary) >= {
        "total_time_before", "total_time_after", "time_saved", "time_saved_pct", "improvements", "regressions", "nodes_added",
        "nodes_removed", "nodes_modified",
    }  # fmt: skip
    assert summary["time_saved"] == summary["total_time_before"] - summary["total_time_after"]
    assert summary["nodes_removed"] >= 2 and summary["nodes_added"] >= 1


def test_algorithm_optimization() -> None:
    """Bubble sort against the built-in."""
    data = list(range(40, 0, -1))
    with trace_scope() as before:
        bubble_sort(data)
    with trace_scope() as after:
        sorted(data)
    assert calls(before)["swap"] == 780
    comparison = compare_graphs(before, after)
    assert rows(comparison)["bubble_sort"]["status"] == "removed"
    assert comparison["summary"]["nodes_removed"] >= 2


def test_caching_validation() -> None:
    """Fewer calls of what is expensive: a fact, whatever the times."""
    cache: dict[int, int] = {}

    def cached_calculation(item: int) -> int:
        if item not in cache:
            cache[item] = expensive_calculation(item)
        return cache[item]

    items = [8, 9, 8, 9, 8]
    with trace_scope() as before:
        for item in items:
            expensive_calculation(item)
    with trace_scope() as after:
        for item in items:
            cached_calculation(item)
    row = rows(compare_graphs(before, after))["expensive_calculation"]
    assert (row["calls_before"], row["calls_after"], row["calls_diff"]) == (5, 2, -3)
    diff = get_diff(before, after)
    assert any(name.endswith("cached_calculation") for name in diff["added"])
    assert any(name.endswith("expensive_calculation") for name in diff["calls"])


def test_refactoring_validation() -> None:
    """The assertion for CI, on the same graph through a dictionary; then a real regression is found."""

    def step(seconds: float) -> None:
        time.sleep(seconds)

    with trace_scope() as before:
        step(0.01)
    comparison = compare_graphs(before, before.to_dict())
    assert comparison["summary"]["regressions"] == 0
    with trace_scope() as after:
        step(1.0)
    comparison = compare_graphs(before, after)
    assert comparison["summary"]["regressions"] >= 1
    assert any(row["name"].endswith(".step") for row in comparison["top_regressions"])
    for improvement in compare_graphs(after, before)["top_improvements"][:5]:
        assert f"{improvement['name']}: {improvement['time_diff']:.4f}s saved"
        assert improvement["time_diff"] > 0


def test_comparison_module() -> None:
    """`compare_traces` and a report of it."""
    with trace_scope() as baseline:
        fibonacci(5)
    with trace_scope() as current:
        fibonacci(7)
    diff = compare_traces(baseline, current)
    assert f"Differences: {diff}"
    assert rows(diff)["fibonacci"]["calls_diff"] == 41 - 15
    assert "fibonacci" in generate_comparison_report(diff)


def test_tracer_module() -> None:
    """The graph of the tracer class, as data."""
    tracer = CallTracer()
    tracer.start()
    fibonacci(10)
    tracer.stop()
    graph_dict = tracer.get_graph().to_dict()
    node = next(node for node in graph_dict["nodes"] if node["name"] == "fibonacci")
    assert (node["call_count"], node["primitive_calls"]) == (177, 1)
    edge = next(edge for edge in graph_dict["edges"] if edge["caller"] == edge["callee"] == node["full_name"])
    assert edge["call_count"] == 176
    assert f"Duration: {graph_dict['metadata']['duration']:.4f}s"
    assert 0 < node["total_time"] <= graph_dict["metadata"]["duration"]


def test_export_json(tmp_path: Path) -> None:
    """A trace as a file, read back."""

    def my_function() -> None:
        fibonacci(4)

    with trace_scope() as graph:
        my_function()
    export_json(graph, tmp_path / "output.json")
    assert json.loads((tmp_path / "output.json").read_text())["schema"] == "spprof-callgraph"
    again = load_graph(tmp_path / "output.json")
    assert calls(again)["fibonacci"] == 9 and again.to_dict() == graph.to_dict()


def test_complete_example(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Section and scope together, without the pages, which are no part of this."""

    def slow_function() -> int:
        """Intentionally slow function."""
        time.sleep(0.1)
        return sum(range(10000))

    def fast_function() -> int:
        """Fast function."""
        return sum(range(100))

    def main_workflow() -> int:
        """Main application workflow."""
        slow = slow_function()
        fast = fast_function()
        return slow + fast

    with profile_section("Main Workflow") as perf_stats:  # noqa: SIM117 (as in the document)
        with trace_scope() as graph:
            result = main_workflow()
            print(f"Result: {result}")
    export_json(graph, tmp_path / "trace.json")
    bottlenecks = []
    for node in graph.nodes.values():
        if node.avg_time > 0.05:
            bottlenecks.append(node.name)
            print(f"Bottleneck: {node.full_name} ({node.avg_time:.3f}s)")
    assert {"slow_function", "main_workflow"} <= set(bottlenecks)
    assert capsys.readouterr().out.startswith("Result: 49999950\nBottleneck: ")
    stats = perf_stats.to_dict()
    assert stats["io_wait"] >= 0.05 and stats["time"] >= 0.1
    edge = next(edge for edge in graph.edges if edge.callee.endswith("slow_function"))
    assert edge.caller.endswith("main_workflow") and edge.call_count == 1
    for node in graph.nodes.values():
        assert f"{node.full_name}: {node.call_count} {node.total_time:.4f}s {node.avg_time:.4f}s"


def test_profiling_examples() -> None:
    """Decorator, mapping, memory."""

    @profile_function
    def expensive_function() -> None:
        pass

    stats = expensive_function.performance_stats
    assert stats.to_dict()["calls"] == 0

    def slow_function() -> int:
        total = 0
        for i in range(100000):
            total += i
        return total

    profile = profile_function(slow_function)
    assert f"Time: {profile['time']:.3f}s"
    assert f"Memory: {profile['memory']:.2f}MB"
    assert profile["time"] > 0
    mem = get_memory_usage()
    assert f"Memory: {mem:.2f}MB" and mem > 1
