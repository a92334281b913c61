"""What the Makefile does on the Pythons of this machine. Standard library only.

pythons.py list                         the Pythons found, and those not used
pythons.py python NAME [-r FILE]...     make the environment of one, print its interpreter
pythons.py test [NAME]... [-- ARGS]     pytest on each (all when none is named)
pythons.py each [NAME]... -- FILE ARGS  run a program on each
pythons.py cargo-test [--sanitizer S]   the crates' own tests
NAME is a version ("3.12", "3.13t"), a path, or "default": the Python that runs this.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

from cargo_test import cargo_test
from discover import Python, describe, probe, select
from environments import ROOT, environment


def main() -> int:
    arguments, rest = split(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    one = commands.add_parser("python")
    one.add_argument("name")
    one.add_argument("-r", dest="requirements", action="append", default=[], type=Path)
    commands.add_parser("test").add_argument("names", nargs="*")
    commands.add_parser("each").add_argument("names", nargs="*")
    commands.add_parser("cargo-test").add_argument("--sanitizer")
    options = parser.parse_args(arguments)
    if options.command == "list":
        print(describe())
        return 0
    if options.command == "python":
        print(environment(select([options.name])[0], options.requirements))
        return 0
    if options.command == "cargo-test":
        return cargo_test(options.sanitizer, rest)
    if options.command == "each":
        return on_each(select(options.names), lambda python: rest)
    return test(options.names, rest)


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """What is before and after the first `--`."""
    position = words.index("--") if "--" in words else len(words)
    return words[:position], words[position + 1 :]


def test(names: list[str], pytest_arguments: list[str]) -> int:
    """The default Python comes last, with the tests of the repository.

    When no Python is named, the statistics (tests/truth) and the hazards run on the default one alone, which keeps the gate
    short; on a named one, or with SPPROF_EVERYTHING set, everything runs.
    """
    print(describe(), flush=True)
    everywhere = bool(names) or bool(os.environ.get("SPPROF_EVERYTHING"))
    default = probe(sys.executable)
    pythons = sorted(select(names), key=lambda python: python == default and not names)

    def arguments(python: Python) -> list[str]:
        left_out = [] if python is pythons[-1] else ["tests/repo"]
        if not everywhere and python is not pythons[-1]:
            left_out += ["tests/truth", "tests/hazards"]
        ignore = [word for folder in left_out for word in ("--ignore", folder)]
        return ["-m", "pytest", *(pytest_arguments or ["tests", *ignore])]

    return on_each(pythons, arguments)


def on_each(pythons: list[Python], arguments: Callable[[Python], list[str]]) -> int:
    """Runs every Python in turn, whatever the one before it gave."""
    failed = []
    for python in pythons:
        print(f"\n=== Python {python.version} ({python.key}): {python.executable}", flush=True)
        interpreter = environment(python, [])
        began = time.monotonic()
        code = subprocess.run([str(interpreter), *arguments(python)], cwd=ROOT).returncode
        if code != 0:
            failed.append(f"{python.key} (exit status {code} after {time.monotonic() - began:.0f} s)")
    if failed:
        print(f"\nFAILED on {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
