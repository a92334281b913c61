"""The call tracer: every call and its time, of all threads, as a graph.

    from spprof.tracing import trace_scope

    with trace_scope() as graph:
        work()
    for node in graph.nodes.values():
        print(node.full_name, node.call_count, node.total_time)

Exact counts, at a cost per call (in the graph's metadata); a sampled profile costs less and sees native code, too.
"""

from __future__ import annotations

import os
import sys
import threading
import types
from typing import Any, Callable, Optional, Union

from . import _native, _scope
from ._marks import clear_marks, marked_graph, trace
from .callgraph import CallEdge, CallGraph, CallNode, CallTreeNode, TraceEdge, TraceNode, format_of

__all__ = [
    "CallEdge",
    "CallGraph",
    "CallNode",
    "CallTracer",
    "CallTreeNode",
    "TraceEdge",
    "TraceNode",
    "clear_trace",
    "get_current_graph",
    "trace",
    "trace_scope",
]

PathLike = Union[str, "os.PathLike[str]"]


class CallTracer:
    """Records calls from `start()` to `stop()`; also a context manager, which gives the tracer.

    Tracers may be nested and may overlap, among themselves and with scopes.
    """

    _graph_class: Callable[..., CallGraph] = CallGraph
    _timeline: Union[bool, int] = False

    def __init__(self, graph: Optional[CallGraph] = None, enabled: bool = True, **options: Any) -> None:
        """
        Args:
            graph: the graph to fill; None makes one.
            enabled: False makes `start()` and `stop()` do nothing.
            options: as of `trace_scope`, without `output_file`.

        Raises:
            TypeError, ValueError: an option is unknown or makes no sense.
        """
        if isinstance(graph, bool):
            graph, enabled = None, graph
        self.enabled = enabled
        self._options = _scope.Options.of(**{"timeline": self._timeline, **options})
        self._graph = graph if graph is not None else self._graph_class()
        self._scope: Optional[_scope.Scope] = None
        self._cpu_seconds = 0.0

    def start(self) -> None:
        """Begins a new recording; without effect while one is on.

        Raises:
            RuntimeError: another tool holds what the interpreter has for tracing; the message names it.
        """
        self._start(sys._getframe(1))

    def _start(self, frame: types.FrameType) -> None:
        if not self.enabled or self._scope is not None:
            return
        scope = _scope.Scope(self._options, self._graph._freeze)
        scope.open(frame)
        self._scope = scope
        self._graph._args = scope.args
        if scope.is_open:
            self._graph._source = scope.profile

    def stop(self) -> None:
        """Ends the recording; without effect while none is on."""
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.close()
            self._cpu_seconds = scope.cpu_seconds

    def __enter__(self) -> CallTracer:
        self._start(sys._getframe(1))
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def is_active(self) -> bool:
        """Whether a recording is on."""
        return self._scope is not None

    def get_graph(self) -> CallGraph:
        """The graph: of the recording that is on, so far, or else of the last one."""
        return self._graph

    def get_call_tree(self) -> CallTreeNode:
        """The calls as a tree, by what was on the stack: `name`, `call_count`, `total_time`, `self_time`, `children`."""
        return self._graph.call_tree()

    def get_statistics(self, limit: int = 10) -> dict[str, Any]:
        """Figures of the recording.

        Args:
            limit: how many functions the two lists hold.

        Returns:
            `total_calls`, `functions`, `wall_time` and `cpu_time` (seconds; the CPU time is the whole process's, and known
            once it has ended), `max_depth`, `threads`, `overhead` (seconds, the estimate that was subtracted),
            `overhead_ns_per_call`, `losses` by reason, `top_self` and `top_total` (lists of full name and seconds).
        """
        meta = self._graph.metadata
        nodes = list(self._graph.nodes.values()) if "calls" in self._graph.columns else []

        def top(attribute: str) -> list[tuple[str, float]]:
            ranked = sorted(nodes, key=lambda node: -getattr(node, attribute))
            return [(node.full_name, getattr(node, attribute)) for node in ranked[:limit]]

        return {
            "total_calls": sum(node.call_count for node in nodes),
            "functions": len(nodes),
            "wall_time": meta["duration_ns"] / 1e9,
            "cpu_time": self._cpu_seconds,
            "max_depth": meta["max_depth"],
            "threads": len(self._graph._to_native().threads()),
            "overhead": meta["overhead_ns"] / 1e9,
            "overhead_ns_per_call": meta["overhead_ns_per_call"],
            "losses": meta["losses"],
            "top_self": top("self_time"),
            "top_total": top("total_time"),
        }


class trace_scope:
    """Traces the calls inside a `with` block; gives the graph, which fills meanwhile and is complete at its end.

    A scope in a scope has a graph of its own; the outer one has those calls, too. Nothing is lost when the block raises.
    """

    _tracer: Callable[..., CallTracer] = CallTracer

    def __init__(
        self,
        output_file: Optional[PathLike] = None,
        *,
        format: Optional[str] = None,
        **options: Any,
    ) -> None:
        """
        Args:
            output_file: written at the end, also when the block raises; the suffix tells the format.
            format: the format, whatever the suffix.
            include_modules, exclude_modules: module names, each with its submodules, or paths; `*` and `?` as in file names.
                What is left out is switched off where its events arise, and its time counts as its caller's.
            c_functions: functions of extensions and of the interpreter, too.
            max_depth: calls on top of each other, counted from the block's function; deeper ones count as their caller's time.
            min_duration_ms: shorter calls are left out, and their time counts as their caller's.
            sampling_rate: the share of scopes that record anything, from 0 to 1.
            threads: "all", or "current" for the calling thread alone.
            timeline: True, or how many intervals of calls to keep a thread, the newest.
            include_args: keep the arguments of each function's last calls, as texts of at most 100 characters.
            redact: `redact(name, value)` gives what is shown in place of an argument's value.
            memory_limit_mb: for the trees of calls of one thread, about; beyond it, new contexts count as their caller's time.

        Raises:
            TypeError, ValueError: an option is unknown or makes no sense, or the suffix tells no format.
        """
        self._output_file = output_file
        self._format = format
        if output_file is not None and format is None:
            self._format = format_of(output_file)
        if self._format == "chrome" or str(output_file).endswith(".speedscope.json"):
            options.setdefault("timeline", True)
        self._made = self._tracer(**options)
        self._lock = threading.Lock()

    def __enter__(self) -> CallGraph:
        return self._enter(sys._getframe(1))

    def _enter(self, frame: types.FrameType) -> CallGraph:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("this scope is open already; a scope in a scope is another trace_scope()")
        try:
            self._made._start(frame)
        except BaseException:
            self._lock.release()
            raise
        return self._made.get_graph()

    def __exit__(self, *_: object) -> None:
        self._made.stop()
        graph, self._made._graph = self._made._graph, self._made._graph_class()
        self._lock.release()
        if self._output_file is not None:
            graph.save(self._output_file, self._format)


def get_current_graph() -> Optional[CallGraph]:
    """The graph of the scope that the calling code is in; outside of any, the one of the functions that `@trace` marks, if
    they were called; else None."""
    scope = _scope.current()
    if scope is not None and scope.is_open:
        owner = getattr(scope.on_close, "__self__", None)
        if isinstance(owner, CallGraph):
            return owner
    return marked_graph()


def clear_trace() -> None:
    """Forgets what the current scope has recorded, or else what `@trace` has outside of scopes. Tracing goes on."""
    scope = _scope.current()
    if scope is not None:
        scope.restart()
    else:
        clear_marks()


def tracing_engine() -> str:
    """What this interpreter's events come from: "monitoring" (`sys.monitoring`, 3.12 on) or "setprofile"."""
    return _native._trace_engine()
