"""Thread names: what Python calls its threads, told to the run. Sampling itself needs none of this.

While a run is active, `threading.Thread` reports each thread as it starts and as it is renamed; so a thread that lives for a
moment has its name, and is sampled from its beginning rather than from the next look at the task list. What is replaced for
this is put back at the end, unless somebody has replaced it again: then ours stays below his, and goes on passing through.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Callable

from . import _native

# What ours stand in for. Kept after the run: a thread may be on its way through ours when it is taken out.
_before: dict[str, Any] = {}
_ours: dict[str, Any] = {}
# Attributes that somebody replaced over ours.
_covered: set[str] = set()


def watch() -> None:
    """Tell the names of the threads there are, and of those to come."""
    # The first is called by every thread as the first thing it does (CPython 3.8 to 3.15).
    _replace("_set_native_id", lambda before: _set_native_id)
    _replace("name", lambda before: before.setter(_set_name))
    tell()


def _replace(attribute: str, make: Callable[[Any], Any]) -> None:
    there = threading.Thread.__dict__.get(attribute)
    if there is None or there is _ours.get(attribute) or attribute in _covered:
        return
    _before[attribute] = there
    _ours[attribute] = make(there)
    setattr(threading.Thread, attribute, _ours[attribute])


def tell() -> None:
    """Tell the names as they are now."""
    # Not threading.enumerate(): a signal handler that ends the run may have interrupted the holder of its lock.
    for thread in threading._active.copy().values():  # type: ignore[attr-defined]
        _note(thread)


def unwatch() -> None:
    """Take out what is still ours."""
    for attribute, ours in list(_ours.items()):
        there = threading.Thread.__dict__.get(attribute)
        if there is ours:
            setattr(threading.Thread, attribute, _before[attribute])
            _covered.discard(attribute)
        elif there is not _before[attribute]:
            _covered.add(attribute)


def _note(thread: threading.Thread) -> None:
    native_id, ident = thread.native_id, thread.ident
    if native_id is None or ident is None:
        return
    # A forked child's only thread keeps the id it had in the parent, on most versions.
    if ident == threading.get_ident():
        native_id = threading.get_native_id()
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
