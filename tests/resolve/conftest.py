"""Builds the extension of tests/resolve/probe.rs for the Python that runs the tests, and loads it."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


@pytest.fixture(scope="session")
def probe_path() -> Path:
    """Where the extension is. One build serves all GIL builds of Python."""
    kind = f"cp3{sys.version_info.minor}t" if FREE_THREADED else "abi3"
    target = ROOT / "target" / "probe" / kind
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYO3_", "CARGO_"))}
    variables.update(CARGO_TARGET_DIR=str(target), PYO3_BUILD_EXTENSION_MODULE="1")
    if FREE_THREADED:
        variables.update(PYO3_PYTHON=sys.executable, UNSAFE_PYO3_SKIP_VERSION_CHECK="1")
    else:
        variables["PYO3_NO_PYTHON"] = "1"
    if "CARGO_HOME" in os.environ:
        variables["CARGO_HOME"] = os.environ["CARGO_HOME"]
    command = ["cargo", "build", "--quiet", "--locked", "--example", "resolve_probe"]
    subprocess.run(command, cwd=ROOT, env=variables, check=True)
    return target / "debug" / "examples" / "libresolve_probe.so"


@pytest.fixture(scope="session")
def probe(probe_path: Path) -> Any:
    loader = importlib.machinery.ExtensionFileLoader("resolve_probe", str(probe_path))
    spec = importlib.util.spec_from_loader("resolve_probe", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def run_with_probe(run_program: Any, probe_path: Path) -> Any:
    """`run_program` for sources that begin with `probe` loaded."""
    load = (
        "import importlib.machinery, importlib.util\n"
        f"_loader = importlib.machinery.ExtensionFileLoader('resolve_probe', {str(probe_path)!r})\n"
        "probe = importlib.util.module_from_spec(importlib.util.spec_from_loader('resolve_probe', _loader))\n"
        "_loader.exec_module(probe)\n"
    )

    def run(source: str, **options: Any) -> Any:
        return run_program(load + textwrap.dedent(source), **options)

    return run
