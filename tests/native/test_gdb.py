"""Our stacks against those of gdb, at the same instants: it stops the program at each sampling signal, before it arrives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import spprof

pytestmark = pytest.mark.skipif(not spprof.native_unwinding_available(), reason="no native stacks on this processor")

PROGRAMS = Path(__file__).parent / "programs"
SAMPLES = 90
LOOP = "_PyEval_EvalFrameDefault"


@pytest.fixture(scope="module")
def gdb() -> str:
    path = shutil.which("gdb")
    if path is None:
        pytest.skip("no gdb here")
    asked = subprocess.run([path, "-nx", "-batch", "-ex", "python print('python', 6 * 7)"], capture_output=True, text=True)
    if "python 42" not in asked.stdout:
        pytest.skip("gdb here has no Python")
    return path


def stacks_of(gdb: str, kind: str, folder: Path) -> tuple[list[Any], dict[str, Any]]:
    """What gdb saw of the program's main thread and what we did."""
    theirs, ours = folder / "theirs.json", folder / "ours.json"
    command = [gdb, "-q", "-batch", "-nx", "-x", str(PROGRAMS / "stops.py"), "--args"]
    command += [sys.executable, str(PROGRAMS / "work.py"), kind, str(SAMPLES), str(ours)]
    path = os.pathsep.join([str(Path(spprof.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "STACKS": str(theirs), "PYTHONPATH": path}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if not theirs.exists() and "ptrace" in ended.stderr:
        pytest.skip("this process may not trace another")
    assert ours.exists(), ended.stdout[-2000:] + ended.stderr[-2000:]
    own = json.loads(ours.read_text())
    seen = json.loads(theirs.read_text())
    return [stack for tid, stack in seen["stacks"] if tid == own["tid"]], own


class Aliases:
    """Whether two names stand for one address of a module."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, set[str]]] = {}

    def same(self, module: str, one: str, other: str) -> bool:
        if one == other:
            return True
        table = self.tables.get(module)
        if table is None:
            table = self.tables[module] = {}
            for options in ([], ["-D"]):
                listed = subprocess.run(["nm", *options, module], capture_output=True, text=True).stdout
                for line in listed.splitlines():
                    address, _, rest = line.partition(" ")
                    table.setdefault(rest[2:].partition("@")[0], set()).add(address)
        plain = [name.partition("@")[0].partition("(")[0] for name in (one, other)]
        return bool(table.get(plain[0], set()) & table.get(plain[1], set()))


def difference(theirs: list[Any], ours: list[Any], aliases: Aliases) -> str | None:
    """Where the native frames differ, or where Python frames stand that were not run there."""
    # Each address once on both sides: who was put into whom is another question than who is on the stack.
    physical = [frame for frame in theirs if not frame[3]]
    inlined = {frame[0] for frame in theirs if frame[3]}
    native: list[tuple[str, bool]] = []
    after_python = False
    for name, is_native in ours:
        if not is_native:
            after_python = True
            continue
        expected = physical[len(native)] if len(native) < len(physical) else None
        if name in inlined and (expected is None or not aliases.same(expected[1], name, expected[0] or "")):
            continue
        native.append((name, after_python))
        after_python = False
    if len(native) != len(physical):
        return f"{len(native)} frames, not {len(physical)}"
    for position, ((name, ran_python), (theirs_name, module, _, _)) in enumerate(zip(native, physical)):
        unknown = name.startswith(f"{os.path.basename(module)}+0x") or theirs_name is None
        if not unknown and not aliases.same(module, name, theirs_name):
            return f"frame {position} is {name}, not {theirs_name}"
        is_loop = (theirs_name or "").startswith(LOOP)
        if theirs_name is not None and ran_python and not is_loop:
            return f"Python frames in {theirs_name}"
        # A call that has just begun or is about to end has no frame.
        earlier = any((frame[0] or "").startswith(LOOP) for frame in physical[:position])
        if is_loop and not ran_python and earlier:
            return f"no Python frame in call {position}"
    return None


KINDS = ["deflate", "patterns", "documents", "tables", "ciphers", "arrays"]


@pytest.mark.parametrize("kind", KINDS)
def test_same_stacks(gdb: str, kind: str, tmp_path: Path) -> None:
    """Frame by frame the same, and Python frames where the interpreter's calls are."""
    needs = {"tables": "sqlite3", "arrays": "numpy", "ciphers": "ssl"}.get(kind)
    if needs:
        pytest.importorskip(needs)
    theirs, own = stacks_of(gdb, kind, tmp_path)
    ours = own["stacks"]
    assert len(ours) >= SAMPLES // 2 and 0 <= len(theirs) - len(ours) <= 2, (len(theirs), len(ours), own["losses"])
    aliases = Aliases()
    wrong = list(differences(theirs, ours, aliases))
    # Code in assembler that has no unwind information ends a stack, visibly; gdb guesses there.
    unknown = own["losses"]["native_ends_in_unknown_code"]
    assert len(wrong) <= unknown, "\n".join(wrong[:5])
    assert unknown <= len(ours) // 20


def differences(theirs: list[Any], ours: list[Any], aliases: Aliases) -> Iterator[str]:
    for one, other in zip(theirs, ours):
        found = difference(one, other, aliases)
        if found is not None:
            yield f"{found}\n  {other}\n  {one}"
