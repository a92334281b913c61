"""The end of the process: by itself, by a signal, by a crash. What was sampled is saved, and the end stays what it was."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import spprof

BEGIN = """
    import os, signal, sys, threading, time, spprof
    from witness import burn
    path = sys.argv[1]

    def sampled(count):
        goal = spprof.stats().collected_samples + count
        while spprof.stats().collected_samples < goal:
            burn(0.001)
"""


def busy_share(path: Any) -> float:
    """The part of the time of a saved profile that is in `burn`."""
    profile = spprof.load(path)
    total = sum(sample.weight_ns or 0 for sample in profile.samples)
    busy = sum(sample.weight_ns or 0 for sample in profile.samples if any(f.function_name == "burn" for f in sample.frames))
    assert total > 0
    return busy / total


@pytest.mark.parametrize("name", ["p.spprof", "p.json"])
def test_sigterm(hazard: Any, tmp_path: Any, name: str) -> None:
    """The profile is saved, nothing else is left, and the process is dead of SIGTERM."""
    path = tmp_path / name
    result = hazard(
        BEGIN
        + """
    spprof.start(interval_ms=1, output_path=path)
    sampled(200)
    os.kill(os.getpid(), signal.SIGTERM)
    burn(30)
    """,
        path,
        expect_rc=-signal.SIGTERM,
    )
    assert result.stderr == ""
    assert not (tmp_path / (name + ".journal")).exists()
    assert busy_share(path) > 0.6


def test_sigterm_with_every_thread_in_c(hazard: Any, tmp_path: Any) -> None:
    """No thread needs to run Python for it: one holds the GIL in C for good, the others wait for it."""
    path = tmp_path / "p.spprof"
    hazard(
        BEGIN
        + """
    import ctypes
    spprof.start(interval_ms=1, output_path=path)
    sampled(200)
    threading.Thread(target=burn, args=(100,), daemon=True).start()
    threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
    pid = os.getpid()
    child = os.fork()
    if child == 0:
        time.sleep(0.3)
        os.kill(pid, signal.SIGTERM)
        os._exit(0)
    ctypes.PyDLL(None).sleep(100)
    ctypes.PyDLL(None).sleep(100)
    """,
        path,
        expect_rc=-signal.SIGTERM,
    )
    assert busy_share(path) > 0.6


def test_sigterm_with_a_handler(hazard: Any, tmp_path: Any) -> None:
    """A host that handles SIGTERM, before the run or from within it, does so as ever."""
    hazard(
        BEGIN
        + """
    from witness import dispositions
    for turn in range(2):
        got = []
        handler = lambda number, frame: got.append(number)
        if turn == 0:
            signal.signal(signal.SIGTERM, handler)
        spprof.start(interval_ms=1, output_path=path)
        if turn == 1:
            signal.signal(signal.SIGTERM, handler)
        sampled(50)
        before = dispositions()[signal.SIGTERM]
        for number in range(1, 4):
            os.kill(os.getpid(), signal.SIGTERM)
            deadline = time.monotonic() + 5
            while len(got) < number and time.monotonic() < deadline:
                burn(0.001)
            assert len(got) == number
        assert spprof.stop().sample_count >= 50
        assert dispositions()[signal.SIGTERM] == before
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # And without an output path nothing is done about it.
    spprof.start()
    assert dispositions()[signal.SIGTERM][:8] == bytes(8)
    spprof.stop()
    """,
        tmp_path / "p.json",
    )


def test_sigterm_in_a_child(hazard: Any, tmp_path: Any) -> None:
    """A forked child dies of SIGTERM at once, and writes nothing over its parent's profile."""
    path = tmp_path / "p.spprof"
    hazard(
        BEGIN
        + """
    spprof.start(interval_ms=1, output_path=path)
    sampled(100)
    # At once, so that it often comes before the child has taken out our handler; or when it has.
    for pause in [0] * 40 + [0.05]:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(3)
        time.sleep(pause)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM, status
    assert os.path.getsize(path) == 0 and os.path.exists(path + ".journal")
    sampled(100)
    spprof.stop()
    """,
        path,
    )
    assert busy_share(path) > 0.6


def test_sigkill(hazard: Any, tmp_path: Any) -> None:
    """What had been flushed can be opened, and says that it is not all."""
    path = tmp_path / "p.spprof"
    hazard(
        BEGIN
        + """
    journal = path + ".journal"
    spprof.start(interval_ms=1, output_path=path)
    sampled(20)
    size, grown = 0, 0
    while grown < 2:
        now = os.path.getsize(journal)
        grown, size = grown + (now > size), now
        burn(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
    """,
        path,
        expect_rc=-signal.SIGKILL,
    )
    profile = spprof.load(tmp_path / "p.spprof.journal")
    assert profile.sample_count >= 20
    assert profile.metadata["incomplete"]
    assert busy_share(tmp_path / "p.spprof.journal") > 0.6


@pytest.mark.parametrize("when", ["before", "during", "disabled", "twice"])
def test_a_crash(hazard: Any, tmp_path: Any, when: str) -> None:
    """A real fault is reported by faulthandler, if it is enabled, and ends the process as it should; the journal remains."""
    path = tmp_path / "p.spprof"
    result = hazard(
        BEGIN
        + """
    import ctypes, faulthandler
    when = sys.argv[2]
    if when != "during":
        faulthandler.enable()
    spprof.start(interval_us=200, output_path=path)
    if when == "during":
        faulthandler.enable()
    if when == "disabled":
        sampled(300)
        faulthandler.disable()
    sampled(300)
    if when == "twice":
        spprof.stop()
        faulthandler.disable()
        faulthandler.enable()
        spprof.start(interval_us=200, output_path=path)
        sampled(300)
    while not os.path.getsize(path + ".journal"):
        burn(0.01)

    def the_culprit():
        ctypes.string_at(0)
    the_culprit()
    """,
        path,
        when,
        faulthandler=False,
        expect_rc=-signal.SIGSEGV,
    )
    if when == "disabled":
        assert result.stderr == ""
    else:
        assert result.stderr.count("Segmentation fault") == 1
        assert "in the_culprit" in result.stderr
    assert spprof.load(tmp_path / "p.spprof.journal").metadata["incomplete"]


def test_a_crash_after_the_run(hazard: Any, tmp_path: Any) -> None:
    """faulthandler enabled during a run reports a fault after it, once."""
    result = hazard(
        BEGIN
        + """
    import ctypes, faulthandler
    spprof.start(interval_us=200)
    faulthandler.enable()
    sampled(500)
    spprof.stop()
    ctypes.string_at(0)
    """,
        tmp_path,
        faulthandler=False,
        expect_rc=-signal.SIGSEGV,
    )
    assert result.stderr.count("Segmentation fault") == 1


@pytest.mark.parametrize("number", ["SIGSEGV", "SIGBUS"])
def test_a_fault_signal_that_was_sent(hazard: Any, tmp_path: Any, number: str) -> None:
    """kill -SEGV ends the process as without us."""
    hazard(
        BEGIN
        + """
    number = getattr(signal, sys.argv[2])
    spprof.start(interval_us=200)
    sampled(100)
    os.kill(os.getpid(), number)
    burn(30)
    """,
        tmp_path,
        number,
        faulthandler=False,
        expect_rc=-getattr(signal, number),
    )


@pytest.mark.parametrize("engine", ["auto", "timer", "tick"])
def test_daemon_threads_at_exit(hazard: Any, tmp_path: Any, engine: str) -> None:
    """The interpreter ends while threads run Python, are sampled, and start and stop runs."""
    for _ in range(3):
        result = hazard(
            BEGIN
            + """
    def restart():
        while True:
            try:
                spprof.stop()
            except RuntimeError:
                pass
            try:
                spprof.start(interval_us=200, engine=sys.argv[2])
            except RuntimeError:
                pass
    spprof.start(interval_us=200, engine=sys.argv[2])
    for target, arguments in ((burn, (100,)), (burn, (100,)), (restart, ())):
        threading.Thread(target=target, args=arguments, daemon=True).start()
    burn(0.1)
    """,
            tmp_path,
            engine,
        )
        assert result.stderr == ""


def test_started_in_the_last_moment(hazard: Any, tmp_path: Any) -> None:
    """A run that begins when the interpreter is already ending, after our own exit hook, ends with it."""
    result = hazard(
        BEGIN
        + """
    import atexit

    class Late:
        def __del__(self, start=spprof.start, burn=burn):
            try:
                start(interval_ms=1)
            except RuntimeError:
                pass
            burn(0.05)

    def late():
        spprof.start(interval_us=200, output_path=path)
        sampled(10)
        exec("\\n".join(f"def f{i}(): pass" for i in range(2000)), {})
    atexit.register(late)
    sys.late = Late()
    spprof.start()
    """,
        tmp_path / "p.json",
    )
    assert "Fatal" not in result.stderr, result.stderr


@pytest.mark.parametrize("end", ["os._exit(3)", "os.abort()", "signal.raise_signal(signal.SIGABRT)"])
def test_ends_without_ceremony(hazard: Any, tmp_path: Any, end: str) -> None:
    """No handler of ours turns an abrupt end into a hang."""
    hazard(
        BEGIN + f"    spprof.start(interval_us=200)\n    sampled(50)\n    {end}\n",
        tmp_path,
        expect_rc=3 if "exit" in end else -signal.SIGABRT,
        faulthandler=False,
    )
