"""Thread names: what Python calls its threads, told to the run. Sampling itself needs none of this.

While a run is active, `threading.Thread` reports each thread as it starts and as it is renamed; so a thread that lives for a
moment has its name, and is sampled from its beginning rather than from the next look at the task list. What is replaced for
this is put back at the end, unless somebody has replaced it again: then ours stays below his, and goes on passing through.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from . import _native

# What ours stand in for, while they do.
_before: dict[str, Any] = {}


def watch() -> None:
    """Tell the names of the threads there are, and of those to come."""
    thread: Any = threading.Thread
    # Called by every thread as the first thing it does (CPython 3.8 to 3.15).
    if "_set_native_id" not in _before and hasattr(thread, "_set_native_id"):
        _before["_set_native_id"] = thread._set_native_id
        thread._set_native_id = _set_native_id
    if "name" not in _before:
        _before["name"] = thread.name
        thread.name = _before["our name"] = thread.name.setter(_set_name)
    tell()


def tell() -> None:
    """Tell the names as they are now."""
    # Not threading.enumerate(): a signal handler that ends the run may have interrupted the holder of its lock.
    for thread in threading._active.copy().values():  # type: ignore[attr-defined]
        _note(thread)


def unwatch() -> None:
    """Take out what is still ours."""
    for attribute, ours in (("_set_native_id", _set_native_id), ("name", _before.get("our name"))):
        if attribute in _before and threading.Thread.__dict__[attribute] is ours:
            setattr(threading.Thread, attribute, _before.pop(attribute))


def _note(thread: threading.Thread) -> None:
    native_id, ident = thread.native_id, thread.ident
    if native_id is None or ident is None:
        return
    # Under gevent, greenlets pass for threads and give the main thread's id as theirs.
    if native_id == os.getpid() and thread is not threading.main_thread():
        return
    _native._note_thread(native_id, ident, thread.name)


def _set_native_id(self: threading.Thread) -> None:
    _before["_set_native_id"](self)
    _note(self)


def _set_name(self: threading.Thread, name: str) -> None:
    _before["name"].__set__(self, name)
    _note(self)
