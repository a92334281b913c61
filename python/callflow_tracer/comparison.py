"""`callflow_tracer.comparison`: re-exports of `spprof.comparison`."""

from spprof.comparison import compare_graphs, compare_traces, generate_comparison_report, get_diff

__all__ = ["compare_graphs", "compare_traces", "generate_comparison_report", "get_diff"]
