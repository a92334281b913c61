"""Call graphs into files: functions, and the same as classes with one method.

    export_json(graph, "trace.json")
    CSVExporter().export(graph, "functions.csv")

A graph is whatever `spprof.callgraph.as_graph()` takes: a `CallGraph`, a profile, a dictionary of `to_dict()`, a path.
"""

from __future__ import annotations

from typing import Any, ClassVar, Optional

from .callgraph import PathLike, as_graph


def export(graph: Any, output_file: PathLike, format: Optional[str] = None) -> None:
    """Write a graph to a file; the suffix tells the format, or `format`, as in `CallGraph.save()`.

    Raises:
        TypeError: `graph` is no graph and holds none.
        ValueError: the format is unknown, or the suffix tells none.
        OSError: the file cannot be written.
    """
    as_graph(graph).save(output_file, format)


def export_json(graph: Any, output_file: PathLike) -> None:
    """Write a graph as JSON, without loss: `spprof.callgraph.load_graph()` reads it back. docs/formats.md has the schema."""
    export(graph, output_file, JSONExporter.format)


def export_csv(graph: Any, output_file: PathLike) -> None:
    """Write two tables: the functions to `output_file`, the pairs of caller and callee beside it to `*.edges.csv`."""
    export(graph, output_file, CSVExporter.format)


class Exporter:
    """What writes graphs in one format."""

    format: ClassVar[str]

    def export(self, graph: Any, output_file: PathLike) -> None:
        """Write a graph to a file; raises as `export()`."""
        export(graph, output_file, self.format)


class JSONExporter(Exporter):
    """JSON, without loss."""

    format = "callgraph"


class CSVExporter(Exporter):
    """Two tables: functions and edges."""

    format = "csv"


class SVGExporter(Exporter):
    """A flame graph."""

    format = "svg"


class CollapsedExporter(Exporter):
    """One line a stack, for flame graph tools."""

    format = "collapsed"


class PprofExporter(Exporter):
    """For `go tool pprof` and what reads its format."""

    format = "pprof"


#: By the name of the format.
EXPORTERS: dict[str, type[Exporter]] = {
    exporter.format: exporter for exporter in (JSONExporter, CSVExporter, SVGExporter, CollapsedExporter, PprofExporter)
}
