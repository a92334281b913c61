"""The names of the documents: each can be imported, is what spprof has, and is typed."""

from __future__ import annotations

import importlib
from pathlib import Path

import callflow_tracer
import pytest

NAMES = {
    "callflow_tracer": "AsyncCallGraph CallGraph CallNode CallTracer PerformanceStats clear_trace compare_graphs export_json "
    "gather_traced get_async_stats get_current_graph get_memory_usage profile_function profile_section trace trace_async "
    "trace_scope trace_scope_async",
    "callflow_tracer.async_tracer": "AsyncCallGraph AsyncSpan AsyncTracer gather_traced get_async_stats trace_async "
    "trace_scope_async",
    "callflow_tracer.tracer": "CallTracer TraceEdge TraceNode trace trace_scope",
    "callflow_tracer.comparison": "compare_graphs compare_traces generate_comparison_report get_diff",
    "callflow_tracer.exporter": "CSVExporter JSONExporter SVGExporter export_json",
    "callflow_tracer.profiling": "PerformanceStats compare_profiles get_cpu_profile get_memory_profile get_memory_usage "
    "profile_function profile_section",
}


@pytest.mark.parametrize("module", NAMES)
def test_names(module: str) -> None:
    """Every name is there, public, and the very object of a module of spprof's."""
    imported = importlib.import_module(module)
    for name in NAMES[module].split():
        thing = getattr(imported, name)
        assert name in imported.__all__
        assert thing.__module__.startswith("spprof.") and getattr(importlib.import_module(thing.__module__), name) is thing


def test_the_command_has_a_second_name() -> None:
    """`callflow_tracer.cli.main` is an entry point."""
    pytest.importorskip("click")
    from callflow_tracer.cli import main
    from spprof.cli import callflow_tracer as command

    assert main is command


def test_typed() -> None:
    """Type checkers look into it."""
    assert (Path(callflow_tracer.__file__).parent / "py.typed").exists()
