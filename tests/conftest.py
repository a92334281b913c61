"""Fixtures for every test: programs run in processes of their own, under a time limit.

A test that may crash, hang, fork or end its process never does so inside pytest: it gives the program to
`run_program`, which shows the stacks of whatever hung.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

# Who is started in the background has SIGINT ignored, and so would every program here; a handler is not inherited.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long a process may take to dump its stacks before it is killed outright.
DUMP_SECONDS = 5


@dataclasses.dataclass(frozen=True)
class ProgramResult:
    """What a program left behind. A return code below zero is the signal that ended it."""

    rc: int
    stdout: str
    stderr: str
    path: Path

    @property
    def json(self) -> Any:
        """The last line of stdout, parsed."""
        lines = self.stdout.splitlines()
        try:
            return json.loads(lines[-1])
        except (IndexError, ValueError) as error:
            raise AssertionError(f"the last line of stdout is not JSON ({error})\n{self.describe()}") from None

    def describe(self) -> str:
        return f"{self.path}: return code {self.rc}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


@pytest.fixture
def run_program(tmp_path: Path) -> Iterator[Any]:
    """`run_program(source_or_path, *args, ...)` runs a Python program and gives a `ProgramResult`.

    - `source_or_path`: a Path, or the source text itself (it is dedented).
    - `python`: the interpreter, or a list such as `[sys.executable, "-m", "spprof", "run"]` to put before the program.
    - `timeout`: seconds; when they are over the test fails and shows the stacks of all threads of all its processes.
    - `env`: added to the environment; a value of None removes the variable. `SPPROF*` is never inherited.
    - `expect_rc`: the return code it must have (0); None accepts any.
    - `faulthandler=False` for programs that must not have Python's own SIGSEGV handler installed.
    """
    programs = 0
    groups: list[int] = []

    def run(
        source_or_path: str | Path,
        *args: object,
        python: str | list[str] = sys.executable,
        timeout: float = 60,
        env: Mapping[str, str | None] | None = None,
        cwd: str | Path | None = None,
        stdin: str | None = None,
        expect_rc: int | None = 0,
        faulthandler: bool = True,
    ) -> ProgramResult:
        nonlocal programs
        programs += 1
        if isinstance(source_or_path, Path):
            path = source_or_path
        else:
            path = tmp_path / f"program_{programs}.py"
            path.write_text(textwrap.dedent(source_or_path), encoding="utf-8")
        command = [python] if isinstance(python, str) else list(python)
        command += [str(path), *map(str, args)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SPPROF")}
        environment["PYTHONIOENCODING"] = "utf-8"
        if faulthandler:
            environment["PYTHONFAULTHANDLER"] = "1"
        for key, value in (env or {}).items():
            environment.pop(key, None)
            if value is not None:
                environment[key] = value

        # Files, not pipes: a grandchild that outlives the program must not keep us waiting for the end of its output.
        out_path, err_path = tmp_path / f"stdout_{programs}", tmp_path / f"stderr_{programs}"
        with open(out_path, "wb") as out, open(err_path, "wb") as err:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=out,
                stderr=err,
                cwd=cwd or tmp_path,
                env=environment,
                start_new_session=True,
            )
            groups.append(process.pid)
            if stdin is not None:
                process.stdin.write(stdin.encode())
                process.stdin.close()
            try:
                process.wait(timeout)
                timed_out = False
            except subprocess.TimeoutExpired:
                timed_out = True
                dump_and_kill(process)

        result = ProgramResult(
            process.returncode,
            out_path.read_text(encoding="utf-8", errors="backslashreplace"),
            err_path.read_text(encoding="utf-8", errors="backslashreplace"),
            path,
        )
        if timed_out:
            pytest.fail(f"not finished after {timeout} s\n{result.describe()}", pytrace=False)
        if expect_rc is not None and result.rc != expect_rc:
            pytest.fail(f"return code {result.rc}, expected {expect_rc}\n{result.describe()}", pytrace=False)
        return result

    yield run
    for group in groups:
        kill_group(group, signal.SIGKILL)


def dump_and_kill(process: subprocess.Popen[bytes]) -> None:
    """SIGABRT makes faulthandler write the stacks of every thread, even of one that is stuck in C.

    One process after the other, or their stacks would be mixed letter by letter.
    """
    for pid in group_members(process.pid):
        try:
            os.kill(pid, signal.SIGABRT)
        except ProcessLookupError:
            continue
        deadline = time.monotonic() + DUMP_SECONDS
        while is_running(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
    kill_group(process.pid, signal.SIGKILL)
    process.wait()


def group_members(group: int) -> list[int]:
    """The processes of a group, its leader last (what /proc does not tell, on other systems: the leader alone)."""
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    members = [pid for pid in pids if pid != group and process_stat(pid)[2:3] == [str(group)]]
    return [*members, group]


def is_running(pid: int) -> bool:
    return process_stat(pid)[:1] not in ([], ["Z"], ["X"])


def process_stat(pid: int) -> list[str]:
    """State, parent, group, ... of a process; nothing when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    return stat.rpartition(")")[2].split()


def kill_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
