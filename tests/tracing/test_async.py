"""Tasks: which there were, what they did when, and how they ended. Orders and sums are asserted, never the machine's speed."""

from __future__ import annotations

import asyncio
import sys

import programs
import pytest
from spprof import _native
from spprof.async_tracing import (
    AsyncCallGraph,
    AsyncTracer,
    gather_traced,
    get_async_stats,
    trace_async,
    trace_scope_async,
)
from spprof.tracing import clear_trace, get_current_graph, trace_scope

HERE = __name__


def calls(graph, *names):
    nodes = {node.name: node.call_count for node in graph.nodes.values() if node.module == HERE}
    return [nodes.get(name, 0) for name in names]


async def fetch(i, seconds=0.001):
    await asyncio.sleep(seconds)
    return i


async def nested(i):
    return await fetch(i) + await fetch(i + 1)


async def fails():
    await asyncio.sleep(0)
    raise ValueError("planned")


async def for_ever():
    await asyncio.Event().wait()


async def ticks(n):
    for i in range(n):
        await asyncio.sleep(0)
        yield i


@trace_async
async def decorated(i):
    await asyncio.sleep(0)
    return i


def test_every_coroutine_decorated_or_not():
    async def main():
        async with trace_scope_async() as graph:
            assert isinstance(graph, AsyncCallGraph)
            for i in range(10):
                await fetch(i, 0)
            assert await nested(1) == 3
            assert await decorated(5) == 5
            assert await gather_traced(decorated(1), decorated(2)) == [1, 2]
            assert [i async for i in ticks(3)] == [0, 1, 2]
            programs.middle(2)
        return graph

    graph = asyncio.run(main())
    assert [(span.function, span.outcome) for span in graph.spans[1:]] == [(f"{HERE}.decorated", "finished")] * 2
    assert calls(graph, "fetch", "nested", "ticks", "decorated") == [12, 1, 1, 3]
    assert graph.nodes["programs.leaf"].call_count == 2
    assert graph.nodes[f"{HERE}.fetch"].kind == "coroutine"
    assert graph.nodes[f"{HERE}.ticks"].kind == "async generator"
    # The awaiting coroutine is the caller.
    assert graph.edges[(f"{HERE}.nested", f"{HERE}.fetch")].call_count == 2


def test_the_tasks_of_a_gather():
    async def main():
        async with trace_scope_async() as graph:
            assert await gather_traced(*[fetch(i) for i in range(6)]) == list(range(6))
            await asyncio.gather(fetch(7), fetch(8))
        return graph

    graph = asyncio.run(main())
    stats = get_async_stats(graph)
    children = [span for span in graph.spans if span.function == f"{HERE}.fetch"]
    assert [span.name for span in children[:6]] == [f"fetch-{i}" for i in range(6)]
    assert [span.outcome for span in children] == ["finished"] * 8
    assert {graph.spans[span.parent].function.rpartition(".")[2] for span in children} == {"main"}
    assert graph.task_edges == [(graph.spans[0].function, f"{HERE}.fetch", 8)]
    assert stats["max_concurrent_tasks"] == 6 and stats["tasks"] == 9 and stats["finished"] == 8
    assert stats["total_async_functions"] >= 2
    assert all(span.steps == 2 for span in children)


def test_waiting_and_queued_are_told_apart():
    begun = []

    async def waits(event):
        begun.append(True)
        await event.wait()

    async def main():
        async with trace_scope_async() as graph:
            event = asyncio.Event()
            tasks = [asyncio.ensure_future(waits(event)) for _ in range(2)]
            while len(begun) < 2:
                await asyncio.sleep(0)
            # Both wait from before here.
            await asyncio.sleep(0.02)
            event.set()
            # They are ready from here on, and cannot run.
            programs.spin(3_000_000)
            await asyncio.gather(*tasks)
        return graph

    graph = asyncio.run(main())
    spin = graph.nodes["programs.spin"].total_time
    spans = [span for span in graph.spans if span.function.endswith("waits")]
    assert len(spans) == 2
    for span in spans:
        assert span.queued >= 0.95 * spin
        assert span.waiting >= 0.019
        assert span.end - span.start == pytest.approx(span.duration, rel=0.01, abs=1e-4)
    stats = get_async_stats(graph)
    assert stats["max_loop_lag"] >= 0.95 * spin
    assert stats["total_queued_time"] >= 1.9 * spin
    assert stats["total_active_time"] >= 0.95 * spin
    assert stats["total_async_time"] == pytest.approx(stats["total_active_time"] + stats["total_await_time"])
    assert stats["total_await_time"] == pytest.approx(stats["total_waiting_time"] + stats["total_queued_time"])
    assert stats["efficiency"] == pytest.approx(100 * stats["total_active_time"] / stats["total_async_time"])
    assert 0 < stats["loop_utilization"] <= 100


def test_a_sleeping_program_has_a_low_efficiency():
    async def main():
        async with trace_scope_async() as graph:
            await gather_traced(*[fetch(i, 0.05) for i in range(10)])
        return graph

    stats = get_async_stats(asyncio.run(main()))
    assert stats["efficiency"] < 50
    assert stats["max_concurrent_tasks"] == 10


def test_how_tasks_end():
    async def main():
        async with trace_scope_async() as graph:
            failing = asyncio.ensure_future(fails())
            cancelled = asyncio.ensure_future(for_ever())
            going_on = asyncio.ensure_future(for_ever())
            await asyncio.sleep(0.001)
            cancelled.cancel()
            assert [type(result) for result in await gather_traced(failing, cancelled, return_exceptions=True)] == [
                ValueError,
                asyncio.CancelledError,
            ]
        going_on.cancel()
        return graph

    graph = asyncio.run(main())
    outcomes = [span.outcome for span in graph.spans if span.parent is not None]
    if sys.version_info < (3, 12):
        # There, an exception that leaves a function cannot be looked at.
        assert outcomes == ["failed", "failed", "unfinished"]
    else:
        assert outcomes == ["failed", "cancelled", "unfinished"]
        rows = {name: values for _, _, name, values in graph._to_native().contexts()}
        assert rows["fails"]["exceptions"] == 1 and rows["fails"]["cancellations"] == 0
        assert rows["for_ever"]["cancellations"] == 1 and rows["for_ever"]["exceptions"] == 0


def test_errors_go_through_and_are_recorded():
    kept = []

    async def main():
        async with trace_scope_async() as graph:
            kept.append(graph)
            await fails()

    with pytest.raises(ValueError, match="planned"):
        asyncio.run(main())
    assert calls(kept[0], "fails") == [1]


def test_a_scope_around_the_loop():
    async def main():
        await asyncio.gather(*[nested(i) for i in range(3)])

    with trace_scope() as graph:
        asyncio.run(main())
    assert calls(graph, "nested", "fetch") == [3, 6]
    stats = get_async_stats(graph)
    # main() was begun in the scope, too.
    assert stats["max_concurrent_tasks"] == 4
    assert stats["tasks"] >= 4


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup")
def test_a_task_group():
    async def main():
        async with trace_scope_async() as graph, asyncio.TaskGroup() as group:
            for i in range(5):
                group.create_task(nested(i), name=f"child {i}")
        return graph

    graph = asyncio.run(main())
    assert [span.name for span in graph.spans if span.parent == 0] == [f"child {i}" for i in range(5)]
    assert calls(graph, "nested", "fetch") == [5, 10]
    assert get_async_stats(graph)["max_concurrent_tasks"] == 5


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks")
def test_eager_tasks():
    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with trace_scope_async() as graph:
            await asyncio.gather(decorated(1), fetch(2))
        return graph

    graph = asyncio.run(main())
    assert calls(graph, "decorated", "fetch") == [1, 1]
    assert len([span for span in graph.spans if span.outcome == "finished"]) == 2


def test_uvloop():
    uvloop = pytest.importorskip("uvloop")

    async def main():
        async with trace_scope_async() as graph:
            await gather_traced(*[nested(i) for i in range(4)])
        return graph

    loop = uvloop.new_event_loop()
    try:
        graph = loop.run_until_complete(main())
    finally:
        loop.close()
    assert calls(graph, "nested", "fetch") == [4, 8]
    assert [span.outcome for span in graph.spans if span.parent is not None] == ["finished"] * 4
    assert get_async_stats(graph)["total_queued_time"] > 0


def test_the_timeline_of_tasks():
    async def main():
        async with trace_scope_async() as graph:
            await gather_traced(fetch(1), fetch(2))
        return graph

    graph = asyncio.run(main())
    timeline = graph.timeline
    assert {event["state"] for event in timeline} == {"run", "wait", "queued"}
    for name in ("fetch-0", "fetch-1"):
        mine = [event for event in timeline if event["task"] == name]
        assert [event["state"] for event in mine if event["state"] == "run"] == ["run", "run"]
        assert all(a["end"] <= b["start"] + 1e-9 for a, b in zip(mine, mine[1:]))
    assert get_async_stats(graph)["timeline_events"] == len(timeline) > 0
    running = [event for event in timeline if event["state"] == "run"]
    assert all(a["end"] <= b["start"] + 1e-9 for a, b in zip(running, running[1:])), "one loop runs one task at a time"


def test_the_tracer_as_an_object():
    async def main():
        tracer = AsyncTracer()
        tracer.start()
        await fetch(1)
        tracer.stop()
        await fetch(2)
        async with AsyncTracer() as other:
            await fetch(3)
        return tracer.get_graph(), other.get_graph()

    for graph in asyncio.run(main()):
        assert calls(graph, "fetch") == [1]
        assert get_async_stats(graph)["total_await_time"] > 0


def test_statistics_of_anything():
    with trace_scope() as graph:
        programs.leaf()
    stats = get_async_stats(graph)
    assert stats["total_async_functions"] == stats["max_concurrent_tasks"] == stats["total_async_time"] == 0
    assert stats["efficiency"] == 0.0 and stats["elapsed"] > 0


def test_decorated_coroutines_outside_of_scopes():
    clear_trace()

    async def main():
        await asyncio.gather(*[decorated(i) for i in range(5)])

    asyncio.run(main())
    graph = get_current_graph()
    assert calls(graph, "decorated") == [5]
    clear_trace()
    assert get_current_graph() is None
    assert asyncio.iscoroutinefunction(decorated) if sys.version_info < (3, 14) else True


def test_decorated_async_generators_outside_of_scopes():
    clear_trace()
    marked = trace_async(ticks)

    async def main():
        return [i async for i in marked(3)]

    assert asyncio.run(main()) == [0, 1, 2]
    assert calls(get_current_graph(), "ticks") == [1]
    clear_trace()


def test_only_async_functions():
    with pytest.raises(TypeError, match="is not an async function"):
        trace_async(programs.leaf)


def test_loops_get_their_own_back():
    async def main():
        loop = asyncio.get_running_loop()
        async with trace_scope_async():
            await fetch(1)
            watched = "call_soon" in vars(loop)
        return watched, "call_soon" in vars(loop)

    assert asyncio.run(main()) == (True, False)
    assert not _native._trace_is_armed()
