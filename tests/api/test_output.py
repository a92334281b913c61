"""What is written: each format's content, and files that are whole or not there."""

from __future__ import annotations

import gzip
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import spprof
from spprof import Frame, Profile, Sample, output


def test_speedscope(by_hand: Profile) -> None:
    """The contract's shape: one profile a thread, stacks root first, real weights that add up."""
    data = by_hand.to_speedscope()
    assert data["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    assert data["exporter"] == f"spprof {spprof.__version__}"
    frames = data["shared"]["frames"]
    first, second = data["profiles"]
    assert (first["type"], first["unit"], first["name"]) == ("sampled", "nanoseconds", "MainThread")
    assert second["name"] == "Thread-200"
    assert [[frames[i]["name"] for i in stack] for stack in first["samples"]] == [
        ["<module>", "work", "sort"],
        ["<module>", "work", "sort"],
        ["<module>", "work"],
    ]
    assert frames[first["samples"][0][2]] == {"name": "sort", "file": "/app/lib.py", "line": 7}
    for profile in (first, second):
        assert profile["weights"] == [10_000_000] * len(profile["samples"])
        assert profile["endValue"] - profile["startValue"] == sum(profile["weights"])


def test_speedscope_of_nothing(by_hand: Profile) -> None:
    """No samples, no profiles, still the format."""
    by_hand.samples = []
    assert by_hand.to_speedscope()["profiles"] == []


def test_collapsed(by_hand: Profile) -> None:
    """Root first, lines sorted, native frames marked, no newline at the end."""
    expected = [
        "<module> (/app/main.py:40);work (/app/main.py:12) 1",
        "<module> (/app/main.py:40);work (/app/main.py:12);[native] deflate 1",
        "<module> (/app/main.py:40);work (/app/main.py:12);sort (/app/lib.py:7) 2",
    ]
    assert by_hand.to_collapsed().split("\n") == sorted(expected)
    assert output.to_collapsed(by_hand, mark_native=False).count("deflate") == 1
    assert "[native]" not in output.to_collapsed(by_hand, mark_native=False)


def test_aggregated_outputs_say_the_same(by_hand: Profile) -> None:
    """Aggregation loses the order in time and nothing else."""
    aggregated = by_hand.aggregate()
    assert aggregated.to_collapsed() == output.aggregated_to_collapsed(aggregated) == by_hand.to_collapsed()
    assert "[native]" not in output.aggregated_to_collapsed(aggregated, mark_native=False)
    data = aggregated.to_speedscope()
    assert data["name"] == "spprof profile (aggregated)"
    weights = sorted(weight for profile in data["profiles"] for weight in profile["weights"])
    assert weights == [10_000_000, 10_000_000, 20_000_000]


FIRST_BYTES = {
    "speedscope": b"{",
    "collapsed": b"<module>",
    "pprof": b"\x1f\x8b",
    "svg": b"<svg ",
    "spprof": b"SPPROF",
}


@pytest.mark.parametrize("aggregated", [False, True])
@pytest.mark.parametrize("format", FIRST_BYTES)
def test_save_by_format(by_hand: Profile, tmp_path: Path, format: str, aggregated: bool) -> None:
    """The format asked for wins over the suffix."""
    profile: Any = by_hand.aggregate() if aggregated else by_hand
    path = tmp_path / "profile.dat"
    profile.save(path, format=format)
    assert path.read_bytes().startswith(FIRST_BYTES[format])


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("p.json", "speedscope"), ("p", "speedscope"), ("p.collapsed", "collapsed"), ("p.txt", "collapsed"),
        ("p.pb.gz", "pprof"), ("p.svg", "svg"), ("p.spprof", "spprof"),
    ],
)  # fmt: skip
def test_save_by_suffix(by_hand: Profile, tmp_path: Path, name: str, format: str) -> None:
    """Without a format the suffix decides; also for a str."""
    by_hand.save(str(tmp_path / name))
    assert (tmp_path / name).read_bytes().startswith(FIRST_BYTES[format])


def test_files_hold_what_the_objects_say(by_hand: Profile, tmp_path: Path) -> None:
    """The streamed file and the Python object are the same."""
    by_hand.save(tmp_path / "p.json")
    assert json.loads((tmp_path / "p.json").read_text()) == by_hand.to_speedscope()
    by_hand.save(tmp_path / "p.txt")
    assert (tmp_path / "p.txt").read_text() == by_hand.to_collapsed()
    by_hand.save(tmp_path / "p.pb.gz")
    assert b"/app/lib.py" in gzip.decompress((tmp_path / "p.pb.gz").read_bytes())


@pytest.mark.parametrize("format", ["json", "", "SPEEDSCOPE", "aggregated-speedscope"])
def test_unknown_format(by_hand: Profile, tmp_path: Path, format: str) -> None:
    """The contract's text, and no file."""
    for profile in (by_hand, by_hand.aggregate()):
        with pytest.raises(ValueError) as error:
            profile.save(tmp_path / "p.json", format=format)  # type: ignore[attr-defined]
        assert str(error.value) == f"Unknown format: {format}"
    assert list(tmp_path.iterdir()) == []


def test_lone_surrogates_make_valid_files(by_hand: Profile, tmp_path: Path) -> None:
    """JSON stays JSON, whatever a name holds."""
    by_hand.samples = [Sample(0, 1, "\udc80", (Frame("a\ud800b", "\udfff", 1),))]
    by_hand.save(tmp_path / "p.json")
    data = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert data["shared"]["frames"] == [{"name": "a\ud800b", "file": "\udfff", "line": 1}]
    assert by_hand.to_collapsed() == "a\\ud800b (\\udfff:1) 1"


def test_a_failing_save_leaves_the_old_file(by_hand: Profile, tmp_path: Path) -> None:
    """Writing is all or nothing, names the file, and leaves no temporary behind."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(IsADirectoryError) as error:
        by_hand.save(folder)
    assert error.value.filename == str(folder)
    with pytest.raises(FileNotFoundError):
        by_hand.save(tmp_path / "missing" / "p.json")
    assert list(tmp_path.iterdir()) == [folder]
    assert list(folder.iterdir()) == []


def test_saving_over_a_file_keeps_its_mode_and_links(by_hand: Profile, tmp_path: Path) -> None:
    """The file is replaced where it is, not the link that leads to it."""
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    by_hand.save(link)
    assert link.is_symlink() and real.read_text().startswith("{")
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link.json", "real.json"]


def test_a_new_file_has_an_ordinary_mode(by_hand: Profile, tmp_path: Path) -> None:
    """As open() would make it, not a temporary file's."""
    by_hand.save(tmp_path / "p.json")
    with open(tmp_path / "ordinary", "w"):
        pass
    assert (tmp_path / "p.json").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_saving_to_what_is_no_file(by_hand: Profile) -> None:
    """A device is written to, never replaced."""
    by_hand.save("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("content", [b"", b"hello", b"{}", b"SPPROF", b"\x00" * 100], ids=repr)
def test_loading_what_is_no_profile(tmp_path: Path, content: bytes) -> None:
    """A clear error that names the file; it is a ValueError."""
    path = tmp_path / "foreign.spprof"
    path.write_bytes(content)
    with pytest.raises(spprof.LoadError) as error:
        spprof.load(path)
    assert isinstance(error.value, ValueError)
    assert str(path) in str(error.value)


def test_loading_a_truncated_profile(by_hand: Profile, tmp_path: Path) -> None:
    """Cut anywhere, it is an error that tells the offset."""
    path = tmp_path / "p.spprof"
    by_hand.save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(spprof.LoadError, match=r"\d"):
            spprof.load(path)


def test_loading_a_missing_file(tmp_path: Path) -> None:
    """That is the operating system's error."""
    with pytest.raises(FileNotFoundError) as error:
        spprof.load(tmp_path / "none.spprof")
    assert error.value.filename == str(tmp_path / "none.spprof")
