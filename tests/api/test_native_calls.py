"""The parts of the interface that answer the same on every machine so far."""

from __future__ import annotations

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


def test_native_unwinding_is_not_there() -> None:
    """And says so, with the contract's texts."""
    assert spprof.native_unwinding_available() is False
    assert spprof.native_unwinding_enabled() is False
    spprof.set_native_unwinding(False)
    with pytest.raises(RuntimeError, match=r"^Native unwinding not available on this platform$"):
        spprof.set_native_unwinding(True)
    with pytest.raises(RuntimeError, match=r"^Failed to capture native stack$"):
        spprof.capture_native_stack()


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
