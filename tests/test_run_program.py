"""The fixture every hazard test stands on: it must see crashes, show hangs, and leave no process behind."""

import sys
import time

import pytest


def test_result(run_program):
    """Arguments, output, environment and the JSON of the last line arrive."""
    result = run_program(
        """
        import json, os, sys
        print("hello")
        print("trouble", file=sys.stderr)
        print(json.dumps([sys.argv[1:], os.environ["FLAVOUR"], "SPPROF" in os.environ]))
        """,
        "a b",
        2,
        env={"FLAVOUR": "sweet"},
    )
    assert (result.rc, result.json) == (0, [["a b", "2"], "sweet", False])
    assert result.stderr == "trouble\n"


def test_a_crash_fails_the_test(run_program):
    """A program that dies of a signal fails the test and its stack is shown."""
    with pytest.raises(pytest.fail.Exception, match=r"(?s)return code -11, expected 0.*in crash_here"):
        run_program("import os\ndef crash_here(): os.kill(os.getpid(), 11)\ncrash_here()")


def test_an_expected_return_code(run_program):
    """`expect_rc` names the return code the test wants, and no other will do."""
    assert run_program("raise SystemExit(3)", expect_rc=3).rc == 3
    with pytest.raises(pytest.fail.Exception, match="return code 4, expected 3"):
        run_program("raise SystemExit(4)", expect_rc=3)


def test_a_hang_shows_its_stacks_and_dies(run_program, tmp_path):
    """On a time-out the stacks of the program and of its forked child are shown, and both are gone."""
    pids = tmp_path / "pids"
    with pytest.raises(pytest.fail.Exception, match=r"(?s)not finished.*in stuck_child.*in stuck_parent"):
        run_program(
            f"""
            import os, threading
            def stuck_child(): threading.Event().wait()
            def stuck_parent(): threading.Event().wait()
            child = os.fork()
            if child == 0:
                stuck_child()
            with open({str(pids)!r}, "w") as file:
                file.write(f"{{os.getpid()}} {{child}}")
            stuck_parent()
            """,
            timeout=2,
        )
    deadline = time.monotonic() + 30
    for pid in map(int, pids.read_text().split()):
        while is_running(pid):
            assert time.monotonic() < deadline, f"process {pid} lives on"
            time.sleep(0.01)


def test_a_surviving_grandchild_does_not_hold_the_test(run_program):
    """The program's end is what counts, though a child of its keeps the output open."""
    result = run_program(
        f"""
        import subprocess
        print(subprocess.Popen([{sys.executable!r}, "-c", "import time; time.sleep(3600)"]).pid)
        """
    )
    assert is_running(result.json)


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
