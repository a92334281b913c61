"""Heap runs that the environment starts: `spprof run --memory`, SPPROF_MEMPROF=1, periodic snapshots."""

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import spprof
import spprof.memprof as memprof

PROGRAM = """
import os, subprocess, sys

def hold():
    return [bytes(100_000) for _ in range(200)]

kept = hold()
print(os.environ.get("LD_PRELOAD"), [name for name in os.environ if name.startswith("SPPROF")])
"""
# Without the .pth file (PYTHONPATH instead of an installation) the start is asked for by hand.
START = "import os; os.environ.get('SPPROF_MEMPROF') and __import__('spprof._heap_env', fromlist=['start']).start()\n"

installed = pytest.mark.skipif(
    importlib.util.find_spec("click") is None or "site-packages" not in spprof.__file__, reason="needs an installed spprof[cli]"
)


def held(path):
    """Live bytes of hold() in a file."""
    profile = spprof.load(path)
    return sum(s.weight_ns for s in profile.samples if any(frame.function_name == "hold" for frame in s.frames))


@installed
def test_run_memory(run_program, tmp_path):
    """The file holds what the program held, the line that did it is told, and the program sees nothing of us."""
    command = [sys.executable, "-m", "spprof", "run", "--memory", "--rate", "16", "-o", "heap.spprof"]
    result = run_program(PROGRAM, python=command)
    assert result.stdout == "None []\n"
    assert abs(held(tmp_path / "heap.spprof") - 20_000_000) < 2_000_000
    # Before 3.12 a comprehension is a function of its own: the line is the same.
    assert f"({result.path}:5)" in result.stderr, result.describe()
    assert "alive at the end" in result.stderr and "in heap.spprof" in result.stderr


def test_a_library_is_asked_by_the_program(run_program):
    """Memory that a line of the standard library made names the program's own line, too."""
    program = """
    import json
    def remember():
        pages = []
        for _ in range(400):
            pages.append(json.dumps(["x" * 1000] * 50))
        return pages
    kept = remember()
    """
    result = run_program(START + textwrap.dedent(program), env={"SPPROF_MEMPROF": "run"})
    (line,) = [line for line in result.stderr.splitlines() if "encoder.py" in line and ", for " in line]
    assert ", for remember (" in line


def test_rss_is_explained(run_program):
    """SPPROF_MEMPROF_RSS=1: a table at the end, and the program's children are not asked for one."""
    result = run_program(START + PROGRAM, env={"SPPROF_MEMPROF": "run", "SPPROF_MEMPROF_RSS": "1"})
    assert "resident memory (RSS)" in result.stderr and "Python objects" in result.stderr
    assert "[]" in result.stdout


@installed
def test_run_memory_with_rss(run_program):
    """The option for it, with memory from malloc seen from the start."""
    command = [sys.executable, "-m", "spprof", "run", "--memory", "--rss", "-o", "heap.spprof"]
    result = run_program(PROGRAM, python=command)
    assert "resident memory (RSS)" in result.stderr and "before start()" not in result.stderr


@installed
def test_run_memory_keeps_an_older_preload(run_program, tmp_path):
    """What the program was to preload, it preloads, and its children alone."""
    other = str(memprof.preload_path())
    command = [sys.executable, "-m", "spprof", "run", "--memory", "-o", "heap.spprof"]
    result = run_program(PROGRAM, python=command, env={"LD_PRELOAD": other})
    assert result.stdout == f"{other} []\n"


def test_environment(run_program, tmp_path):
    """SPPROF_MEMPROF=1 alone: a file of each process, in the lossless format."""
    result = run_program(START + PROGRAM, env={"SPPROF_MEMPROF": "1", "SPPROF_MEMPROF_RATE_KB": "16"})
    assert result.stderr == ""
    (file,) = tmp_path.glob("spprof-heap-*.spprof")
    assert abs(held(file) - 20_000_000) < 2_000_000


@pytest.mark.skipif(importlib.util.find_spec("click") is None, reason="needs click and rich")
def test_report(run_program, tmp_path):
    """The line that holds the memory comes first, in bytes, and no word of time is said."""
    run_program(START + PROGRAM, env={"SPPROF_MEMPROF": "1", "SPPROF_MEMPROF_RATE_KB": "16"})
    (file,) = tmp_path.glob("spprof-heap-*.spprof")
    run = subprocess.run(
        [sys.executable, "-m", "spprof", "report", str(file)], capture_output=True, text=True, check=True, env={**os.environ}
    )
    first = run.stdout.split("Lines\n")[1].splitlines()[1].split()
    assert abs(float(first[0]) - 20) < 2 and first[1] == "MB"
    # (Before 3.12 a comprehension is a function of its own.)
    assert first[-1].endswith("program_1.py:6") and " time " not in run.stdout


@pytest.mark.parametrize(("name", "value"), [("RATE_KB", "x"), ("RATE_KB", "0"), ("FORMAT", "x"), ("EVERY", "x")])
def test_bad_settings(run_program, name, value):
    """They are told, and the program runs as it would have."""
    result = run_program(START + PROGRAM, env={"SPPROF_MEMPROF": "1", f"SPPROF_MEMPROF_{name}": value})
    assert "not profiling memory" in result.stderr and result.stdout


def test_a_killed_program_leaves_its_last_snapshot(tmp_path):
    """Snapshots while it runs, numbered; after SIGKILL the last one is there, whole, with the peak."""
    (tmp_path / "program.py").write_text(
        START
        + """
import sys, time
def hold(): return [bytes(100_000) for _ in range(200)]
def peak(): return [bytes(100_000) for _ in range(300)]
kept = hold()
peak()
print("ready", flush=True)
time.sleep(600)
"""
    )
    environment = {
        **os.environ,
        "SPPROF_MEMPROF": "1",
        "SPPROF_MEMPROF_EVERY": "0.05",
        "SPPROF_MEMPROF_RATE_KB": "16",
        "SPPROF_MEMPROF_OUTPUT": "heap-{pid}-{n}.spprof",
    }
    process = subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        seen = len(list(tmp_path.glob("heap-*.spprof")))
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("heap-*.spprof"))) < seen + 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    last = max(tmp_path.glob("heap-*.spprof"))
    assert abs(held(last) - 20_000_000) < 2_000_000
    assert Path(last).stat().st_size > 0
