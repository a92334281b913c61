"""Runs the crates' unit tests. Those of the extension embed a Python, so they need a libpython to link and to load."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from discover import Python, discover, probe
from environments import ROOT


def cargo_test(sanitizer: str | None, arguments: list[str]) -> int:
    python = linkable_python()
    if python is None and shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", "libpython3-dev"], check=True)
        python = linkable_python()
    command, variables = ["cargo", "test", "--workspace", "--locked"], dict(os.environ)
    if python is None:
        print("NOT TESTED: the crate spprof itself, no Python here has a shared libpython to link with", file=sys.stderr)
        command += ["--exclude", "spprof"]
    else:
        assert python.library
        variables["PYO3_PYTHON"] = python.executable
        folders = [os.path.dirname(python.library), variables.get("LD_LIBRARY_PATH", "")]
        variables["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, folders))
    if sanitizer:
        command[1:1] = ["+nightly"]
        command += ["--target", "x86_64-unknown-linux-gnu"]
        variables["RUSTFLAGS"] = f"-Zsanitizer={sanitizer}"
        variables["CARGO_TARGET_DIR"] = str(ROOT / "target" / sanitizer)
        # The interpreter itself leaks by design.
        variables["ASAN_OPTIONS"] = "detect_leaks=0"
    return subprocess.run([*command, *arguments], cwd=ROOT, env=variables).returncode


def linkable_python() -> Python | None:
    """This Python if it can be linked, else any other with a GIL, else Debian's own."""
    found, _ = discover()
    mine = probe(sys.executable)
    debian = probe("/usr/bin/python3")
    for python in [mine, *found, debian]:
        if isinstance(python, Python) and python.library and not python.free_threaded:
            return python
    return None
