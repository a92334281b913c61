"""The timeline of a trace in files: what began when, inside what, on which thread."""

from __future__ import annotations

import asyncio
import json
import threading

import programs
import pytest
from spprof.async_tracing import gather_traced, get_async_stats, trace_scope_async
from spprof.callgraph import load_graph
from spprof.tracing import trace_scope


def work():
    programs.middle(3)
    programs.catches()


def traced(path, **options):
    with trace_scope(path, **options) as graph:
        work()
        worker = threading.Thread(target=programs.middle, args=(2,), name="helper")
        worker.start()
        worker.join()
    return graph


def test_perfetto(tmp_path):
    graph = traced(tmp_path / "trace.perfetto.json")
    events = json.loads((tmp_path / "trace.perfetto.json").read_text())["traceEvents"]
    calls = [event for event in events if event["ph"] == "X"]
    leaves = [event for event in calls if event["name"] == "leaf"]
    # Three and two by middle(), one by catches().
    assert len(leaves) == graph.nodes["programs.leaf"].call_count == 6
    assert len({event["tid"] for event in leaves}) == 2
    named = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert "MainThread" in named.values()
    for event in leaves:
        assert event["args"]["file"].endswith("programs.py")
        around = [
            other["name"]
            for other in calls
            if other["tid"] == event["tid"]
            and other is not event
            and other["ts"] <= event["ts"]
            and event["ts"] + event["dur"] <= other["ts"] + other["dur"]
        ]
        assert {"middle", "catches"} & set(around)


def test_speedscope(tmp_path):
    traced(tmp_path / "trace.speedscope.json")
    data = json.loads((tmp_path / "trace.speedscope.json").read_text())
    assert [profile["type"] for profile in data["profiles"]] == ["evented", "evented"]
    names = [frame["name"] for frame in data["shared"]["frames"]]
    opened = []
    for profile in data["profiles"]:
        stack, now = [], profile["startValue"]
        for event in profile["events"]:
            assert event["at"] >= now
            now = event["at"]
            if event["type"] == "O":
                stack.append(event["frame"])
                opened.append(names[event["frame"]])
            else:
                assert stack.pop() == event["frame"]
        assert not stack and now == profile["endValue"]
    assert opened.count("leaf") == 6 and opened.count("work") == 1


def test_no_timeline_to_write(tmp_path):
    with trace_scope() as graph:
        work()
    with pytest.raises((OSError, ValueError), match="timeline=True"):
        graph.save(tmp_path / "graph.trace.json")


def test_a_full_ring_is_counted():
    with trace_scope(timeline=10) as graph:
        programs.middle(50)
    spans = graph._to_native().spans()
    assert len(spans) == 10
    assert graph.metadata["losses"]["timeline_full"] >= 41
    # The newest are kept, and the counts are not concerned.
    assert spans[-1][1] == "middle"
    assert graph.nodes["programs.leaf"].call_count == 50


def test_tasks_go_through_files(tmp_path):
    async def sleeps():
        await asyncio.sleep(0.001)

    async def main():
        async with trace_scope_async() as graph:
            await gather_traced(sleeps(), sleeps())
        return graph

    graph = asyncio.run(main())
    graph.save(tmp_path / "tasks.spprof")
    again = load_graph(tmp_path / "tasks.spprof")
    assert again._to_native().tasks() == graph._to_native().tasks()
    assert sorted(again._to_native().spans()) == sorted(graph._to_native().spans())
    assert get_async_stats(tmp_path / "tasks.spprof") == get_async_stats(graph)
    graph.save(tmp_path / "tasks.perfetto.json")
    events = json.loads((tmp_path / "tasks.perfetto.json").read_text())["traceEvents"]
    assert {event["name"] for event in events if event.get("cat") == "task"} == {"run", "wait", "queued"}
    tracks = [event["args"]["name"] for event in events if event["ph"] == "M"]
    assert "task test_tasks_go_through_files.<locals>.sleeps-0" in tracks
