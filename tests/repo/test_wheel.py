"""What users install: the contents of the wheel, one version everywhere, and a source distribution that builds."""

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile

import architecture
import pytest

ROOT = architecture.ROOT


@pytest.fixture(scope="module")
def wheel():
    """The wheel that `make wheel` built."""
    wheels = list((ROOT / "build/wheels").glob("*.whl"))
    assert len(wheels) == 1, "run `make wheel`"
    return zipfile.ZipFile(wheels[0])


@pytest.fixture(scope="module")
def cargo_version():
    """The one source of the version."""
    text = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    return re.search(r'^\[workspace\.package\]\nversion = "(.+)"$', text, re.MULTILINE)[1]


def metadata(wheel):
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_one_extension_for_all(wheel):
    """One stable-ABI extension, tagged for 3.9 and later."""
    assert "-cp39-abi3-" in os.path.basename(wheel.filename)
    extensions = [name for name in wheel.namelist() if name.endswith(".so")]
    assert [name for name in extensions if "_native" in name] == ["spprof/_native.abi3.so"]


def test_the_library_for_preloading_is_in(wheel, tmp_path):
    """libspprof_alloc.so beside the extension: it loads into a program that knows nothing of Python, and defines malloc."""
    library = wheel.extract("spprof/libspprof_alloc.so", tmp_path)
    symbols = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    assert {"malloc", "free", "realloc", "mmap64", "spprof_alloc_attach"} <= {line.split()[-1] for line in symbols.splitlines()}
    run = subprocess.run(["/bin/echo", "fine"], env={"LD_PRELOAD": library, "LD_BIND_NOW": "1"}, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("fine\n", "")


def test_what_must_be_in(wheel):
    """The package, its type information and its licence."""
    names = wheel.namelist()
    assert {"spprof/__init__.py", "spprof/py.typed", "spprof/_native.pyi"} <= set(names)
    assert any(re.search(r"dist-info/.*LICENSE", name) for name in names)


def test_nothing_else_is_in(wheel):
    """Every Python file of the source tree, no other file of it, and no tests, caches or sources in Rust or C."""
    tree = {file.relative_to(ROOT / "python").as_posix() for file in (ROOT / "python").rglob("*") if file.is_file()}
    tree = {re.sub(r"^spprof\.data/(purelib|platlib)/", "", name) for name in tree}
    tree = {name for name in tree if "__pycache__" not in name and not name.endswith(".so")}
    tree = {re.sub(r"^spprof\.data/platlib/", "", name) for name in tree}
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name and not name.endswith(".so")}
    packed = {re.sub(r"^spprof-[^/]+\.data/(purelib|platlib)/", "", name) for name in packed}
    assert packed == tree
    assert not [name for name in packed if re.search(r"(^|/)tests?/|\.(rs|c|h|toml)$", name)]


def test_no_run_time_dependencies(wheel):
    """A plain install brings spprof alone; whatever else is in an extra."""
    required = metadata(wheel).get_all("Requires-Dist") or []
    assert [line for line in required if "extra ==" not in line] == []


def test_one_version(wheel, cargo_version):
    """Cargo.toml, the wheel, the package and the change log agree, and no crate has a version of its own."""
    import spprof

    assert metadata(wheel)["Version"] == cargo_version
    assert spprof.__version__ == cargo_version
    assert re.search(rf"^## {re.escape(cargo_version)}\b", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    for manifest in [ROOT / "Cargo.toml", *(ROOT / "src").rglob("Cargo.toml")]:
        package = manifest.read_text(encoding="utf-8").split("[package]")[1].split("\n[")[0]
        assert "version.workspace = true" in package, manifest


def test_the_version_is_written_once(cargo_version):
    """No Python source spells the version out."""
    for file in (ROOT / "python").rglob("*.py*"):
        if file.suffix in (".py", ".pyi"):
            assert f'"{cargo_version}"' not in file.read_text(encoding="utf-8"), file


def test_a_wheel_from_the_source_distribution_works(tmp_path):
    """The source distribution holds all that a build needs: what it builds can be imported."""
    maturin = [str(ROOT / "build/tools/bin/maturin")]
    subprocess.run([*maturin, "sdist", "--out", str(tmp_path)], cwd=ROOT, check=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = archive.getnames()
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    assert not [name for name in names if re.search(r"/(build|target|node_modules)/", name)]
    source = next(path for path in tmp_path.iterdir() if path.is_dir())
    # The archive's files all bear one old date, by which cargo would take the kept build folder for up to date.
    for path in source.rglob("*.rs"):
        path.touch()
    # The debug profile: this is about what is there, not how fast it is. The build folder is kept for the next time.
    environment = {**os.environ, "CARGO_TARGET_DIR": str(ROOT / "build/gates/sdist")}
    command = [*maturin, "build", "--profile", "dev", "--locked", "--quiet", "--interpreter", sys.executable]
    subprocess.run([*command, "--out", str(tmp_path)], cwd=source, env=environment, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as built:
        built.extractall(tmp_path / "installed")
    program = "import spprof, sys; print(spprof.__version__, spprof.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    run = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert str(tmp_path / "installed") in run.stdout
