"""What `import spprof` costs and what it does when it cannot."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import spprof


def test_import_brings_next_to_nothing(run_program: Any) -> None:
    """None of the modules that would make the import slow come with it."""
    program = """
        import sys
        before = set(sys.modules)
        import spprof
        print("LOADED", *sorted(set(sys.modules) - before))
    """
    result = run_program(program)
    loaded = result.stdout.split()[1:]
    assert {name for name in loaded if not name.startswith("spprof")} <= {"__future__", "_thread", "atexit"}
    assert {name for name in loaded if name.startswith("spprof")} == {
        "spprof",
        "spprof._native",
        "spprof._settings",
        "spprof.profiler",
    }


def test_a_missing_extension_is_an_import_error(run_program: Any, tmp_path: Path) -> None:
    """No stub pretends to profile: the import fails and says why."""
    copy = tmp_path / "elsewhere" / "spprof"
    shutil.copytree(Path(spprof.__file__).parent, copy, ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    program = """
        import sys
        sys.path.insert(0, sys.argv[1])
        try:
            import spprof
        except ImportError as error:
            print(error.name, error)
    """
    result = run_program(program, copy.parent)
    assert result.stdout.startswith("spprof._native spprof's native extension does not load: ")


def test_a_broken_extension_is_an_import_error(run_program: Any, tmp_path: Path) -> None:
    """The loader's own reason is in the message."""
    copy = tmp_path / "elsewhere" / "spprof"
    shutil.copytree(Path(spprof.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (extension,) = [path for path in copy.glob("_native.*") if path.suffix != ".pyi"]
    extension.write_bytes(b"not a library")
    program = "import sys; sys.path.insert(0, sys.argv[1]); import spprof"
    result = run_program(program, copy.parent, expect_rc=1)
    assert "ImportError: spprof's native extension does not load: " in result.stderr
    assert extension.name in result.stderr
