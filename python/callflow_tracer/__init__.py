"""spprof's call tracing under the names of `callflow_tracer`: re-exports of `spprof` and nothing else."""

from spprof.async_tracing import AsyncCallGraph, gather_traced, get_async_stats, trace_async, trace_scope_async
from spprof.callgraph import CallEdge, CallGraph, CallNode
from spprof.comparison import compare_graphs
from spprof.exporter import export_csv, export_json
from spprof.profiling import PerformanceStats, get_memory_usage, profile_function, profile_section
from spprof.tracing import CallTracer, clear_trace, get_current_graph, trace, trace_scope

__all__ = [
    "AsyncCallGraph",
    "CallEdge",
    "CallGraph",
    "CallNode",
    "CallTracer",
    "PerformanceStats",
    "clear_trace",
    "compare_graphs",
    "export_csv",
    "export_json",
    "gather_traced",
    "get_async_stats",
    "get_current_graph",
    "get_memory_usage",
    "profile_function",
    "profile_section",
    "trace",
    "trace_async",
    "trace_scope",
    "trace_scope_async",
]
