"""The verbs of the command line that work on call graphs: `compare`, `export`, `report`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from known_graphs import graph_of, sampled
from spprof.callgraph import load_graph

pytest.importorskip("click")
pytest.importorskip("rich")

from click.testing import CliRunner
from spprof.cli.commands import spprof as command

BEFORE = {"main": (1, 0.5), "main;work": (100, 4.0), "main;work;leaf": (100, 1.0)}
AFTER = {"main": (1, 0.5), "main;work": (50, 4.0), "main;work;leaf": (200, 3.0)}


def run(*arguments: Any, status: int = 0) -> str:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture
def traces(tmp_path: Path) -> tuple[Path, Path]:
    """A trace before and one after."""
    graph_of(BEFORE).save(tmp_path / "before.json")
    graph_of(AFTER).save(tmp_path / "after.json")
    return tmp_path / "before.json", tmp_path / "after.json"


def test_compare(traces: tuple[Path, Path]) -> None:
    """What became slower, as text, Markdown and JSON."""
    text = run("compare", *traces)
    assert "SLOWER" in text and "app.leaf" in text and "100 -> 200" in text
    assert "| app.leaf |" in run("compare", *traces, "--format", "markdown")
    data = json.loads(run("compare", *traces, "--format", "json"))
    assert data["summary"]["total_time_before"] == 5.5 and data["top_regressions"][0]["name"] == "app.leaf"


def test_compare_into_a_file(traces: tuple[Path, Path], tmp_path: Path) -> None:
    """`-o` writes it."""
    run("compare", *traces, "-o", tmp_path / "report.txt")
    assert "app.leaf" in (tmp_path / "report.txt").read_text()


def test_the_exit_status_is_for_ci(traces: tuple[Path, Path]) -> None:
    """0 for the same and for changes below the limit, 1 for more, 2 for a limit that is none."""
    before, after = traces
    assert run("compare", before, before, "--fail-on", "5%")
    assert "app.leaf takes 200.0 % longer" in run("compare", before, after, "--fail-on", "5%", status=1)
    run("compare", before, after, "--fail-on", "250")
    assert "SLOWER" in run("compare", before, after, "--threshold", "5%", "--fail-on", "250%")
    run("compare", after, before, "--fail-on", "5%")
    run("compare", before, after)
    assert "is no percentage" in run("compare", before, after, "--fail-on", "much", status=2)


def test_compare_sets_of_runs(tmp_path: Path) -> None:
    """A folder or a pattern is several runs: then noise is known, and a change within it fails nothing."""
    for side, times in (("a", (1.0, 1.3, 0.9, 1.2, 1.1)), ("b", (1.2, 1.4, 1.0, 1.3, 1.1)), ("c", (2.0, 2.3, 1.9, 2.2, 2.1))):
        (tmp_path / side).mkdir()
        for i, seconds in enumerate(times):
            graph_of({"main;f": (1, seconds)}).save(tmp_path / side / f"{i}.json")
    same = run("compare", tmp_path / "a", tmp_path / "b" / "*.json", "--fail-on", "5%")
    assert "told from 5 and 5 runs" in same
    assert "app.f takes" in run("compare", tmp_path / "a", tmp_path / "c", "--fail-on", "5%", status=1)


def test_compare_what_is_not_there(traces: tuple[Path, Path], tmp_path: Path) -> None:
    """Missing and foreign files are named, with status 1 and no traceback."""
    assert "no such file" in run("compare", traces[0], tmp_path / "gone.json", status=1)
    (tmp_path / "foreign.json").write_text("[1]")
    assert "foreign.json" in run("compare", traces[0], tmp_path / "foreign.json", status=1)


def test_export(traces: tuple[Path, Path], tmp_path: Path) -> None:
    """Beside the file by default, of many files each, into a folder or a file by request."""
    run("export", *traces, "--format", "csv")
    assert (tmp_path / "before.csv").exists() and (tmp_path / "after.edges.csv").exists()
    (tmp_path / "out").mkdir()
    run("export", *traces, "--format", "pprof", "-o", tmp_path / "out")
    assert load_graph(tmp_path / "out" / "after.pb.gz").total_time == 7.5
    run("export", traces[0], "-o", tmp_path / "x.collapsed")
    assert (tmp_path / "x.collapsed").read_text().splitlines()[0] == "main 500000"
    run("export", tmp_path / "out" / "after.pb.gz", "-f", "json")
    assert load_graph(tmp_path / "out" / "after.json").total_time == 7.5


def test_export_is_told_what_is_wrong_first(traces: tuple[Path, Path], tmp_path: Path) -> None:
    """No format, an unknown one, many files into one, a file over itself: nothing is written."""
    before = {path.name for path in tmp_path.iterdir()}
    assert "which format?" in run("export", traces[0], status=2)
    assert "'html' is not one of" in run("export", traces[0], "--format", "html", status=2)
    assert "must be a folder" in run("export", *traces, "--format", "csv", "-o", tmp_path / "x.csv", status=2)
    assert "written over" in run("export", traces[0], "--format", "json", status=2)
    assert "suffix" in run("export", traces[0], "-o", tmp_path / "x.doc", status=1)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_report_of_a_trace(traces: tuple[Path, Path]) -> None:
    """Functions with calls and times, as text, Markdown, tree and JSON."""
    lines = [line.split() for line in run("report", traces[0]).splitlines()]
    assert ["4.000", "s", "72.7", "5.000", "s", "90.9", "100", "app.work", "/src/app.py:20"] in lines
    assert lines[0][:2] == ["3", "functions,"] and "201 calls" in " ".join(lines[0])
    assert "| app.work | /src/app.py:20 |" in run("report", traces[0], "--markdown")
    tree = run("report", traces[0], "--tree").splitlines()
    assert [line.split("%  ")[1] for line in tree] == ["app.main 1x", "  app.work 100x", "    app.leaf 100x"]
    assert json.loads(run("report", traces[0], "--json"))["nodes"][1]["call_count"] == 100
    assert "(2 more functions)" in run("report", traces[0], "-n", "1")


def test_report_of_a_graph_of_samples(tmp_path: Path) -> None:
    """It counts samples and says so; calls are not mentioned."""
    sampled({"main;work": (40, 0.4)}).save(tmp_path / "g.json")
    text = run("report", tmp_path / "g.json")
    assert "CPU time" in text and "samples" in text and "calls" not in text
    assert "app.work" in run("report", tmp_path / "g.json", "--tree")


def test_the_second_name(run_program: Any, traces: tuple[Path, Path]) -> None:
    """`python -m callflow_tracer` has the same verbs and says its own name."""
    result = run_program(Path("compare"), *traces, python=[sys.executable, "-m", "callflow_tracer"])
    assert "SLOWER" in result.stdout
    result = run_program(Path("--version"), python=[sys.executable, "-m", "callflow_tracer"])
    assert result.stdout.startswith("callflow-tracer, version ")
