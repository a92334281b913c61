"""The parts of the interface that answer the same on every machine so far."""

from __future__ import annotations

import functools
import os
import platform
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import spprof
import spprof._native


def test_thread_registration_is_accepted_everywhere() -> None:
    """Before a run, during it and after it; in a thread or as a context manager."""
    assert spprof.register_thread() is True
    assert spprof.unregister_thread() is True
    with spprof.ThreadProfiler() as registered:
        assert isinstance(registered, spprof.ThreadProfiler)
    spprof.start()
    assert spprof.register_thread() is True
    spprof.stop()


AVAILABLE = spprof.native_unwinding_available()
native_only = pytest.mark.skipif(not AVAILABLE, reason="native stacks cannot be had on this processor")


def test_native_stacks_are_to_be_had_where_they_are() -> None:
    """On x86-64 Linux; the extension says by what."""
    expected = (sys.platform, platform.machine()) == ("linux", "x86_64")
    assert (AVAILABLE, spprof._native.unwind_method != "none") == (expected, expected)


def test_native_unwinding_is_off_until_asked_for(run_program: Any) -> None:
    """A fresh process has it off; any truthy value turns it on for the runs that follow, any falsy one off."""
    program = """
        import spprof
        print(spprof.native_unwinding_enabled())
        try:
            spprof.capture_native_stack()
        except RuntimeError as error:
            print(error)
        spprof.set_native_unwinding(0)
        if not spprof.native_unwinding_available():
            spprof.set_native_unwinding(1)

        def kinds(**native):
            spprof.start(1, **native)
            while not spprof.stats().collected_samples:
                sum(range(20000))
            return sorted({f.is_native for s in spprof.stop().samples for f in s.frames if s.thread_id == tid})

        import threading
        tid = threading.get_native_id()
        print(kinds())
        spprof.set_native_unwinding("yes")
        print(spprof.native_unwinding_enabled(), kinds(), kinds(native=False))
        spprof.set_native_unwinding(False)
        print(spprof.native_unwinding_enabled(), kinds(), kinds(native="full"))
    """
    result = run_program(program)
    if AVAILABLE:
        expected = "[False]\nTrue [False, True] [False]\nFalse [False] [False, True]\n"
        assert (result.rc, result.stdout) == (0, f"False\nFailed to capture native stack\n{expected}")
    else:
        assert "RuntimeError: Native unwinding not available on this platform" in result.stderr


@native_only
def test_a_stack_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """From who called us in C to the program's start, each frame named from its own file."""
    monkeypatch.setattr("spprof.profiler._native_wanted", True)
    found: list[spprof.NativeFrame] = []
    functools.reduce(lambda a, b: found.extend(spprof.capture_native_stack()), [1, 2])
    names = [frame.symbol for frame in found]
    if "functools_reduce" in names:
        # A build with symbols: the callback is between its caller and the loop that ran this function.
        assert names.index("functools_reduce") < len(names) - 2
    assert found[-1].symbol == "_start" and found[-1].resolved
    assert not any("_native" in frame.filename for frame in found)
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    for frame in found:
        (region,) = [it for it in maps if int(it[0].split("-")[0], 16) <= frame.ip < int(it[0].split("-")[1], 16)]
        assert "x" in region[1] and os.path.realpath(frame.filename) == region[5], frame
        assert 0 < frame.offset < 1 << 20 and frame.resolved == ("+0x" not in frame.symbol), frame


@native_only
def test_a_stack_of_a_new_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends where threads begin."""
    monkeypatch.setattr("spprof.profiler._native_wanted", True)
    found: list[spprof.NativeFrame] = []
    thread = threading.Thread(target=lambda: found.extend(spprof.capture_native_stack()))
    thread.start()
    thread.join()
    assert found[-1].filename.rsplit("/", 1)[-1].startswith(("libc", "ld-musl"))


def test_attributes_that_programs_touch() -> None:
    """Names outside the guide that existing programs and their tests use."""
    assert spprof._HAS_NATIVE is True
    assert callable(spprof._native._start)
    assert spprof.output._get_version() == spprof.__version__
    for name in ("platform", "frame_walker", "unwind_method", "free_threaded_build", "free_threading_safe"):
        assert hasattr(spprof._native, name)


def test_every_public_name_is_there() -> None:
    """The map leads somewhere, and dir() shows it."""
    for name in spprof.__all__:
        assert getattr(spprof, name) is not None
    assert set(spprof.__all__) <= set(dir(spprof))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        spprof.nonsense  # noqa: B018
