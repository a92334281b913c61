"""The names of the documents: each can be imported, is what spprof has, and is typed."""

from __future__ import annotations

import importlib
from pathlib import Path

import callflow_tracer
import pytest

NAMES = {
    "callflow_tracer": "CallGraph CallNode PerformanceStats compare_graphs export_json get_memory_usage profile_function "
    "profile_section",
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
