"""`hazard(source)`: a hostile program in a process of its own, with `witness` to import."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Callable

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def hazard(run_program: Any) -> Callable[..., Any]:
    def run(source: str, *args: object, **options: Any) -> Any:
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))
        options["env"] = {"PYTHONPATH": path, **options.get("env", {})}
        return run_program(source, *args, **options)

    return run


@pytest.fixture
def c_library(tmp_path: Path) -> Callable[[str], Path]:
    """Compiles C into a shared library; the test is skipped where there is no compiler."""

    def build(source: str) -> Path:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("no C compiler here")
        (tmp_path / "host.c").write_text(source)
        library = tmp_path / "host.so"
        command = [compiler, "-O1", "-shared", "-fPIC", "-pthread", str(tmp_path / "host.c"), "-o", str(library)]
        subprocess.run(command, check=True)
        return library

    return build
