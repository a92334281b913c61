"""spprof's call tracing under the names of `callflow_tracer`: re-exports of `spprof` and nothing else."""

from spprof.callgraph import CallEdge, CallGraph, CallNode
from spprof.comparison import compare_graphs
from spprof.exporter import export_csv, export_json
from spprof.profiling import PerformanceStats, get_memory_usage, profile_function, profile_section

__all__ = [
    "CallEdge",
    "CallGraph",
    "CallNode",
    "PerformanceStats",
    "compare_graphs",
    "export_csv",
    "export_json",
    "get_memory_usage",
    "profile_function",
    "profile_section",
]
