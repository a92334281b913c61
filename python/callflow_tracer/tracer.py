"""`callflow_tracer.tracer`: re-exports of `spprof.tracing`."""

from spprof.callgraph import CallEdge, CallGraph, CallNode, TraceEdge, TraceNode
from spprof.tracing import CallTracer, clear_trace, get_current_graph, trace, trace_scope

__all__ = [
    "CallEdge",
    "CallGraph",
    "CallNode",
    "CallTracer",
    "TraceEdge",
    "TraceNode",
    "clear_trace",
    "get_current_graph",
    "trace",
    "trace_scope",
]
