"""A virtual environment per Python, holding the wheel under test and what the tests need. Standard library only.

The tools' own pip installs into all of them (`pip --python`), so none needs a pip, and none changes when nothing did.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from discover import Python

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
TOOLS = BUILD / "tools" / "bin"
ABI3_STAMP = BUILD / "wheels" / "abi3.stamp"
REQUIREMENTS = ROOT / "tests" / "requirements.txt"
# Wanted by some tests, which say so when it is missing; not every Python has wheels of it.
OPTIONAL_REQUIREMENTS = ROOT / "tests" / "requirements-optional.txt"


def environment(python: Python, extra_requirements: list[Path]) -> Path:
    """The interpreter of the environment, made or brought up to date."""
    folder = BUILD / "venvs" / python.key
    state_file = folder / "state.json"
    state = json.loads(state_file.read_text()) if state_file.exists() else {}
    identity = f"{python.version} {os.path.realpath(python.executable)}"
    if state.get("python") != identity:
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([python.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        state = {"python": identity}
    interpreter = folder / "bin" / "python"

    def is_due(step: str, fingerprint: str) -> bool:
        return state.get(step) != fingerprint

    def note_done(step: str, fingerprint: str) -> None:
        state[step] = fingerprint
        state_file.write_text(json.dumps(state, indent=1))

    for file in [REQUIREMENTS, *extra_requirements]:
        if is_due(file.name, digest(file)):
            pip(interpreter, "-r", str(file))
            note_done(file.name, digest(file))
    if is_due(OPTIONAL_REQUIREMENTS.name, digest(OPTIONAL_REQUIREMENTS)):
        for line in OPTIONAL_REQUIREMENTS.read_text().splitlines():
            requirement = line.partition("#")[0].strip()
            if requirement and not pip(interpreter, "--only-binary", ":all:", requirement, must=False):
                print(f"{python.key}: goes without {requirement} (no wheel for it)", file=sys.stderr)
        note_done(OPTIONAL_REQUIREMENTS.name, digest(OPTIONAL_REQUIREMENTS))
    wheel = free_threaded_wheel(python) if python.free_threaded else the_wheel(ABI3_STAMP.parent)
    if is_due("wheel", digest(wheel)):
        pip(interpreter, "--force-reinstall", "--no-deps", str(wheel))
        pip(interpreter, f"spprof[cli] @ {wheel.as_uri()}")
        note_done("wheel", digest(wheel))
    return interpreter


def free_threaded_wheel(python: Python) -> Path:
    """The wheel of one free-threaded Python, built anew when the abi3 wheel is newer."""
    out = BUILD / "wheels" / python.key
    stamp = out / "stamp"
    if not stamp.exists() or stamp.stat().st_mtime < ABI3_STAMP.stat().st_mtime:
        shutil.rmtree(out, ignore_errors=True)
        variables = {**os.environ, "CARGO_TARGET_DIR": str(ROOT / "target" / python.key)}
        if python.key == "3.13t":
            # PyO3 supports free-threading from 3.14t on; on 3.13t it builds and runs, as our tests see.
            variables["UNSAFE_PYO3_SKIP_VERSION_CHECK"] = "1"
        command = [str(TOOLS / "maturin"), "build", "--release", "--locked", "--quiet"]
        command += ["--interpreter", python.executable, "--out", str(out)]
        subprocess.run(command, cwd=ROOT, env=variables, check=True)
        stamp.touch()
    return the_wheel(out)


def the_wheel(folder: Path) -> Path:
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"{folder} holds {len(wheels)} wheels, not one: run `make wheel`")
    return wheels[0]


def pip(interpreter: Path, *arguments: str, must: bool = True) -> bool:
    command = [str(TOOLS / "pip"), "--disable-pip-version-check", "--python", str(interpreter), "install", "--quiet"]
    run = subprocess.run([*command, *arguments], stderr=None if must else subprocess.DEVNULL, check=must)
    return run.returncode == 0


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
