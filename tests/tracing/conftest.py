"""Every test ends with nothing traced any more."""

from __future__ import annotations

import sys
import threading

import pytest
from spprof import _native


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    assert not _native._trace_is_armed()
    assert sys.getprofile() is None
    assert threading._profile_hook is None
    if sys.version_info >= (3, 12):
        assert "spprof" not in [sys.monitoring.get_tool(slot) for slot in range(6)]
