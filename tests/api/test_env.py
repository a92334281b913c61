"""`SPPROF=1`: programs that know nothing of spprof."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import spprof

BUSY = """
import time
def busy():
    end = time.process_time() + 0.3
    while time.process_time() < end:
        sum(range(1000))
busy()
"""


def names(path: Path) -> set[str]:
    return {frame.function_name for s in spprof.load(path).samples for frame in s.frames}


def test_a_program_is_profiled(run_program: Any, tmp_path: Path) -> None:
    """Into a file named after its process, without a word."""
    result = run_program(BUSY + "import os; print(os.getpid())", env={"SPPROF": "1"})
    assert result.stderr == ""
    path = tmp_path / f"spprof-{result.stdout.strip()}.json"
    assert "busy" in names(path)


@pytest.mark.parametrize("value", [None, "", "0"])
def test_off(run_program: Any, tmp_path: Path, value: Any) -> None:
    """Unset, empty and 0 are off, and cost no import."""
    program = "import sys; print([m for m in sys.modules if m.startswith('spprof.')] if '0' != sys.argv[1] else [])"
    result = run_program(program, value or "x", env={"SPPROF": value})
    assert result.stdout == "[]\n"
    assert not list(tmp_path.glob("spprof-*.json"))


def test_settings(run_program: Any, tmp_path: Path) -> None:
    """Each variable is heeded."""
    run_program(
        BUSY,
        env={
            "SPPROF": "1",
            "SPPROF_OUTPUT": str(tmp_path / "a" / "p.dat"),
            "SPPROF_FORMAT": "spprof",
            "SPPROF_INTERVAL_MS": "3",
            "SPPROF_CLOCK": "wall",
            "SPPROF_ENGINE": "tick",
            "SPPROF_MEMORY_LIMIT_MB": "50",
        },
    )
    profile = spprof.load(tmp_path / "a" / "p.dat")
    assert profile.interval_ms == 3
    assert (profile.metadata["clock"], profile.metadata["engine"]) == ("wall", "tick")


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("SPPROF_INTERVAL_MS", "0", "interval_ms must be >= 1"),
        ("SPPROF_INTERVAL_MS", "fast", "SPPROF_INTERVAL_MS must be a whole number, not 'fast'"),
        ("SPPROF_CLOCK", "gpu", "unknown clock: 'gpu'"),
        ("SPPROF_FORMAT", "xml", "unknown format: 'xml'"),
        ("SPPROF_OUTPUT", "/proc/nowhere/p.json", "Cannot write to /proc/nowhere/p.json"),
    ],
)
def test_bad_settings_do_not_hurt_the_program(run_program: Any, variable: str, value: str, text: str) -> None:
    """One line on stderr, and the program runs."""
    result = run_program("print('ran')", env={"SPPROF": "1", variable: value})
    assert result.stdout == "ran\n"
    assert result.stderr.startswith(f"spprof: not profiling: {text}")
    assert result.stderr.count("\n") == 1


def test_children_write_files_of_their_own(run_program: Any, tmp_path: Path) -> None:
    """The program has the name that was asked for, its children the name with their process id; `{pid}` serves both."""
    program = "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'pass']); child.wait(); print(child.pid)"
    for name, own, of_child in (("p.pb.gz", "p.pb.gz", "p-{}.pb.gz"), ("q-{pid}.json", None, "q-{}.json")):
        result = run_program(program, env={"SPPROF": "1", "SPPROF_OUTPUT": str(tmp_path / name)})
        assert (tmp_path / of_child.format(result.stdout.strip())).stat().st_size > 0
        if own is not None:
            assert (tmp_path / own).stat().st_size > 0


def test_a_program_may_stop_the_run(run_program: Any, tmp_path: Path) -> None:
    """It has the profile then, and the file is written too."""
    program = BUSY + "import spprof; print(spprof.stop().sample_count)"
    result = run_program(program, env={"SPPROF": "1", "SPPROF_OUTPUT": str(tmp_path / "p.spprof")})
    assert spprof.load(tmp_path / "p.spprof").sample_count == int(result.stdout)


def test_the_start_file_is_installed() -> None:
    """It stands where the interpreter looks for it."""
    folder = Path(spprof.__file__).parent.parent
    if sys.prefix not in str(folder):
        pytest.skip("spprof is not installed, but on the path")
    assert (folder / "spprof-start.pth").read_text().startswith("import os; os.environ.get(")


def test_the_speedscope_file_is_json(run_program: Any, tmp_path: Path) -> None:
    """Without a suffix to go by, it is speedscope."""
    run_program(BUSY, env={"SPPROF": "1", "SPPROF_OUTPUT": os.fspath(tmp_path / "plain")})
    assert json.loads((tmp_path / "plain").read_text())["exporter"].startswith("spprof ")
