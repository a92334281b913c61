"""Bad arguments: the exact texts, the right kinds, and nothing changed by them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import spprof

STARTERS = [spprof.start, spprof.Profiler, spprof.profile]


def begin(starter: Any, **arguments: Any) -> None:
    """Start a run in one of the three ways."""
    made = starter(**arguments)
    if starter is spprof.Profiler:
        made.__enter__()
    elif starter is spprof.profile:
        made(lambda: None)()


@pytest.mark.parametrize("starter", STARTERS)
@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"interval_ms": 0}, ValueError, "interval_ms must be >= 1"),
        ({"interval_ms": -10}, ValueError, "interval_ms must be >= 1"),
        ({"interval_ms": 0.5}, ValueError, "interval_ms must be >= 1"),
        ({"interval_ms": 2**64}, ValueError, "interval_ms must be <= 18446744073709"),
        ({"interval_ms": 1.5}, TypeError, "interval_ms must be int, not float"),
        ({"interval_ms": 10.0}, TypeError, "interval_ms must be int, not float"),
        ({"interval_ms": float("nan")}, TypeError, "interval_ms must be int, not float"),
        ({"interval_ms": "10"}, TypeError, "interval_ms must be int, not str"),
        ({"interval_ms": None}, TypeError, "interval_ms must be int, not NoneType"),
        ({"interval_ms": True}, TypeError, "interval_ms must be int, not bool"),
        ({"interval_us": 19}, ValueError, "interval_us must be >= 20"),
        ({"interval_us": 100.0}, TypeError, "interval_us must be int, not float"),
        ({"interval_us": 100, "interval_ms": 0}, ValueError, "interval_ms must be >= 1"),
        ({"memory_limit_mb": 0}, ValueError, "memory_limit_mb must be >= 1"),
        ({"memory_limit_mb": -1}, ValueError, "memory_limit_mb must be >= 1"),
        ({"memory_limit_mb": "x"}, TypeError, "memory_limit_mb must be int, not str"),
        ({"clock": "gpu"}, ValueError, "unknown clock: 'gpu' (choose from cpu, wall)"),
        ({"native": "deep"}, ValueError, "unknown native: 'deep' (choose from False, True, 'full')"),
        ({"engine": "steam"}, ValueError, "unknown engine: 'steam' (choose from auto, timer, perf, tick)"),
        (
            {"clock": "wall", "engine": "perf"},
            ValueError,
            "engine='perf' cannot see sleeping threads: clock='wall' takes engine='auto' or 'tick'",
        ),
        (
            {"clock": "wall", "engine": "timer"},
            ValueError,
            "engine='timer' cannot see sleeping threads: clock='wall' takes engine='auto' or 'tick'",
        ),
    ],
    ids=repr,
)
def test_bad_arguments(starter: Any, arguments: dict[str, Any], kind: type[Exception], text: str, tmp_path: Path) -> None:
    """Refused with its reason, before the output file is touched or the profiler started."""
    output = tmp_path / "new" / "profile.json"
    with pytest.raises(kind) as error:
        begin(starter, output_path=output, **arguments)
    assert str(error.value) == text
    assert not spprof.is_active()
    assert list(tmp_path.iterdir()) == []


def test_output_path_must_be_a_path() -> None:
    """Anything else is a TypeError."""
    with pytest.raises(TypeError):
        spprof.start(output_path=7)  # type: ignore[arg-type]
    assert not spprof.is_active()


def test_an_output_path_that_is_a_folder(tmp_path: Path) -> None:
    """Any OSError of the check becomes the contract's PermissionError, with the cause behind it."""
    with pytest.raises(PermissionError) as error:
        spprof.start(output_path=tmp_path)
    assert str(error.value) == f"Cannot write to {tmp_path}: {error.value.__cause__}"
    assert isinstance(error.value.__cause__, IsADirectoryError)
    assert not spprof.is_active()


def test_an_output_path_below_a_file(tmp_path: Path) -> None:
    """A parent that cannot be made counts too."""
    (tmp_path / "file").write_text("content")
    with pytest.raises(PermissionError, match=r"^Cannot write to "):
        spprof.start(output_path=tmp_path / "file" / "profile.json")
    assert (tmp_path / "file").read_text() == "content"


def test_the_check_leaves_an_existing_file_alone(tmp_path: Path) -> None:
    """What is there stays until there is a profile to replace it."""
    output = tmp_path / "profile.json"
    output.write_text("yesterday's")
    spprof.start(output_path=output)
    assert output.read_text() == "yesterday's"
    spprof.stop()
    assert output.read_text().startswith("{")


def test_double_start(tmp_path: Path) -> None:
    """The second start is refused and leaves the first run and the file system as they were."""
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    spprof.start(output_path=first)
    with pytest.raises(RuntimeError) as error:
        spprof.start(output_path=second)
    assert str(error.value) == "Profiler already running"
    assert spprof.is_active()
    spprof.stop()
    assert os.listdir(tmp_path) == ["first.json"]


def test_a_start_that_the_machine_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of it: no file that was not there, no path that the next run would be saved to."""

    def refuse(*arguments: object) -> None:
        raise RuntimeError("refused")

    with monkeypatch.context() as patched:
        patched.setattr("spprof._native._start", refuse)
        (tmp_path / "old.json").write_text("old")
        for name in ("new.json", "old.json"):
            with pytest.raises(RuntimeError, match="refused"):
                spprof.start(output_path=tmp_path / name)
    spprof.start()
    spprof.stop()
    assert os.listdir(tmp_path) == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "old"


def test_stop_without_start() -> None:
    """There is nothing to stop, also for a second time."""
    for _ in range(2):
        with pytest.raises(RuntimeError) as error:
            spprof.stop()
        assert str(error.value) == "Profiler not running"


def test_integers_of_other_types_are_integers() -> None:
    """What has __index__ is an integer, as for Python itself."""

    class Ten:
        def __index__(self) -> int:
            return 10

    spprof.start(interval_ms=Ten())  # type: ignore[arg-type]
    stats = spprof.stats()
    spprof.stop()
    assert stats is not None and stats.interval_ns == 10_000_000


def test_microseconds_take_the_place_of_milliseconds() -> None:
    """interval_us wins, and the profile says so."""
    spprof.start(interval_us=500)
    assert spprof.stop().interval_ms == 0.5


@pytest.mark.parametrize("positional", [(5,), (5, None), (5, None, 50)])
def test_positional_arguments(positional: tuple[Any, ...]) -> None:
    """The guide's three arguments may be given by position."""
    spprof.start(*positional)
    assert spprof.stop().interval_ms == 5
