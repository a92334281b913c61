"""Rooms import only from rooms of a lower rank: docs/architecture.md has the ranks, the code has the imports."""

import architecture
import pytest

TEXT = (architecture.ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def violations(ranks, imports):
    """What is wrong, one line each."""
    wrong = []
    for file, room, imported in imports:
        for name in (room, imported):
            if name not in ranks:
                wrong.append(f"{file}: `{name}` has no rank in docs/architecture.md")
        if room in ranks and imported in ranks and ranks[imported] >= ranks[room]:
            wrong.append(f"{file}: `{room}` (rank {ranks[room]}) imports `{imported}` (rank {ranks[imported]})")
    return sorted(set(wrong))


def test_rust_rooms():
    """No Rust room imports from one beside or above it."""
    ranks = architecture.ranks(TEXT, "Rust")
    imports = list(architecture.rust_imports(architecture.ROOT / "src"))
    assert any(room == "session" and imported == "error" for _, room, imported in imports), "imports are not seen"
    assert violations(ranks, imports) == []


def test_python_modules():
    """No Python module imports from one beside or above it."""
    ranks = architecture.ranks(TEXT, "Python")
    imports = list(architecture.python_imports(architecture.ROOT / "python/spprof"))
    assert any(imported == "_native" for _, _, imported in imports), "imports are not seen"
    assert violations(ranks, imports) == []


def test_the_second_name_only_re_exports():
    """`callflow_tracer`, when it is there, holds imports and nothing else."""
    for file in (architecture.ROOT / "python/callflow_tracer").rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        assert not {"def ", "class ", "lambda"} & set(source.split()), file


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("use crate::session::Options;", {"session"}),
        ("fn f() { crate::sampler::go(); }", {"sampler"}),
        ("use crate::{error::{Error, Result}, resolve};", {"error", "resolve"}),
        ("use spprof_model::Profile;", {"model"}),
        ('// use crate::session::Options;\nlet s = "crate::py::x";', set()),
    ],
)
def test_rust_imports_are_seen(code, names):
    """Every way of naming another room in Rust."""
    assert architecture.rust_names(code, is_crate=False) == names


@pytest.mark.parametrize(
    ("code", "depth", "names"),
    [
        ("from spprof.cli import main", 1, {"cli"}),
        ("from . import _native, _types", 1, {"_native", "_types"}),
        ("from .profiler import start", 1, {"profiler"}),
        ("import spprof", 1, {"__init__"}),
        ("import spprof.output as o", 1, {"output"}),
        ("def f():\n    from ..report import text", 2, {"report"}),
        ("from .verb import run\nimport os", 2, set()),
        ("if TYPE_CHECKING:\n    from .cli import main\nelse:\n    from ._types import Frame", 1, {"_types"}),
    ],
)
def test_python_imports_are_seen(code, depth, names):
    """Every way of importing another module of the package, late imports too."""
    assert architecture.python_names(code, "spprof", depth) == names


def test_a_violation_is_told(tmp_path):
    """An upward import, one to a neighbour and a room without a rank are all named."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/Cargo.toml").touch()
    (tmp_path / "model/lib.rs").write_text("use spprof_export::write;")
    (tmp_path / "sampler.rs").write_text("use crate::resolve::Names;\nuse crate::attic::Box;")
    ranks = {"model": 0, "sampler": 1, "resolve": 1, "export": 2}
    told = violations(ranks, architecture.rust_imports(tmp_path))
    assert [line.partition(": ")[2] for line in told] == [
        "`model` (rank 0) imports `export` (rank 2)",
        "`attic` has no rank in docs/architecture.md",
        "`sampler` (rank 1) imports `resolve` (rank 1)",
    ]
