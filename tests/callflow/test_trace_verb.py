"""`spprof trace`: python itself with a call graph at the end. It needs spprof installed, as it is where all tests run."""

from __future__ import annotations

import site
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
from spprof.callgraph import CallGraph, load_graph

pytest.importorskip("click")
pytest.importorskip("rich")
if not any((Path(folder) / "spprof-start.pth").exists() for folder in site.getsitepackages()):
    pytest.skip("spprof is not installed here, only on the path", allow_module_level=True)

Run = Callable[..., Any]

PROGRAM = """
import sys, threading

def leaf():
    pass

def work(n):
    for _ in range(n):
        leaf()

work(5)
thread = threading.Thread(target=work, args=(7,))
thread.start()
thread.join()
print(sys.argv[1:])
"""


@pytest.fixture
def trace(run_program: Any, tmp_path: Path) -> Run:
    """`spprof trace` of a program, its graph in trace.json."""

    def run(program: Any, *arguments: object, options: tuple[str, ...] = (), **more: Any) -> Any:
        command = [sys.executable, "-m", "spprof", "trace", "-o", str(tmp_path / "trace.json"), *options]
        return run_program(program, *arguments, python=command, **more)

    return run


def test_every_call_is_counted(trace: Run, tmp_path: Path) -> None:
    """Of all threads, with the program's own arguments, and without a function of ours."""
    result = trace(PROGRAM, "--flag", "x")
    assert result.stdout == "['--flag', 'x']\n"
    assert "calls of" in result.stderr and "spprof report" in result.stderr
    graph = load_graph(tmp_path / "trace.json")
    calls = {node.name: node.call_count for node in graph.nodes.values() if node.file.endswith("program_1.py")}
    assert (calls["leaf"], calls["work"], calls["<module>"]) == (12, 2, 1)
    assert graph.metadata["source"] == "trace"
    assert not [node for node in graph.nodes.values() if "/spprof/" in node.file]
    assert calls_outside(graph) == {"<interpreter>": 0}


def calls_outside(graph: CallGraph) -> dict[str, int]:
    """What is at the root of everything: the time of the interpreter itself."""
    return {node.name: node.call_count for node in graph.nodes.values() if node.name == "<interpreter>"}


@pytest.mark.parametrize(
    ("end", "status"), [("", 0), ("sys.exit(3)", 3), ("raise ValueError('mine')", 1), ("sys.exit('a message')", 1)]
)
def test_however_it_ends(trace: Run, tmp_path: Path, end: str, status: int) -> None:
    """The program's status and words are its own, and the trace is saved."""
    result = trace(PROGRAM + end, expect_rc=status)
    assert ("ValueError: mine" in result.stderr) == ("mine" in end)
    assert load_graph(tmp_path / "trace.json").nodes


def test_filters_and_arguments(trace: Run, tmp_path: Path) -> None:
    """Options reach the tracer."""
    trace(PROGRAM, options=("--include", "__main__", "--args"))
    nodes = {node.name: node for node in load_graph(tmp_path / "trace.json").nodes.values()}
    assert set(nodes) == {"<interpreter>", "<module>", "work", "leaf"}
    assert "n=7" in str(nodes["work"].args)


def test_a_module(run_program: Any, tmp_path: Path) -> None:
    """`-m` runs a module."""
    (tmp_path / "tool.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "spprof", "trace", "-o", str(tmp_path / "t.json"), "-m"]
    run_program(Path("tool"), "a", python=command, cwd=tmp_path)
    calls = {node.name: node.call_count for node in load_graph(tmp_path / "t.json").nodes.values()}
    assert calls["leaf"] == 12


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("-o", "trace.doc"), "cannot tell a format from the suffix"),
        (("-o", "/proc/nowhere/t.json"), "Cannot write to"),
        (("--nonsense",), "No such option"),
        (("--max-depth", "0"), "0 is not in the range"),
        (("-m", "-c"), "exclude each other"),
    ],
)
def test_bad_options(trace: Run, options: tuple[str, ...], told: str) -> None:
    """Told before the program runs: it does not run."""
    result = trace("print('ran')", options=options, expect_rc=2)
    assert result.stdout == "" and told in result.stderr
