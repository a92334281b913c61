"""The `spprof` command: `run` is python itself with a profile at the end; the others read profiles."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
import spprof

SPPROF = [sys.executable, "-m", "spprof"]
Run = Callable[..., Any]

BUSY = """
import time
def busy():
    end = time.process_time() + 0.3
    while time.process_time() < end:
        sum(range(1000))
"""


@pytest.fixture
def spprof_run(run_program: Any, tmp_path: Path) -> Run:
    """`spprof run` of a program, its profile in p.spprof."""
    pytest.importorskip("rich")

    def run(program: Any, *arguments: object, options: tuple[str, ...] = (), **more: Any) -> Any:
        return run_program(
            program, *arguments, python=[*SPPROF, "run", "-i", "1", "-o", str(tmp_path / "p.spprof"), *options], **more
        )

    return run


SHOW = """
import json, sys
main = sys.modules["__main__"]
print(json.dumps({
    "argv": sys.argv, "path0": sys.path[0], "name": __name__, "file": __file__, "main": main.__dict__ is globals(),
    "spec": getattr(__spec__, "name", None), "package": repr(__package__), "loader": type(__loader__).__name__,
    "names": sorted(set(globals()) - {"main"}), "builtins": type(__builtins__).__name__,
    "environment": [name for name in __import__("os").environ if name.startswith("SPPROF")],
    "modules": [name for name in sys.modules if name.split(".")[0] in ("click", "rich", "dataclasses")],
}))
"""


def test_a_script_sees_what_python_shows_it(spprof_run: Run, run_program: Any, tmp_path: Path) -> None:
    """argv, path, `__main__` and the environment are the same as under python."""
    script = tmp_path / "show.py"
    script.write_text(SHOW)
    arguments = ["-x", "--interval", "5", "-m", "plain"]
    assert spprof_run(script, *arguments).json == run_program(script, *arguments).json


def test_a_module(run_program: Any, tmp_path: Path) -> None:
    """-m is python's -m, for a package with relative imports."""
    pytest.importorskip("rich")
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "other.py").write_text("value = 5")
    (package / "__main__.py").write_text("from .other import value; assert value == 5" + SHOW)
    profiled = run_program(Path("pack"), "-a", python=[*SPPROF, "run", "-o", "p.json", "-m"]).json
    assert profiled == run_program(Path("pack"), "-a", python=[sys.executable, "-m"]).json


def test_code(run_program: Any) -> None:
    """-c is python's -c."""
    pytest.importorskip("rich")
    code = "import sys; print(sys.argv, repr(sys.path[0]), __name__)"
    profiled = run_program(Path(code), "a", "-c", python=[*SPPROF, "run", "-o", "p.json", "-c"])
    assert profiled.stdout == run_program(Path(code), "a", "-c", python=[sys.executable, "-c"]).stdout


@pytest.mark.parametrize(
    "end",
    [
        "", "sys.exit()", "sys.exit(0)", "sys.exit(3)", "sys.exit(256 + 7)", "sys.exit('a message')", "sys.exit([1])",
        "raise SystemExit", "raise ValueError('uncaught')", "1/0", "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)",
        "raise KeyboardInterrupt",
    ],
)  # fmt: skip
def test_every_end_is_python_s(spprof_run: Run, run_program: Any, tmp_path: Path, end: str) -> None:
    """The same status and the same words, the profile saved, one line more."""
    script = tmp_path / "end.py"
    script.write_text(f"import os, signal, sys, time\n{BUSY}\nbusy()\n{end}\n")
    expected = run_program(script, expect_rc=None)
    result = spprof_run(script, expect_rc=expected.rc)
    assert result.stdout == expected.stdout
    *said, line = result.stderr.splitlines()
    assert said == expected.stderr.splitlines()
    assert line.startswith("spprof: ") and " samples, " in line and "p.spprof" in line
    profile = spprof.load(tmp_path / "p.spprof")
    assert profile.sample_count == int(line.split()[1])
    assert any(frame.function_name == "busy" for s in profile.samples for frame in s.frames)


def test_no_frame_of_ours(spprof_run: Run, tmp_path: Path) -> None:
    """A stack begins with the program's own module."""
    spprof_run(BUSY + "busy()")
    profile = spprof.load(tmp_path / "p.spprof")
    stacks = [s.frames for s in profile.samples if any(f.function_name == "busy" for f in s.frames)]
    assert stacks
    assert {stack[-1].function_name for stack in stacks} == {"<module>"}
    assert {frame.filename for stack in stacks for frame in stack} == {str(tmp_path / "program_1.py")}


def test_threads_that_outlive_the_main_one(spprof_run: Run, tmp_path: Path) -> None:
    """The profile ends with the process, not with the main module."""
    spprof_run(BUSY + "import threading; threading.Thread(target=busy, name='late').start()")
    assert "late" in {s.thread_name for s in spprof.load(tmp_path / "p.spprof").samples}


def test_children_are_left_alone_unless_asked_for(spprof_run: Run, tmp_path: Path) -> None:
    """What the program starts is not profiled, or each into a file of its own."""
    program = "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'pass']); child.wait(); print(child.pid)"
    spprof_run(program)
    assert [path.name for path in tmp_path.glob("p*.spprof")] == ["p.spprof"]
    pid = spprof_run(program, options=("--children",)).stdout.strip()
    assert {path.name for path in tmp_path.glob("p*.spprof")} == {"p.spprof", f"p-{pid}.spprof"}


def test_the_interpreter_s_own_options_stay(run_program: Any, tmp_path: Path) -> None:
    """`python -O -W error -m spprof run` runs the program with -O -W error."""
    pytest.importorskip("rich")
    program = "import sys; print(sys.flags.optimize, sys.warnoptions)"
    python = [sys.executable, "-O", "-W", "error", "-m", "spprof", "run", "-o", "p.json"]
    assert run_program(program, python=python).stdout == "1 ['error']\n"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("-i", "0"), "interval_ms must be >= 1"),
        (("-i", "1.5"), "is not a valid integer"),
        (("--clock", "gpu"), "'gpu' is not one of 'cpu', 'wall'"),
        (("--clock", "wall", "--engine", "perf"), "engine='perf' cannot see sleeping threads"),
        (("-f", "xml"), "'xml' is not one of 'speedscope', "),
        (("--nonsense",), "No such option"),
        (("-m", "-c"), "-m and -c exclude each other"),
        (("-o", "/proc/nowhere/p.json"), "Cannot write to /proc/nowhere/p.json"),
    ],
)
def test_bad_options(spprof_run: Run, options: tuple[str, ...], text: str) -> None:
    """Told before the program runs: it does not run."""
    result = spprof_run("print('ran')", options=options, expect_rc=2)
    assert result.stdout == ""
    assert text in result.stderr


def test_no_such_script(run_program: Any, tmp_path: Path) -> None:
    """It is said before a profile of nothing replaces an older one."""
    pytest.importorskip("rich")
    profile = tmp_path / "p.spprof"
    profile.write_text("an older one")
    command = [*SPPROF, "run", "-o", str(profile)]
    result = run_program(tmp_path / "nosuch.py", python=command, expect_rc=1)
    assert "can't open file" in result.stderr and "nosuch.py" in result.stderr
    assert profile.read_text() == "an older one"


def test_report(run_program: Any, tmp_path: Path, by_hand: spprof.Profile) -> None:
    """Hot functions and lines, self and total, by thread, as aligned text without colour."""
    pytest.importorskip("rich")
    path = tmp_path / "p.spprof"
    by_hand.save(path)
    report = [*SPPROF, "report"]
    text = run_program(path, "--lines", python=report).stdout
    assert "\x1b" not in text
    lines = [line.split() for line in text.splitlines()]
    assert "4 samples, 0.040 s of CPU time in 2.000 s" in text
    assert "\n3 samples dropped\n" in text
    assert text == "".join(line.rstrip() + "\n" for line in text.splitlines()), "blanks at the ends of lines"
    assert ["0.020", "s", "50.0", "0.020", "s", "50.0", "sort", "/app/lib.py:7"] in lines
    assert ["0.000", "s", "0.0", "0.040", "s", "100.0", "<module>", "/app/main.py:40"] in lines
    assert ["0.030", "s", "75.0", "MainThread", "(100)"] in lines
    one = run_program(path, "--thread", "MainThread", python=report).stdout
    assert "3 samples" in one and "deflate" not in one and "(200)" not in one
    by_hand.save(tmp_path / "p.json")
    one = run_program(tmp_path / "p.json", "--thread", "MainThread", python=report).stdout
    assert "3 samples" in one and "deflate" not in one, "formats without thread ids"
    result = run_program(path, "--thread", "Nobody", python=report, expect_rc=1)
    assert "no such thread: Nobody; there are: MainThread (100), ? (200)" in result.stderr
    limited = run_program(path, "-n", "1", python=report).stdout
    assert "sort" in limited and "<module>" not in limited and "(200)" not in limited
    rest = [line.split() for line in limited.splitlines() if " more " in line]
    assert ["0.010", "s", "25.0", "(1", "more", "threads)"] in rest
    assert ["0.020", "s", "50.0", "(3", "more", "functions)"] in rest


def test_report_of_counts(run_program: Any, tmp_path: Path, by_hand: spprof.Profile) -> None:
    """Collapsed stacks have no times: their samples are shown instead, hottest first."""
    pytest.importorskip("rich")
    path = tmp_path / "p.collapsed"
    by_hand.save(path)
    text = run_program(path, python=[*SPPROF, "report"]).stdout
    assert "4 samples; " in text and " s " not in text.split("Functions")[1]
    functions = [line.split()[:5] for line in text.split("Functions")[1].splitlines()[2:]]
    assert functions[0] == ["2", "50.0", "2", "50.0", "sort"]
    assert ["0", "0.0", "4", "100.0", "<module>"] in functions


def test_unattributed_time_says_what_to_do(run_program: Any, tmp_path: Path) -> None:
    """Threads that end within the interval are in no sample: the report tells how much that is, and how to see them."""
    pytest.importorskip("rich")
    path = tmp_path / "p.spprof"
    program = f"""
        import threading, time, spprof
        def brief():
            end = time.thread_time() + 0.002
            while time.thread_time() < end: pass
        spprof.start(interval_ms=100, output_path={str(path)!r})
        for _ in range(200):
            thread = threading.Thread(target=brief)
            thread.start()
            thread.join()
        spprof.stop()
    """
    run_program(program)
    text = run_program(path, python=[*SPPROF, "report"]).stdout
    line = next(line for line in text.splitlines() if line.startswith("unattributed: "))
    assert "(100 ms) leave none" in line and "of it spprof's own" in line
    meta = spprof.load(path).metadata
    assert meta["unattributed_ns"] > 0.1 * meta["process_cpu_ns"]
    losses = {reason for reason, count in meta["losses"].items() if count}
    assert not losses, "time that no sample claimed is no loss of samples"


def test_report_of_a_picture(run_program: Any, tmp_path: Path, by_hand: spprof.Profile) -> None:
    """A flame graph is not a profile, and the message says what is."""
    pytest.importorskip("rich")
    by_hand.save(tmp_path / "p.svg")
    result = run_program(tmp_path / "p.svg", python=[*SPPROF, "report"], expect_rc=1)
    assert "this is a picture (SVG)" in result.stderr and ".spprof" in result.stderr


def test_names_beyond_the_terminal_s_encoding(run_program: Any, tmp_path: Path, by_hand: spprof.Profile) -> None:
    """What cannot be shown is escaped; the report does not break off."""
    pytest.importorskip("rich")
    by_hand.samples = [spprof.Sample(0, 1, "t", (spprof.Frame("名", "f.py", 1),))]
    path = tmp_path / "p.spprof"
    by_hand.save(path)
    text = run_program(path, python=[*SPPROF, "report"], env={"PYTHONIOENCODING": "latin-1"}).stdout
    assert " \\u540d " in text


def test_report_as_json(run_program: Any, tmp_path: Path, by_hand: spprof.Profile) -> None:
    """The same for a program."""
    pytest.importorskip("rich")
    path = tmp_path / "p.spprof"
    by_hand.save(path)
    data = json.loads(run_program(path, "--json", "--lines", python=[*SPPROF, "report"]).stdout)
    assert {(f["name"], f["self_ns"], f["total_ns"]) for f in data["functions"]} == {
        ("sort", 20_000_000, 20_000_000),
        ("work", 10_000_000, 40_000_000),
        ("deflate", 10_000_000, 10_000_000),
        ("<module>", 0, 40_000_000),
    }
    assert [thread["thread_id"] for thread in data["threads"]] == [100, 200]
    assert ("work", 12) in {(line["name"], line["line"]) for line in data["lines"]}


def test_report_of_odd_names(run_program: Any, tmp_path: Path, by_hand: spprof.Profile) -> None:
    """Any name can be printed; markup in it is text."""
    pytest.importorskip("rich")
    by_hand.samples = [spprof.Sample(0, 1, "\ud800", (spprof.Frame("[red]a\udfff[/b]", "f.py", 1),))]
    path = tmp_path / "p.spprof"
    by_hand.save(path)
    assert "[red]a\\udfff[/b]" in run_program(path, python=[*SPPROF, "report"]).stdout


@pytest.mark.parametrize("verb", ["report", "convert"])
def test_foreign_files(run_program: Any, tmp_path: Path, verb: str) -> None:
    """One line that names the file, and status 1."""
    pytest.importorskip("rich")
    path = tmp_path / "foreign.spprof"
    path.write_bytes(b"\x00\x01 not a profile")
    arguments = [tmp_path / "out.json"] if verb == "convert" else []
    result = run_program(path, *arguments, python=[*SPPROF, verb], expect_rc=1)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ") and str(path) in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "out.json").exists()


def test_convert(run_program: Any, tmp_path: Path, by_hand: spprof.Profile) -> None:
    """By suffix or by name, the same content as saving it directly."""
    pytest.importorskip("rich")
    source = tmp_path / "p.spprof"
    by_hand.save(source)
    for name, options, format in (("p.txt", [], "collapsed"), ("p.dat", ["-f", "speedscope"], "speedscope")):
        run_program(source, tmp_path / name, *options, python=[*SPPROF, "convert"])
        by_hand.save(tmp_path / "expected", format)
        assert (tmp_path / name).read_bytes() == (tmp_path / "expected").read_bytes()


def test_doctor(run_program: Any) -> None:
    """Names each engine and the interpreter."""
    pytest.importorskip("rich")
    text = run_program(Path("doctor"), python=SPPROF).stdout
    for topic in ("timer", "perf", "tick"):
        assert topic in text
    assert not [line for line in text.splitlines() if line.startswith(" ")], "wrapped, though nobody's terminal is narrow"


def test_version(run_program: Any) -> None:
    """The package's version."""
    pytest.importorskip("rich")
    assert spprof.__version__ in run_program(Path("--version"), python=SPPROF).stdout


def test_without_the_extra(run_program: Any) -> None:
    """A command that cannot run says how to get it."""
    program = """
        import sys
        sys.modules["click"] = None
        from spprof.cli import main
        main()
    """
    result = run_program(program, expect_rc=1)
    assert result.stderr == "spprof: the command line needs click: pip install 'spprof[cli]'\n"


def test_sigterm_is_left_to_the_program(spprof_run: Run, tmp_path: Path) -> None:
    """A program with a handler of its own ends as it likes, and its profile is saved."""
    program = (
        BUSY + "import os, signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); busy(); os.kill(os.getpid(), 15)"
    )
    spprof_run(program, expect_rc=5)
    assert spprof.load(tmp_path / "p.spprof").sample_count > 0
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
