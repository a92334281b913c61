"""Native frames in profiles: names, modules, filters, and what the command line shows of them."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import spprof
from spprof import Frame, Profile, Sample

LIBC = "/lib/libc.so.6"


def profile_of(stacks: list[tuple[list[Frame], int]]) -> Profile:
    """A profile with a sample of each stack (leaf first) and weight, in the thread `main`."""
    from datetime import datetime

    now = datetime(2026, 1, 1)
    samples = [Sample(i, 1, "main", tuple(frames), weight) for i, (frames, weight) in enumerate(stacks)]
    return Profile(start_time=now, end_time=now, interval_ms=1, samples=samples)


@pytest.fixture()
def mixed(tmp_path: Path) -> Profile:
    """main -> qsort -> key, and main -> qsort, by way of a file."""
    main, key = Frame("main", "a.py", 3), Frame("key", "a.py", 9)
    qsort = Frame("qsort", "msort.c", 77, is_native=True, module=LIBC)
    bare = Frame("qsort_r", LIBC, 0, is_native=True, module=LIBC)
    profile_of([([main], 1), ([qsort, main], 10), ([key, qsort, main], 100), ([bare], 1000)]).save(tmp_path / "p.spprof")
    return spprof.load(tmp_path / "p.spprof")


def stacks(profile: Profile) -> list[tuple[list[str], int]]:
    """Names, root first, and weights."""
    return [([f.function_name for f in reversed(s.frames)], s.weight_ns or 0) for s in profile.samples]


def test_frames_keep_their_module(mixed: Profile) -> None:
    """A frame says where its code was loaded from; Python code from nowhere."""
    leaf = mixed.samples[1].frames[0]
    assert leaf == Frame("qsort", "msort.c", 77, True, LIBC)
    assert mixed.samples[3].frames[0].filename == LIBC
    assert mixed.samples[0].frames[0].module == ""


def test_without_native_frames(mixed: Profile) -> None:
    """Their time is at the Python code that called them: nothing is lost, and nothing is native but what had no caller."""
    python = mixed.filter(native=False)
    assert stacks(python) == [(["main"], 1), (["main"], 10), (["main", "key"], 100), (["<native>"], 1000)]
    assert python.sample_count == mixed.sample_count


def test_native_frames_alone(mixed: Profile) -> None:
    """Of the samples that have any; what had none is in the metadata."""
    native = mixed.filter(native=True)
    assert stacks(native) == [(["qsort"], 10), (["qsort"], 100), (["qsort_r"], 1000)]
    assert native.metadata["losses"]["filtered_ns"] == 1


def test_threads(mixed: Profile) -> None:
    """By name and by id; an unknown one is told."""
    assert mixed.filter(thread="main").sample_count == mixed.filter(thread=1).sample_count == 4
    with pytest.raises(ValueError, match="no such thread in the profile: 'other'"):
        mixed.filter(thread="other")


def test_an_unknown_module_is_told(mixed: Profile) -> None:
    """With those that there are."""
    with pytest.raises(ValueError, match=r"no such module in the profile: 'libm\*'"):
        mixed.filter(module="libm*")


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that sorts with a key function, in two threads, as a file."""
    if not spprof.native_unwinding_available():
        pytest.skip("no native frames on this platform")
    path = tmp_path_factory.mktemp("native") / "p.spprof"

    def key(number: int) -> int:
        return -number

    def ask(enough: int) -> None:
        while spprof.stats().collected_samples < enough:  # type: ignore[union-attr]
            for _ in range(50):
                sorted(range(2000), key=key)

    with spprof.Profiler(interval_ms=1, native=True) as profiler:
        ask(100)
        # Another thread's stack begins in another way.
        thread = threading.Thread(target=ask, args=(300,))
        thread.start()
        thread.join()
    profiler.profile.save(path)
    return path


def test_names_of_a_run(sampled: Path) -> None:
    """Sorting stands between the function that asks for it and the key function that it calls; native frames have modules."""
    profile = spprof.load(sampled)
    assert profile.metadata["native"] == "folded"
    names = [[frame.function_name.rpartition(".")[2] for frame in sample.frames] for sample in profile.samples]
    within = [sample for sample in names if "key" in sample and "ask" in sample]
    assert len(within) > 20
    modules = {module.path for module in profile.modules}
    for sample in profile.samples:
        for frame in sample.frames:
            assert frame.is_native == bool(frame.module), frame
            assert not frame.is_native or frame.module in modules, frame
    between = [sample[sample.index("key") + 1 : sample.index("ask")] for sample in within]
    # CPYTHON 3.10: a frame that is left stays current after the mark of its call on the stack is gone, some nanoseconds of the
    # fifty that this function takes.
    few = len(between) // (4 if sys.version_info[:2] == (3, 10) else 20)
    assert sum(not frames for frames in between) <= few, "no native frames between caller and callee"
    carriers = {name for frames in between for name in frames}
    assert not [name for name in carriers if "_PyEval_EvalFrameDefault" in name or name.endswith("Vectorcall")]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_names_after_a_sudden_end(run_program: Any, tmp_path: Path, end: signal.Signals) -> None:
    """Saved on SIGTERM the profile has names; the journal of a killed process gets them when it is opened."""
    if not spprof.native_unwinding_available():
        pytest.skip("no native frames on this platform")
    # Of a format that holds no addresses.
    path = tmp_path / "p.json"
    journal = tmp_path / "p.json.journal"
    program = """
        import os, spprof, sys
        path, journal, end = sys.argv[1:]
        spprof.start(interval_ms=1, native=True, output_path=path)
        written = 0
        while written < 50:
            for _ in range(50):
                sorted(range(2000), key=lambda number: -number)
            if os.path.exists(journal):
                written = spprof.load(journal).sample_count
        os.kill(os.getpid(), int(end))
        while True:
            pass
    """
    run_program(program, path, journal, int(end), expect_rc=-end)
    profile = spprof.load(path if end == signal.SIGTERM else journal)
    natives = {frame for sample in profile.samples for frame in sample.frames if frame.is_native}
    assert natives
    assert all(frame.function_name and frame.module for frame in natives)
    assert not any("_PyEval_EvalFrameDefault" in frame.function_name for frame in natives)


def test_sums_of_a_run(sampled: Path) -> None:
    """Merging native frames into Python changes no sum; what a module's filter left out is stated to the nanosecond."""
    profile = spprof.load(sampled)

    def sums(part: Profile) -> tuple[int, int]:
        return part.sample_count, sum(sample.weight_ns or 0 for sample in part.samples)

    python = profile.filter(native=False)
    assert sums(python) == sums(profile)
    assert {f.function_name for s in python.samples for f in s.frames if f.is_native} <= {"<native>"}
    module = os.path.basename(profile.modules[0].path)
    part = profile.filter(module=module)
    left_out = part.metadata["losses"]
    count, weight_ns = sums(part)
    assert (count + left_out.get("filtered_samples", 0), weight_ns + left_out.get("filtered_ns", 0)) == sums(profile)
    assert all(any(os.path.basename(f.module) == module for f in s.frames) for s in part.samples)


def test_formats_of_a_run(sampled: Path, tmp_path: Path) -> None:
    """speedscope keeps frames as they are; collapsed and pprof keep what is native."""
    profile = spprof.load(sampled)
    for suffix in ("json", "collapsed", "pb.gz"):
        path = tmp_path / f"p.{suffix}"
        profile.save(path)
        again = spprof.load(path)
        kinds = {(f.function_name, f.is_native) for s in again.samples for f in s.frames}
        assert kinds == {(f.function_name, f.is_native) for s in profile.samples for f in s.frames}, suffix
        if suffix == "json":
            frames = {f for s in again.samples for f in s.frames}
            assert frames == {f for s in profile.samples for f in s.frames}


def report(path: Path, *options: str) -> str:
    """What `spprof report` prints."""
    pytest.importorskip("rich")
    from click.testing import CliRunner
    from spprof.cli.commands import spprof as command

    result = CliRunner().invoke(command, ["report", str(path), *options])
    assert result.exit_code == 0, result.output
    return result.output


def test_report(sampled: Path) -> None:
    """Native functions are marked; `--no-native` has none of them; `--native-only` nothing else."""
    assert "[native] " in report(sampled)
    assert "[native]" not in report(sampled, "--no-native")

    def functions(*options: str) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = json.loads(report(sampled, "--json", "-n", "1000", *options))["functions"]
        return rows

    assert {row["kind"] for row in functions("--native-only")} == {"native"}
    total = sum(int(str(row["self_ns"])) for row in functions())
    assert sum(int(str(row["self_ns"])) for row in functions("--no-native")) == total
