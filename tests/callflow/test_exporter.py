"""The exporters: functions and classes over `CallGraph.save()`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from known_graphs import graph_of
from spprof.callgraph import load_graph
from spprof.exporter import EXPORTERS, CSVExporter, JSONExporter, SVGExporter, export, export_csv, export_json

GRAPH = {"main": (1, 1.0), "main;work": (3, 2.0)}


def test_export_json(tmp_path: Path) -> None:
    """The example of the documents, whatever the suffix; the graph may also be its dictionary or a file of it."""
    graph = graph_of(GRAPH)
    export_json(graph, tmp_path / "trace.data")
    data = json.loads((tmp_path / "trace.data").read_text())
    assert [node["full_name"] for node in data["nodes"]] == ["app.main", "app.work"]
    for source in (graph.to_dict(), tmp_path / "trace.data"):
        export_json(source, tmp_path / "again.json")
        assert load_graph(tmp_path / "again.json").to_dict() == graph.to_dict()


def test_export_csv(tmp_path: Path) -> None:
    """Two tables."""
    export_csv(graph_of(GRAPH), tmp_path / "t.csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [(row["name"], row["call_count"]) for row in rows] == [("main", "1"), ("work", "3")]
    assert (tmp_path / "t.edges.csv").read_text().splitlines()[1].startswith("app.main,app.work,3,2.0,2.0,")


def test_classes(tmp_path: Path) -> None:
    """Each class writes its format."""
    starts = {JSONExporter: b'{"schema":"spprof-callgraph"', CSVExporter: b"full_name,name,", SVGExporter: b"<svg "}
    for exporter, start in starts.items():
        exporter().export(graph_of(GRAPH), tmp_path / "out")
        assert (tmp_path / "out").read_bytes().startswith(start), exporter
    assert set(EXPORTERS) == {"callgraph", "csv", "svg", "collapsed", "pprof"}
    for name, exporter in EXPORTERS.items():
        exporter().export(graph_of(GRAPH), tmp_path / name)
        assert (tmp_path / name).stat().st_size > 0


def test_bad_arguments(tmp_path: Path) -> None:
    """What is no graph, what is no format, where nothing can be written."""
    with pytest.raises(TypeError, match="expected a call graph"):
        export_json([], tmp_path / "t.json")
    with pytest.raises(ValueError, match="cannot tell a format"):
        export(graph_of(GRAPH), tmp_path / "t.html")
    with pytest.raises(FileNotFoundError):
        export_json(graph_of(GRAPH), tmp_path / "no" / "t.json")
