"""`callflow_tracer.async_tracer`: re-exports of `spprof.async_tracing`."""

from spprof.async_tracing import (
    AsyncCallGraph,
    AsyncSpan,
    AsyncTracer,
    gather_traced,
    get_async_stats,
    trace_async,
    trace_scope_async,
)

__all__ = [
    "AsyncCallGraph",
    "AsyncSpan",
    "AsyncTracer",
    "gather_traced",
    "get_async_stats",
    "trace_async",
    "trace_scope_async",
]
