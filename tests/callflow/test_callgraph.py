"""`CallGraph`, `CallNode`, `CallEdge`: what they say, by example, and that nothing is made up."""

from __future__ import annotations

import copy
import csv
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import spprof
from known_graphs import graph_of, sampled
from spprof.callgraph import (
    CallEdge,
    CallGraph,
    CallNode,
    TraceEdge,
    TraceNode,
    as_graph,
    load_graph,
)

# main 1 s of its own; fib: 4 calls from main of 2 s, and below that itself, 6 calls of 3 s; leaf 0.5 s.
FIB = {"main": (1, 1.0), "main;fib": (4, 2.0), "main;fib;fib": (6, 3.0), "main;fib;fib;leaf": (5, 0.5)}


def test_nodes() -> None:
    """Names, counts and times; a function that calls itself counts its time once."""
    graph = graph_of(FIB, duration=6.5)
    assert list(graph.nodes) == ["app.main", "app.fib", "app.leaf"]
    fib = graph.nodes["app.fib"]
    assert isinstance(fib, CallNode) and isinstance(fib, TraceNode)
    assert (fib.name, fib.full_name, fib.module, fib.file, fib.line) == ("fib", "app.fib", "app", "/src/app.py", 20)
    assert (fib.call_count, fib.primitive_calls) == (10, 4)
    assert (fib.total_time, fib.self_time, fib.avg_time) == (5.5, 5.0, 0.55)
    assert fib.args == []
    assert graph.total_time == 6.5 == graph.duration
    assert graph.columns == ("calls", "self_ns")


def test_edges_are_a_list_that_knows_its_keys() -> None:
    """By number, by slice, by (caller, callee), in a loop."""
    graph = graph_of(FIB)
    assert [(edge.caller, edge.callee, edge.call_count, edge.total_time) for edge in graph.edges] == [
        ("app.main", "app.fib", 4, 5.5),
        ("app.fib", "app.fib", 6, 3.5),
        ("app.fib", "app.leaf", 5, 0.5),
    ]
    edge = graph.edges["app.main", "app.fib"]
    assert isinstance(edge, CallEdge) and isinstance(edge, TraceEdge) and edge is graph.edges[0]
    assert edge in graph.edges and ("app.main", "app.fib") in graph.edges and ("app.fib", "app.main") not in graph.edges
    assert (len(graph.edges), len(graph.edges[1:])) == (3, 2)
    assert graph.edges.get("app.leaf", "app.main") is None
    with pytest.raises(KeyError):
        graph.edges["app.leaf", "app.main"]


def test_call_tree() -> None:
    """Chains of calls, longest first, from the stacks and not from the edges."""
    graph = graph_of({"a;x;b": (1, 1.0), "c;x;d": (1, 2.0)})
    lines = [(depth, node.name, node.call_count, node.total_time) for depth, node in graph.call_tree().walk()]
    assert lines == [
        (0, "<root>", 0, 3.0),
        (1, "app.c", 0, 2.0),
        (2, "app.x", 0, 2.0),
        (3, "app.d", 1, 2.0),
        (1, "app.a", 0, 1.0),
        (2, "app.x", 0, 1.0),
        (3, "app.b", 1, 1.0),
    ]


def test_to_dict() -> None:
    """The keys of the documents, and what belongs to them."""
    data = graph_of(FIB, duration=6.5, argv=["x.py"], python_version="3.12.1").to_dict()
    assert (data["schema"], data["version"]) == ("spprof-callgraph", 1)
    assert data["metadata"]["duration"] == 6.5
    assert (data["metadata"]["source"], data["metadata"]["python"], data["metadata"]["argv"]) == ("trace", "3.12.1", ["x.py"])
    fib = data["nodes"][1]
    assert {key: fib[key] for key in ("id", "name", "full_name", "module", "file", "line", "call_count")} == {
        "id": 1, "name": "fib", "full_name": "app.fib", "module": "app", "file": "/src/app.py", "line": 20, "call_count": 10,
    }  # fmt: skip
    assert (fib["total_time"], fib["self_time"], fib["avg_time"]) == (5.5, 5.0, 0.55)
    edge = data["edges"][0]
    keys = ("caller", "callee", "call_count", "total_time", "avg_time")
    assert [edge[key] for key in keys] == ["app.main", "app.fib", 4, 5.5, 1.375]


def test_dictionaries_come_back_without_loss() -> None:
    """Through JSON, from_dict, pickle and copy: the same dictionary to the last digit."""
    graph = graph_of({**FIB, "main;\ud800": (1, 0.1 + 0.2)}, delivered_rate_hz=997.0091357)
    data = graph.to_dict()
    again = CallGraph.from_dict(json.loads(json.dumps(data)))
    assert again.to_dict() == data
    assert pickle.loads(pickle.dumps(graph)).to_dict() == copy.copy(graph).to_dict() == data
    assert again.nodes["app.\ud800"].self_time == graph.nodes["app.\ud800"].self_time


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"nodes": [], "edges": []}, "it has no 'schema'"),
        ({"schema": "other", "nodes": []}, "its schema is 'other'"),
        ({**graph_of(FIB).to_dict(), "version": 7}, "version 7; this reads spprof-callgraph version 1"),
        ({**graph_of(FIB).to_dict(), "tree": {}}, "missing field"),
    ],
)
def test_foreign_dictionaries_are_refused(data: dict[str, Any], told: str) -> None:
    """No dictionary is half understood."""
    with pytest.raises(spprof.LoadError, match="no call graph made by") as caught:
        CallGraph.from_dict(data)
    assert told in str(caught.value)


def test_a_sampled_profile_has_no_calls() -> None:
    """What samples cannot tell raises with the reason, is None in dictionaries, and never 0."""
    graph = sampled({"main;work": (40, 0.4), "main": (10, 0.1)})
    work = graph.nodes["app.work"]
    assert (work.total_time, work.samples) == (0.4, 40)
    for attribute in ("call_count", "avg_time", "primitive_calls"):
        with pytest.raises(spprof.MissingColumnError, match="holds samples, in which calls cannot be counted"):
            getattr(work, attribute)
    assert not hasattr(graph.edges[0], "call_count")
    row = graph.to_dict()["nodes"][1]
    assert row["call_count"] is row["avg_time"] is None and row["samples"] == 40
    with pytest.raises(spprof.MissingColumnError, match="holds calls, not samples"):
        _ = graph_of(FIB).nodes["app.fib"].samples


def test_of_a_real_profile(tmp_path: Path) -> None:
    """`profile.call_graph()`: the functions that ran, with their time and without calls; lost with no file format."""

    def inner() -> None:
        end = spprof.stats().collected_samples + 5  # type: ignore[union-attr]
        while spprof.stats().collected_samples < end:  # type: ignore[union-attr]
            sum(range(1000))

    def outer() -> None:
        inner()

    with spprof.Profiler(interval_ms=1) as profiler:
        outer()
    profile = profiler.profile
    graph = profile.call_graph()
    names = {node.name: node for node in graph.nodes.values()}
    assert names["outer"].total_time >= names["inner"].total_time > 0
    assert names["inner"].samples >= 5 and names["inner"].module == "test_callgraph"
    edge = next(edge for edge in graph.edges if edge.callee == names["inner"].full_name)
    assert edge.caller == names["outer"].full_name
    assert graph.total_time == pytest.approx(profile.metadata["weight_ns"] / 1e9)
    assert graph.metadata["source"] == "samples" and graph.metadata["time"] == "cpu_ns"
    profile.save(tmp_path / "p.spprof")
    assert load_graph(tmp_path / "p.spprof").to_dict() == graph.to_dict()


@pytest.mark.parametrize("suffix", [".json", ".spprof", ".pb.gz"])
def test_files_that_come_back(tmp_path: Path, suffix: str) -> None:
    """Functions, calls, times and edges through a file."""
    graph = graph_of(FIB, duration=6.5)
    graph.save(tmp_path / f"g{suffix}")
    again = load_graph(tmp_path / f"g{suffix}")

    def shape(graph: CallGraph) -> Any:
        nodes = [(node.name, node.call_count, node.total_time, node.self_time) for node in graph.nodes.values()]
        return sorted(nodes), sorted((edge.call_count, edge.total_time) for edge in graph.edges)

    assert shape(again) == shape(graph)
    if suffix != ".pb.gz":
        assert again.to_dict() == graph.to_dict()


def test_csv(tmp_path: Path) -> None:
    """Two tables, longest time first; what is not known is empty."""
    graph_of(FIB).save(tmp_path / "g.csv")
    nodes = list(csv.DictReader((tmp_path / "g.csv").read_text().splitlines()))
    edges = list(csv.DictReader((tmp_path / "g.edges.csv").read_text().splitlines()))
    assert [(row["full_name"], row["call_count"], float(row["total_time"]), row["samples"]) for row in nodes] == [
        ("app.main", "1", 6.5, ""),
        ("app.fib", "10", 5.5, ""),
        ("app.leaf", "5", 0.5, ""),
    ]
    assert {(row["caller"], row["callee"], row["call_count"]) for row in edges} == {
        ("app.main", "app.fib", "4"),
        ("app.fib", "app.fib", "6"),
        ("app.fib", "app.leaf", "5"),
    }


def test_collapsed_and_svg(tmp_path: Path) -> None:
    """Stacks weighed by microseconds of their own; the flame graph has the functions."""
    graph = graph_of(FIB)
    graph.save(tmp_path / "g.folded")
    assert (tmp_path / "g.folded").read_text().splitlines() == [
        "main 1000000",
        "main;fib 2000000",
        "main;fib;fib 3000000",
        "main;fib;fib;leaf 500000",
    ]
    graph.save(tmp_path / "g.svg")
    assert "fib" in (tmp_path / "g.svg").read_text()


def test_unknown_suffixes_are_told(tmp_path: Path) -> None:
    """A format that is not there is named before anything is written."""
    with pytest.raises(ValueError, match=r"suffix of '.*g.xyz'.*\.json"):
        graph_of(FIB).save(tmp_path / "g.xyz")
    with pytest.raises(ValueError, match="Unknown format: toml"):
        graph_of(FIB).save(tmp_path / "g.json", "toml")
    assert list(tmp_path.iterdir()) == []


def test_arguments_are_kept_in_files(tmp_path: Path) -> None:
    """The arguments that a trace kept come back with the graph."""
    data = graph_of(FIB).to_dict()
    data["nodes"][1]["args"] = [["n=3"], ["n=2"]]
    graph = CallGraph.from_dict(data)
    graph.save(tmp_path / "g.json")
    again = load_graph(tmp_path / "g.json")
    assert again.nodes["app.fib"].args == again.nodes["app.fib"].arguments == [["n=3"], ["n=2"]]
    assert again.to_dict() == data


def test_empty_and_live() -> None:
    """A graph of nothing is one; a graph with a source shows what the source gives, until it is frozen."""
    assert (len(CallGraph().nodes), len(CallGraph().edges), CallGraph().to_dict()["nodes"]) == (0, 0, [])
    first, second = graph_of({"a": (1, 1.0)})._native, graph_of({"a": (1, 1.0), "b": (1, 1.0)})._native
    now = [first]
    graph = CallGraph(source=lambda: now[0])
    assert list(graph.nodes) == ["app.a"]
    now[0] = second
    assert list(graph.nodes) == ["app.a", "app.b"]
    graph._freeze(first)
    assert list(graph.nodes) == ["app.a"]


def test_whatever_holds_a_graph(tmp_path: Path) -> None:
    """Graphs, dictionaries, paths and what has a `call_graph()`; the rest is told."""
    graph = graph_of(FIB)
    graph.save(tmp_path / "g.json")

    class Holder:
        def call_graph(self) -> CallGraph:
            return graph

    for source in (graph, graph.to_dict(), tmp_path / "g.json", str(tmp_path / "g.json"), Holder(), graph._native):
        assert as_graph(source).to_dict() == graph.to_dict()
    with pytest.raises(TypeError, match=r"expected a call graph, a profile.* not int"):
        as_graph(3)
