"""The documents' examples of these parts as they are written there; only what they print becomes assertions, and `.html`, which
has no writer yet, becomes `.json`."""

from __future__ import annotations

import asyncio
import json
import time

import pytest


def slow_function():
    """Intentionally slow function."""
    time.sleep(0.1)
    return sum(range(10000))


def fast_function():
    """Fast function."""
    return sum(range(100))


def main_workflow():
    """Main application workflow."""
    slow = slow_function()
    fast = fast_function()
    return slow + fast


def risky_function():
    fast_function()
    raise RuntimeError("risk")


def test_the_complete_example(tmp_path):
    from callflow_tracer import export_json, profile_section, trace_scope

    with profile_section("Main Workflow") as perf_stats, trace_scope() as graph:
        main_workflow()

    export_json(graph, str(tmp_path / "trace.json"))
    assert len(json.loads((tmp_path / "trace.json").read_text())["nodes"]) == len(graph.nodes)
    bottlenecks = [node.full_name for node in graph.nodes.values() if node.avg_time > 0.05]
    assert f"{__name__}.slow_function" in bottlenecks and f"{__name__}.fast_function" not in bottlenecks
    assert perf_stats.to_dict()["io_wait"] > 0.05

    graph_dict = graph.to_dict()
    assert graph_dict["metadata"]["duration"] >= 0.1
    assert {"nodes", "edges", "metadata"} <= graph_dict.keys()


def test_core_examples():
    from callflow_tracer import clear_trace, get_current_graph, trace, trace_scope

    clear_trace()

    @trace
    def my_function():
        return 42

    assert my_function() == 42
    graph = get_current_graph()
    assert graph and len(graph.nodes) == 1
    clear_trace()
    assert get_current_graph() is None

    with trace_scope() as graph:
        my_function()
    (node,) = [node for node in graph.nodes.values() if node.name == "my_function"]
    assert (node.call_count, node.module, node.args) == (1, __name__, [])
    assert node.total_time == pytest.approx(node.avg_time)


def test_auto_export(tmp_path):
    from callflow_tracer import trace_scope

    with trace_scope(str(tmp_path / "output.json")):
        fast_function()
    assert "fast_function" in (tmp_path / "output.json").read_text()


def test_error_handling():
    from callflow_tracer import trace_scope

    try:
        with trace_scope() as graph:
            risky_function()
    except Exception as e:
        assert str(e) == "risk"
    # Graph still contains data up to the error
    assert graph
    assert {"risky_function", "fast_function"} <= {node.name for node in graph.nodes.values()}


def test_the_tracer_class():
    from callflow_tracer.tracer import CallTracer, TraceEdge, TraceNode

    tracer = CallTracer(enabled=True)
    tracer.start()
    main_workflow()
    tracer.stop()
    graph = tracer.get_graph()
    assert isinstance(graph.nodes[f"{__name__}.main_workflow"], TraceNode)
    assert isinstance(graph.edges[(f"{__name__}.main_workflow", f"{__name__}.slow_function")], TraceEdge)
    (top,) = tracer.get_call_tree().children
    (workflow,) = [child for child in top.children if child.node.name == "main_workflow"]
    assert {child.node.name for child in workflow.children} == {"slow_function", "fast_function"}
    assert tracer.get_statistics()["total_calls"] >= 3


def test_async_quick_start(tmp_path):
    from callflow_tracer.async_tracer import trace_async, trace_scope_async

    @trace_async
    async def my_async_function():
        await asyncio.sleep(0.1)
        return "result"

    async def main():
        async with trace_scope_async(str(tmp_path / "output.spprof")) as graph:
            result = await my_async_function()
        return graph, result

    graph, result = asyncio.run(main())
    assert result == "result"
    (node,) = [node for node in graph.nodes.values() if node.name == "my_async_function"]
    assert node.call_count == 1
    assert (tmp_path / "output.spprof").exists()


def test_async_statistics():
    from callflow_tracer.async_tracer import gather_traced, get_async_stats, trace_async, trace_scope_async

    @trace_async
    async def fetch_data(i):
        await asyncio.sleep(0.02)
        return i

    async def main():
        async with trace_scope_async() as graph:
            tasks = [fetch_data(i) for i in range(10)]
            results = await gather_traced(*tasks)
        return graph, results

    graph, results = asyncio.run(main())
    assert results == list(range(10))
    stats = get_async_stats(graph)
    text = f"""
Total async time: {stats["total_async_time"]:.3f}s
Total await time: {stats["total_await_time"]:.3f}s
Active time: {stats["total_active_time"]:.3f}s
Efficiency: {stats["efficiency"]:.2f}%
Max concurrent: {stats["max_concurrent_tasks"]}
"""
    assert "Max concurrent: 10" in text
    assert stats["total_async_functions"] >= 1 and stats["timeline_events"] > 20
    assert stats["total_await_time"] >= 10 * 0.01
    (node,) = [node for node in graph.nodes.values() if node.name == "fetch_data"]
    assert node.call_count == 10
    if stats["efficiency"] < 50:
        text += "Warning: Low efficiency - too much waiting!"
    assert not stats["max_concurrent_tasks"] > 100


def test_async_on_a_sync_function():
    from callflow_tracer import trace_async

    with pytest.raises(TypeError, match="not an async function"):
        trace_async(fast_function)


def test_the_async_tracer_class():
    from callflow_tracer.async_tracer import AsyncTracer

    async def my_async_code():
        await asyncio.sleep(0.001)

    async def main():
        tracer = AsyncTracer()
        tracer.start()
        await my_async_code()
        tracer.stop()
        return tracer.get_graph()

    graph = asyncio.run(main())
    assert "my_async_code" in {node.name for node in graph.nodes.values()}
    assert graph.total_await_time > 0


def test_comparison_of_two_scopes():
    from callflow_tracer import compare_graphs, trace_scope

    with trace_scope() as before:
        slow_function()
    with trace_scope() as after:
        fast_function()
    comparison = compare_graphs(before, after)
    assert comparison["summary"]["time_saved"] > 0.05
    assert {row["status"] for row in comparison["node_comparisons"]} >= {"added", "removed"}
