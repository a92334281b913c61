"""Finds the Pythons of this machine: one a minor version and kind (with or without the GIL). Standard library only."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST, NEWEST = (3, 9), (3, 15)
# Free-threaded CPython is an experiment before 3.13's layout.
FREE_THREADED_FROM = (3, 13)

PROBE = """
import json, os, platform, sys, sysconfig
var = sysconfig.get_config_var
print(json.dumps({
    "implementation": platform.python_implementation(),
    "version": platform.python_version(),
    "minor": list(sys.version_info[:2]),
    "free_threaded": bool(var("Py_GIL_DISABLED")),
    "executable": sys.executable,
    "library": os.path.join(var("LIBDIR") or "", var("MULTIARCH") or "", var("LDLIBRARY") or ""),
    "library_plain": os.path.join(var("LIBDIR") or "", var("LDLIBRARY") or ""),
}))
"""


@dataclasses.dataclass(frozen=True)
class Python:
    """An interpreter that can be used. `key` is what the user calls it: 3.12, 3.13t."""

    key: str
    version: str
    executable: str
    free_threaded: bool
    library: str | None  # libpython*.so, if the linker can use it


@dataclasses.dataclass(frozen=True)
class Skipped:
    path: str
    reason: str


def discover() -> tuple[list[Python], list[Skipped]]:
    """The Pythons, oldest first, and those left out. Of two with the same key the first found is taken."""
    found: dict[str, Python] = {}
    skipped: list[Skipped] = []
    seen: set[str] = set()
    for path in candidates():
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        python = probe(path)
        if isinstance(python, Skipped):
            skipped.append(python)
        elif python.key not in found:
            found[python.key] = python
        elif not os.path.samefile(python.executable, found[python.key].executable):
            skipped.append(Skipped(path, f"{python.version}: another {python.key} is taken"))
    for minor in range(OLDEST[1], NEWEST[1] + 1):
        if f"3.{minor}" not in found:
            skipped.append(Skipped(f"3.{minor}", "not on this machine" + (" (make pythons brings it)" if minor > 13 else "")))
    if not any(python.free_threaded for python in found.values()):
        skipped.append(Skipped("3.13t", "not on this machine (make pythons brings it)"))
    order = sorted(found.values(), key=lambda python: (int(python.key.rstrip("t")[2:]), python.free_threaded))
    return order, skipped


def candidates() -> list[str]:
    """Paths that may be Pythons: the one running this, the folder of `make pythons`, pyenv's, uv's, those on the PATH."""
    home = Path.home()
    folders = [
        (Path(os.environ.get("SPPROF_PYTHONS", "build/pythons")), ["*/bin/python3*", "debian/venv-*/bin/python3*"]),
        (Path(os.environ.get("PYENV_ROOT", home / ".pyenv")), ["versions/*/bin/python3*"]),
        (home / ".local/share/uv/python", ["*/bin/python3*"]),
    ]
    paths = [sys.executable]
    for folder, patterns in folders:
        for pattern in patterns:
            paths += sorted(str(path) for path in folder.glob(pattern) if is_interpreter(path))
    for minor in range(OLDEST[1] - 1, NEWEST[1] + 2):
        for name in (f"python3.{minor}", f"python3.{minor}t"):
            # A shim of pyenv's stands for a version found above, or for none.
            path = shutil.which(name)
            if path and "shims" not in Path(path).parts:
                paths.append(path)
    return paths


def is_interpreter(path: Path) -> bool:
    name = path.name[len("python") :].rstrip("t")
    return name.replace(".", "").isdigit() and os.access(path, os.X_OK)


def probe(path: str) -> Python | Skipped:
    """Asks an interpreter what it is."""
    try:
        run = subprocess.run([path, "-I", "-c", PROBE], capture_output=True, text=True, timeout=30, check=True)
        facts = json.loads(run.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return Skipped(path, f"does not run ({error})")
    minor = tuple(facts["minor"])
    name = f"{facts['implementation']} {facts['version']}"
    if facts["implementation"] != "CPython":
        return Skipped(path, f"{name}: spprof knows CPython only")
    if not OLDEST <= minor <= NEWEST:
        return Skipped(path, f"{name}: outside 3.{OLDEST[1]}-3.{NEWEST[1]}")
    if facts["free_threaded"] and minor < FREE_THREADED_FROM:
        return Skipped(path, f"{name}: free-threaded builds count from 3.{FREE_THREADED_FROM[1]}")
    key = "{}.{}".format(*minor) + ("t" if facts["free_threaded"] else "")
    shared = [lib for lib in (facts["library"], facts["library_plain"]) if lib.endswith(".so") and os.path.exists(lib)]
    return Python(key, facts["version"], facts["executable"], facts["free_threaded"], shared[0] if shared else None)


def select(wanted: list[str]) -> list[Python]:
    """The Pythons of that name ("3.12", "3.13t", "default") or path; all of them for an empty list."""
    found, _ = discover()
    if not wanted:
        return found
    default = probe(sys.executable)
    chosen = []
    for name in wanted:
        if name == "default":
            python = default
        elif os.sep in name:
            python = probe(name)
        else:
            python = next((python for python in found if python.key == name), Skipped(name, "not on this machine"))
        if isinstance(python, Skipped):
            raise SystemExit(f"{python.path}: {python.reason}")
        chosen.append(python)
    return chosen


def describe() -> str:
    found, skipped = discover()
    lines = [f"  {python.key:6} {python.version:10} {python.executable}" for python in found]
    lines += ["not used:"] + [f"  {skip.path}: {skip.reason}" for skip in skipped]
    return "\n".join(["Pythons found:", *lines])
