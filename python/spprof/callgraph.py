"""`CallGraph`, `CallNode`, `CallEdge`: who called whom, how often and for how long.

Views of a native profile, which is folded by function when somebody looks: a trace (`spprof.tracing`) or a sampled profile
(`profile.call_graph()`). What a profile does not know raises `MissingColumnError` here and is None in dictionaries;
it is never 0. A function that calls itself counts its time once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable, NamedTuple, Optional, Union, overload

from . import _native
from ._errors import LoadError, MissingColumnError

PathLike = Union[str, "os.PathLike[str]"]
SCHEMA = "spprof-callgraph"
#: Suffix to format, the longest first; `save()` and whoever saves a graph at its end go by it.
SUFFIXES = {
    ".speedscope.json": "speedscope",
    ".perfetto.json": "chrome",
    ".trace.json": "chrome",
    ".json": "callgraph",
    ".csv": "csv",
    ".collapsed": "collapsed",
    ".folded": "collapsed",
    ".txt": "collapsed",
    ".pb.gz": "pprof",
    ".pprof": "pprof",
    ".svg": "svg",
    ".spprof": "spprof",
}
FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))
WHY_MISSING = {
    "calls": "this profile holds samples, in which calls cannot be counted; record it with spprof.tracing.trace_scope()",
    "time": "this profile holds no times",
    "samples": "this profile is a trace: it holds calls, not samples",
}


def format_of(path: PathLike) -> str:
    """The format that a path's suffix asks for.

    Raises:
        ValueError: the suffix is none of those that are known.
    """
    name = os.path.basename(os.fsdecode(path)).lower()
    for suffix, format in SUFFIXES.items():
        if name.endswith(suffix):
            return format
    raise ValueError(f"cannot tell a format from the suffix of {os.fsdecode(path)!r}: use one of {', '.join(SUFFIXES)}")


class _Measured:
    """What nodes and edges have in common: own and total values by column."""

    __slots__ = ("_own", "_total", "_view")

    def __init__(self, view: _View, own: list[int], total: list[int]) -> None:
        self._view = view
        self._own = own
        self._total = total

    def _value(self, column: Optional[str], values: list[int], what: str) -> int:
        place = self._view.places.get(column or "")
        if place is None:
            reason = WHY_MISSING.get(what, "it was not recorded")
            raise MissingColumnError(f"{what}: {reason}")
        return values[place]

    def value(self, column: str, *, total: bool = False) -> int:
        """A value by the name of its column (`graph.columns`): its own, or with all that was called from here.

        Raises:
            MissingColumnError: the graph has no such column.
        """
        return self._value(column, self._total if total else self._own, column)

    @property
    def call_count(self) -> int:
        """How many calls; a generator or coroutine counts once, however often it is resumed."""
        return self._value("calls", self._own, "calls")

    @property
    def total_time(self) -> float:
        """Seconds in it and in what it called; under recursion counted once."""
        return self._value(self._view.time_column, self._total, "time") / 1e9

    @property
    def self_time(self) -> float:
        """Seconds in it, without what it called."""
        return self._value(self._view.time_column, self._own, "time") / 1e9

    @property
    def avg_time(self) -> float:
        """`total_time` a call; 0.0 when it was never called (its call began before the trace)."""
        calls = self.call_count
        return self.total_time / calls if calls else 0.0

    @property
    def samples(self) -> int:
        """How many samples show it, or what it called."""
        return self._value("samples", self._total, "samples")

    def _dict(self) -> dict[str, Any]:
        """The keys that files have, with None for what is missing."""
        keys = ("call_count", "total_time", "self_time", "avg_time")
        return {key: getattr(self, key, None) for key in keys}


class CallNode(_Measured):
    """A function of the call graph."""

    __slots__ = ("_row", "id")

    def __init__(self, view: _View, id: int, row: Sequence[Any]) -> None:
        super().__init__(view, row[6], row[7])
        self._row = row
        #: Position among the graph's nodes.
        self.id = id

    @property
    def name(self) -> str:
        """The function's name alone."""
        name: str = self.qualname.rpartition(".")[2]
        return name

    @property
    def full_name(self) -> str:
        """Module and qualified name, made different from every other node's by its line where that is needed."""
        name: str = self._row[0]
        return name

    @property
    def qualname(self) -> str:
        """The qualified name, as `Class.method`; before Python 3.11 code objects know only the name."""
        name: str = self._row[1]
        return name

    @property
    def module(self) -> str:
        """The module; read from the file's path where it was not recorded."""
        module: str = self._row[2]
        return module

    @property
    def file(self) -> str:
        """The source file; empty for what has none."""
        file: str = self._row[3]
        return file

    @property
    def line(self) -> int:
        """The line the function begins at; 0 when unknown."""
        line: int = self._row[4]
        return line

    @property
    def kind(self) -> str:
        """`python`, `native`, `generator`, `coroutine`..., or `synthetic`: made by the profiler to show a loss."""
        kind: str = self._row[5]
        return kind

    @property
    def primitive_calls(self) -> int:
        """Calls that were not made, directly or through others, by the function itself."""
        self._value("calls", self._own, "calls")
        calls: int = self._row[8]
        return calls

    @property
    def args(self) -> list[Any]:
        """The last arguments, shortened; empty unless the trace was made with `include_args=True`."""
        return self._view.args.get(self.full_name, [])

    @property
    def arguments(self) -> list[Any]:
        """Another name of `args`."""
        return self.args

    def to_dict(self) -> dict[str, Any]:
        """As in `CallGraph.to_dict()["nodes"]`, without what only that has."""
        keys = ("id", "name", "full_name", "qualname", "module", "file", "kind", "line")
        return {**{key: getattr(self, key) for key in keys}, **self._dict(), "args": self.args}

    def __repr__(self) -> str:
        return f"<CallNode {self.full_name}>"


class CallEdge(_Measured):
    """A pair of functions of which one called the other; its values are the callee's, when called from there."""

    __slots__ = ("_callee", "_caller")

    def __init__(self, view: _View, row: Sequence[Any]) -> None:
        super().__init__(view, row[2], row[3])
        self._caller: int = row[0]
        self._callee: int = row[1]

    @property
    def caller(self) -> str:
        """The full name of the calling function."""
        return self._view.names[self._caller]

    @property
    def callee(self) -> str:
        """The full name of the called function."""
        return self._view.names[self._callee]

    def to_dict(self) -> dict[str, Any]:
        """As in `CallGraph.to_dict()["edges"]`, without what only that has."""
        return {"caller": self.caller, "callee": self.callee, **self._dict()}

    def __repr__(self) -> str:
        return f"<CallEdge {self.caller} -> {self.callee}>"


#: The names in other documents.
TraceNode = CallNode
TraceEdge = CallEdge


class CallEdges(Sequence[CallEdge]):
    """The edges as a list, which also answers `edges[(caller, callee)]`, by full names."""

    def __init__(self, edges: list[CallEdge]) -> None:
        self._list = edges
        self._by_key = {(edge.caller, edge.callee): edge for edge in edges}

    def __len__(self) -> int:
        return len(self._list)

    @overload
    def __getitem__(self, index: Union[int, tuple[str, str]]) -> CallEdge: ...
    @overload
    def __getitem__(self, index: slice) -> list[CallEdge]: ...
    def __getitem__(self, index: Any) -> Any:
        return self._by_key[index] if isinstance(index, tuple) else self._list[index]

    def __iter__(self) -> Iterator[CallEdge]:
        return iter(self._list)

    def __contains__(self, item: object) -> bool:
        return item in self._by_key if isinstance(item, tuple) else item in self._list

    def get(self, caller: str, callee: str) -> Optional[CallEdge]:
        """The edge from one function to another; None when there is none."""
        return self._by_key.get((caller, callee))

    def __repr__(self) -> str:
        return f"<{len(self)} edges>"


class CallTreeNode(_Measured):
    """A chain of calls: a function, called through these and no other functions."""

    __slots__ = ("children", "node")

    def __init__(self, view: _View, node: Optional[CallNode], own: list[int], total: list[int]) -> None:
        super().__init__(view, own, total)
        #: The function; None at the root.
        self.node = node
        #: What it called, longest first.
        self.children: list[CallTreeNode] = []

    @property
    def name(self) -> str:
        """The function's full name; `<root>` at the root."""
        return self.node.full_name if self.node is not None else "<root>"

    def walk(self) -> Iterator[tuple[int, CallTreeNode]]:
        """(depth, node) for this node and all below it, a parent before its children."""
        stack = [(0, self)]
        while stack:
            depth, node = stack.pop()
            yield depth, node
            stack.extend((depth + 1, child) for child in reversed(node.children))

    def __repr__(self) -> str:
        return f"<CallTreeNode {self.name}, {len(self.children)} children>"


class _View(NamedTuple):
    """What one look at the native profile gives."""

    native: _native.NativeProfile
    graph: _native.NativeGraph
    places: dict[str, int]
    time_column: Optional[str]
    names: list[str]
    rows: list[tuple[Any, ...]]
    args: Mapping[str, list[Any]]


class CallGraph:
    """Functions and their calls.

    Made by `trace_scope()`, `profile.call_graph()`, `CallGraph.from_dict()` and `load_graph()`. The graph of a scope that
    is still open shows what has happened so far, and stays as it was at the scope's end.
    """

    def __init__(
        self,
        native: Optional[_native.NativeProfile] = None,
        *,
        source: Optional[Callable[[], _native.NativeProfile]] = None,
        args: Optional[Mapping[str, list[Any]]] = None,
    ) -> None:
        """
        Args:
            native: the profile to show; None for an empty graph.
            source: gives the profile as it is now, for graphs that are still being recorded.
            args: the arguments that were kept, by full name.
        """
        self._native = native if native is not None else _empty()
        self._source = source
        self._args: Mapping[str, list[Any]] = args if args is not None else {}
        self._seen: Optional[_View] = None
        self._nodes: Optional[dict[str, CallNode]] = None
        self._edges: Optional[CallEdges] = None

    def _freeze(self, native: _native.NativeProfile) -> None:
        """The recording has ended, with this."""
        self._native, self._source = native, None

    def _to_native(self) -> _native.NativeProfile:
        if self._source is not None:
            self._native = self._source()
        return self._native

    def _view(self) -> _View:
        native = self._to_native()
        if self._seen is None or self._seen.native is not native:
            graph = _native.NativeGraph(native)
            rows = graph.nodes()
            places = {column: place for place, column in enumerate(graph.columns)}
            names = [row[0] for row in rows]
            self._seen = _View(native, graph, places, graph.time_column, names, rows, self._args)
            self._nodes = self._edges = None
        return self._seen

    @property
    def nodes(self) -> dict[str, CallNode]:
        """The functions, by full name."""
        view = self._view()
        if self._nodes is None:
            self._nodes = {row[0]: CallNode(view, id, row) for id, row in enumerate(view.rows)}
        return self._nodes

    @property
    def edges(self) -> CallEdges:
        """Who called whom: a list, and `edges[(caller, callee)]`."""
        view = self._view()
        if self._edges is None:
            self._edges = CallEdges([CallEdge(view, row) for row in view.graph.edges()])
        return self._edges

    @property
    def columns(self) -> tuple[str, ...]:
        """What is known of each function: `calls`, `self_ns`, `samples`, `cpu_ns`..."""
        return tuple(self._view().places)

    @property
    def metadata(self) -> dict[str, Any]:
        """What is known of the recording: `duration` (seconds), `source` (`trace` or `samples`), `python`, `platform`..."""
        view = self._view()
        meta = view.native.metadata()
        return {
            "duration": meta["duration_ns"] / 1e9,
            "start": meta["start_unix_ns"] / 1e9,
            "source": "trace" if "calls" in view.places and "samples" not in view.places else "samples",
            "time": view.time_column,
            "python": meta["python_version"],
            "platform": meta["platform"],
            "argv": meta["argv"],
            "threads": len(view.native.threads()),
            "columns": list(view.places),
            "overhead": meta["overhead_ns"] / 1e9,
            **meta,
        }

    @property
    def total_time(self) -> float:
        """Seconds in all: the self times of all functions together. With several threads it may exceed the duration."""
        return self.call_tree().total_time

    @property
    def duration(self) -> float:
        """Seconds by the clock on the wall, from start to end."""
        duration: float = self._to_native().metadata()["duration_ns"] / 1e9
        return duration

    def call_tree(self) -> CallTreeNode:
        """The calls as a tree, from what was on the stack: nothing is guessed from the edges."""
        view = self._view()
        nodes = list(self.nodes.values())
        made: list[CallTreeNode] = []
        for parent, node, own, total in view.graph.tree():
            made.append(CallTreeNode(view, nodes[node] if made else None, own, total))
            if len(made) > 1:
                made[parent].children.append(made[-1])
        place = view.places.get(view.time_column or "", 0)
        for branch in made:
            branch.children.sort(key=lambda child: -child._total[place] if child._total else 0)
        return made[0]

    def to_dict(self) -> dict[str, Any]:
        """The graph as plain data, without loss: `nodes`, `edges` and `metadata` to look at, `tree` to make it again from.

        Times are in seconds, in `tree` in nanoseconds. What is not known is None. docs/formats.md has the schema.
        """
        data: dict[str, Any] = json.loads(self._to_native().to_bytes("callgraph"))
        for node in data["nodes"]:
            node["args"] = list(self._args.get(node["full_name"], []))
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CallGraph:
        """A graph from what `to_dict()` gave.

        Raises:
            LoadError: it is something else.
        """
        try:
            if data["schema"] != SCHEMA:
                raise ValueError(f"its schema is {data['schema']!r}")
            native = _native._load_bytes(json.dumps(data).encode())
        except KeyError as error:
            raise LoadError(f"this is no call graph made by CallGraph.to_dict(): it has no {error}") from None
        except (TypeError, ValueError) as error:
            raise LoadError(f"this is no call graph made by CallGraph.to_dict(): {error}") from None
        args = {node["full_name"]: node["args"] for node in data["nodes"] if node.get("args")}
        return cls(native, args=args)

    def save(self, path: PathLike, format: Optional[str] = None) -> None:
        """Write the graph to a file, whole or not at all.

        Args:
            path: the file. Of CSV there are two: the functions, and beside it the edges in `*.edges.csv`.
            format: `callgraph` (JSON), `csv`, `collapsed`, `pprof`, `svg`, `speedscope` or `spprof`; None goes by the suffix.

        Raises:
            ValueError: the format is unknown, or the suffix tells none.
            OSError: the file cannot be written.
        """
        format = format_of(path) if format is None else format
        if format not in FORMATS:
            raise ValueError(f"Unknown format: {format} (choose from {', '.join(FORMATS)})")
        if format == "csv":
            from ._tables import edges_csv, nodes_csv

            file = os.fsdecode(path)
            stem = file[: -len(".csv")] if file.lower().endswith(".csv") else file
            for name, text in ((file, nodes_csv(self)), (f"{stem}.edges.csv", edges_csv(self))):
                _native._write_whole(name, text.encode("utf-8", "backslashreplace"))
        elif format == "callgraph" and self._args:
            _native._write_whole(os.fsdecode(path), (json.dumps(self.to_dict()) + "\n").encode())
        else:
            self._to_native().write(os.fsdecode(path), format)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.nodes)} functions and {len(self.edges)} edges>"

    def __reduce__(self) -> Any:
        return CallGraph.from_dict, (self.to_dict(),)


def load_graph(path: PathLike) -> CallGraph:
    """A graph from a file of any format that can be read: call-graph JSON, `.spprof`, speedscope, pprof, collapsed.

    Raises:
        LoadError: the file is foreign, truncated or damaged.
        OSError: it cannot be read.
    """
    file = os.fsdecode(path)
    try:
        native = _native._load(file)
    except ValueError as error:
        raise LoadError(str(error)) from None
    return CallGraph(native, args=_kept_args(file))


def _kept_args(file: str) -> dict[str, list[Any]]:
    """The arguments in a call-graph file: they are not part of the native profile."""
    with open(file, "rb") as stream:
        if not stream.read(1).startswith(b"{"):
            return {}
        text = b"{" + stream.read()
    if SCHEMA.encode() not in text or b'"args"' not in text:
        return {}
    return {node["full_name"]: node["args"] for node in json.loads(text).get("nodes", ()) if node.get("args")}


def as_graph(source: Any) -> CallGraph:
    """A graph from whatever holds one: a graph, a profile, a dictionary of `to_dict()`, a path.

    Raises:
        TypeError: it holds none.
        LoadError: the dictionary or file is something else.
    """
    if isinstance(source, CallGraph):
        return source
    if isinstance(source, _native.NativeProfile):
        return CallGraph(source)
    if isinstance(source, Mapping) and "nodes" in source:
        return CallGraph.from_dict(source)
    if isinstance(source, (str, os.PathLike)):
        return load_graph(source)
    for attribute in ("call_graph", "get_graph"):
        made = getattr(source, attribute, None)
        if callable(made):
            graph = made()
            if isinstance(graph, CallGraph):
                return graph
    raise TypeError(f"expected a call graph, a profile, a dictionary of to_dict() or a path, not {type(source).__name__}")


def _empty() -> _native.NativeProfile:
    return _native._build_profile(
        (), interval_ns=0, start_unix_ns=0, duration_ns=0, dropped_samples=0, python_version="", platform="", clock="wall"
    )
