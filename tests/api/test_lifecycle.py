"""Start, stop, and what a run leaves: in this thread, another, a child, at exit."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Callable

import pytest
import spprof

Work = Callable[..., None]


def test_a_run(work: Work) -> None:
    """The guide's first program: samples of this function, on this thread, within the run's time."""
    before = datetime.now()
    spprof.start(interval_ms=1)
    assert spprof.is_active()
    work(20)
    profile = spprof.stop()
    after = datetime.now()
    assert not spprof.is_active()
    slack = timedelta(milliseconds=50)
    assert before - slack <= profile.start_time <= profile.end_time <= after + slack
    assert profile.interval_ms == 1 and isinstance(profile.interval_ms, int)
    mine = [s for s in profile.samples if s.thread_id == threading.get_native_id()]
    assert len(mine) >= 15
    assert {s.thread_name for s in mine} == {"MainThread"}
    timestamps = [s.timestamp_ns for s in mine]
    assert timestamps == sorted(timestamps)
    assert timestamps[0] >= 0 and timestamps[-1] <= profile.total_duration_ms * 1e6
    below = [s for s in mine if any(f.function_name == "be_sampled" for f in s.frames)]
    assert len(below) > len(mine) // 2
    for s in below:
        names = [f.function_name for f in s.frames]
        # Leaf first.
        assert names.index("be_sampled") < names.index("test_a_run") < len(names) - 1
    assert sum(s.weight_ns or 0 for s in profile.samples) == profile.metadata["weight_ns"]


def test_versions_in_the_profile() -> None:
    """The profile says on what it was made."""
    import platform

    spprof.start()
    profile = spprof.stop()
    assert profile.python_version == platform.python_version()
    assert profile.platform == f"{platform.system()}-{platform.release()}-{platform.machine()}"
    assert profile.metadata["pid"] == os.getpid()
    assert profile.metadata["argv"][1:] == sys.orig_argv[1:] if hasattr(sys, "orig_argv") else True
    assert profile.metadata["clock"] == "cpu"
    assert profile.metadata["engine"] in ("timer", "perf", "tick")
    assert profile.metadata["engine_reason"]


def test_the_wall_clock(tmp_path: Path) -> None:
    """A thread that sleeps is seen where it sleeps, and its elapsed time is in every view of the profile."""
    before = time.monotonic_ns()
    spprof.start(interval_ms=1, clock="wall")
    began = time.monotonic_ns()
    time.sleep(0.3)
    slept = time.monotonic_ns() - began
    profile = spprof.stop()
    whole = time.monotonic_ns() - before
    assert profile.metadata["clock"] == "wall"
    mine = [s for s in profile.samples if s.thread_id == threading.get_native_id()]
    assert 0.8 * slept < sum(s.weight_ns or 0 for s in mine) <= whole
    assert any(f.function_name == "test_the_wall_clock" for s in mine for f in s.frames)
    profile.save(tmp_path / "p.spprof")
    native = spprof._native._load(tmp_path / "p.spprof")
    assert sum(row["self_ns"] for row in native.functions()) == sum(s.weight_ns or 0 for s in profile.samples)


def test_stats(work: Work) -> None:
    """None without a run; within one, counters that were measured."""
    assert spprof.stats() is None
    spprof.start(interval_ms=2)
    work(10)
    stats = spprof.stats()
    assert stats is not None
    spprof.stop()
    assert spprof.stats() is None
    assert stats.collected_samples >= 10
    assert stats.dropped_samples == 0
    assert stats.duration_ms > 10
    assert stats.interval_ns == 2_000_000
    assert stats.requested_rate_hz == 500.0
    assert stats.delivered_rate_hz > 0
    assert 0 < stats.handler_ns < stats.process_cpu_ns
    assert 0 < stats.overhead_estimate_pct < 100
    assert stats.threads >= 1
    assert stats.losses and all(isinstance(count, int) for count in stats.losses.values())


def test_stop_from_another_thread(work: Work) -> None:
    """Who stops needs not be who started."""
    spprof.start(interval_ms=1)
    work()
    profiles: list[spprof.Profile] = []
    thread = threading.Thread(target=lambda: profiles.append(spprof.stop()))
    thread.start()
    thread.join()
    assert not spprof.is_active()
    assert profiles[0].sample_count >= 5


def test_many_runs(work: Work) -> None:
    """Each run is a new one: nothing of the last is in the next."""
    for _ in range(3):
        spprof.start(interval_ms=1)
        work()
        stats = spprof.stats()
        profile = spprof.stop()
        assert stats is not None
        assert profile.sample_count >= 5
        assert all(s.timestamp_ns <= profile.total_duration_ms * 1e6 for s in profile.samples)
    spprof.start()
    assert spprof.stop().sample_count <= 2


@pytest.mark.parametrize(("name", "first"), [("p.json", "{"), ("p.collapsed", ""), ("p.txt", ""), ("p.spprof", "SPPROF")])
def test_stop_saves(work: Work, tmp_path: Path, name: str, first: str) -> None:
    """To the path given at start, in the format of its suffix, folders made as needed."""
    path = tmp_path / "some" / "folder" / name
    spprof.start(interval_ms=1, output_path=path)
    assert path.exists()
    work()
    profile = spprof.stop()
    content = path.read_bytes()
    assert content.startswith(first.encode())
    if name.endswith(".json"):
        assert json.loads(content) == profile.to_speedscope()
    elif not name.endswith(".spprof"):
        assert content.decode() == profile.to_collapsed()


def test_a_relative_path_is_of_the_start(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that changes its folder finds the profile where it asked for it."""
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    spprof.start(output_path="p.json")
    monkeypatch.chdir(tmp_path / "there")
    spprof.stop()
    assert (tmp_path / "p.json").stat().st_size > 0
    assert list((tmp_path / "there").iterdir()) == []


def test_a_failing_save_does_not_lose_the_profile(work: Work, tmp_path: Path) -> None:
    """The error is raised with the profile attached, and the run is over."""
    path = tmp_path / "p.json"
    spprof.start(interval_ms=1, output_path=path)
    work()
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError) as error:
        spprof.stop()
    assert error.value.profile.sample_count >= 5  # type: ignore[attr-defined]
    assert not spprof.is_active()


def test_profiler(work: Work, tmp_path: Path) -> None:
    """The context manager: a profile after the block, None before."""
    profiler = spprof.Profiler(interval_ms=1, output_path=tmp_path / "p.json")
    assert profiler.profile is None
    with profiler as entered:
        assert entered is profiler and profiler.profile is None
        work()
    assert profiler.profile is not None and profiler.profile.sample_count >= 5
    assert json.loads((tmp_path / "p.json").read_text()) == profiler.profile.to_speedscope()


def test_profiler_lets_exceptions_through(work: Work, tmp_path: Path) -> None:
    """They go on their way after the profile was saved."""
    with pytest.raises(KeyError), spprof.Profiler(interval_ms=1, output_path=tmp_path / "p.json") as profiler:
        work()
        raise KeyError("the program's own")
    assert profiler.profile is not None and profiler.profile.sample_count >= 5
    assert (tmp_path / "p.json").stat().st_size > 0


def test_profiler_whose_save_fails(tmp_path: Path) -> None:
    """Without an exception of the block the error is raised; with one it must not take its place. The profile is kept."""
    path = tmp_path / "p.json"
    profiler = spprof.Profiler(output_path=path)
    with pytest.raises(IsADirectoryError), profiler:
        path.unlink()
        path.mkdir()
    assert profiler.profile is not None
    path.rmdir()
    profiler = spprof.Profiler(output_path=path)
    with pytest.warns(RuntimeWarning, match="Is a directory"), pytest.raises(KeyError), profiler:
        path.unlink()
        path.mkdir()
        raise KeyError
    assert profiler.profile is not None


def test_profiler_inside_a_run() -> None:
    """There is one run a process."""
    with spprof.Profiler():
        with pytest.raises(RuntimeError, match=r"^Profiler already running$"), spprof.Profiler():
            pytest.fail("not reached")
        assert spprof.is_active()


def test_a_stop_inside_the_block() -> None:
    """Somebody else's stop is told at the end of the block."""
    with pytest.raises(RuntimeError, match=r"^Profiler not running$"), spprof.Profiler():
        spprof.stop()


EXIT = """
    import sys, spprof
    spprof.start(interval_ms=1, output_path=sys.argv[1])
    def busy():
        goal = spprof.stats().collected_samples + 10
        while spprof.stats().collected_samples < goal:
            sum(range(1000))
    busy()
"""


@pytest.mark.parametrize(
    ("end", "rc"),
    [("", 0), ("sys.exit(3)", 3), ("1/0", 1), ("import threading; threading.Thread(target=busy).start()", 0)],
)
def test_exit_while_active(run_program: Any, tmp_path: Path, end: str, rc: int) -> None:
    """However the interpreter ends, the profile is written, with what threads did that outlived the main one."""
    path = tmp_path / "p.collapsed"
    run_program(EXIT + f"    {end}\n", path, expect_rc=rc)
    content = path.read_text()
    assert "busy (" in content
    assert ("Thread.run" in content or "run (" in content) == ("threading" in end)


def test_thread_names(work: Work) -> None:
    """Also of threads that ended long before the run, and of those renamed; `threading` is left as it was."""
    untouched = dict(vars(threading.Thread))
    spprof.start(interval_ms=1)

    def renames_itself() -> None:
        threading.current_thread().name = "renamed"
        work()

    threads = [threading.Thread(target=work, name="named"), threading.Thread(target=renames_itself, name="old")]
    for thread in threads:
        thread.start()
        thread.join()
    profile = spprof.stop()
    assert {"named", "renamed"} <= {s.thread_name for s in profile.samples}
    assert "old" not in {s.thread_name for s in profile.samples}
    assert dict(vars(threading.Thread)) == untouched
    threads[0].name = "after"


def test_a_hook_over_ours(run_program: Any) -> None:
    """Somebody who hooks threading.Thread during a run finds his hook afterwards, and everything still works."""
    program = """
        import spprof, threading
        spprof.start()
        below = threading.Thread._set_native_id
        def mine(self):
            told.append(self.name)
            below(self)
        told = []
        threading.Thread._set_native_id = mine
        for _ in range(3):
            spprof.stop()
            assert threading.Thread._set_native_id is mine
            thread = threading.Thread(target=print, name="t")
            thread.start()
            thread.join()
            spprof.start()
        spprof.stop()
        assert told == ["t"] * 3
    """
    run_program(program)


def test_exit_without_a_path(run_program: Any, tmp_path: Path) -> None:
    """Nothing to write, nothing said."""
    result = run_program("import spprof; spprof.start()")
    assert (result.stdout, result.stderr) == ("", "")


FORK = """
    import json, os, sys, spprof
    from spprof import Profiler
    path = sys.argv[1]
    said = {}
    with Profiler(interval_ms=1, output_path=path + "/parent.json") as profiler:
        child = os.fork()
        if child == 0:
            said["active"] = spprof.is_active()
            said["stats"] = spprof.stats()
            try:
                spprof.stop()
            except RuntimeError as error:
                said["stop"] = str(error)
            spprof.start(interval_ms=1, output_path=path + "/child.json")
            while spprof.stats().collected_samples < 5:
                sum(range(1000))
            said["samples"] = spprof.stop().sample_count
    if child == 0:
        said["profile"] = profiler.profile
        print(json.dumps(said))
    else:
        assert os.waitpid(child, 0)[1] == 0
        assert profiler.profile is not None
"""


def test_fork(run_program: Any, tmp_path: Path) -> None:
    """The child has no run, leaves its parent's block quietly, and may have a run of its own."""
    said = run_program(FORK, tmp_path).json
    samples = said.pop("samples")
    assert samples >= 5
    assert said == {"active": False, "stats": None, "stop": "Profiler not running", "profile": None}
    for name in ("parent.json", "child.json"):
        assert json.loads((tmp_path / name).read_text())["exporter"].startswith("spprof ")


def test_fork_while_another_thread_starts(run_program: Any) -> None:
    """The child does not wait for a lock whose holder it does not have."""
    program = """
        import os, spprof, threading
        from spprof import _native, profiler
        inside, go_on = threading.Event(), threading.Event()
        start = _native._start
        def slow(*arguments):
            inside.set()
            go_on.wait()
            start(*arguments)
        _native._start = slow
        thread = threading.Thread(target=spprof.start)
        thread.start()
        inside.wait()
        child = os.fork()
        if child == 0:
            _native._start = start
            spprof.start()
            spprof.stop()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        go_on.set()
        thread.join()
        spprof.stop()
    """
    run_program(program)


def test_green_threads_do_not_rename_the_main_one(run_program: Any) -> None:
    """What runs on the main thread under another `Thread` object, as greenlets do, has not its name to give."""
    program = """
        import spprof, threading
        spprof.start(interval_ms=1)
        green = threading.Thread(name="green")
        green._set_ident()
        green._set_native_id()
        threading._active[-1] = green
        goal = spprof.stats().collected_samples + 5
        while spprof.stats().collected_samples < goal:
            sum(range(1000))
        print({s.thread_name for s in spprof.stop().samples})
        del threading._active[-1]
    """
    assert run_program(program).stdout == "{'MainThread'}\n"


def test_stop_in_a_signal_handler(run_program: Any) -> None:
    """A handler that stops the run may come at any line, also inside start()."""
    program = """
        import signal, spprof
        stopped = []
        def handler(number, frame):
            try:
                stopped.append(spprof.stop())
            except RuntimeError as error:  # also when another handler came within this one
                assert str(error) == "Profiler not running", error
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for _ in range(300):
            try:
                spprof.start()
            except RuntimeError as error:
                assert str(error) == "Profiler already running", error
            if spprof.is_active():
                try:
                    stopped.append(spprof.stop())
                except RuntimeError as error:
                    assert str(error) == "Profiler not running", error
        signal.setitimer(signal.ITIMER_REAL, 0)
        if spprof.is_active():
            spprof.stop()
        print(len(stopped))
    """
    assert int(run_program(program).stdout) >= 290


def test_the_thread_of_a_forked_child_has_its_name(run_program: Any) -> None:
    """Its kernel id is another than its parent's, which `threading` does not notice on every version."""
    run_program(
        """
        import os, threading, time, spprof
        pid = os.fork()
        if pid:
            raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        spprof.start(interval_ms=1)
        end = time.thread_time() + 20
        while not spprof.stats().collected_samples and time.thread_time() < end:
            sum(range(1000))
        names = {sample.thread_name for sample in spprof.stop().samples}
        assert names == {"MainThread"}, names
        """
    )
