"""Thread names: what Python calls its threads, told to the run. Sampling itself needs none of this.

While a run is active, `threading.Thread` reports each new thread as it starts; so a thread that lives for a moment has its
name, and is sampled from its beginning rather than from the next look at the task list. Names given later are read at the
end of the run.
"""

from __future__ import annotations

import threading

from . import _native

# Called by every thread as the first thing it does (CPython 3.8 to 3.15); without it names are read at start and end only.
_ORIGINAL = getattr(threading.Thread, "_set_native_id", None)


def _set_native_id(self: threading.Thread) -> None:
    _ORIGINAL(self)  # type: ignore[misc]
    _note(self)


def _note(thread: threading.Thread) -> None:
    native_id, ident = thread.native_id, thread.ident
    if native_id is not None and ident is not None:
        _native._note_thread(native_id, ident, thread.name)


def watch() -> None:
    """Tell the names of the threads there are, and of those to come."""
    if _ORIGINAL is not None and threading.Thread._set_native_id is _ORIGINAL:  # type: ignore[attr-defined]
        threading.Thread._set_native_id = _set_native_id  # type: ignore[attr-defined]
    tell()


def tell() -> None:
    """Tell the names as they are now."""
    # The main thread last: under gevent, greenlets pass for threads and give its id as theirs.
    for thread in reversed(threading.enumerate()):
        _note(thread)
    _note(threading.main_thread())


def unwatch() -> None:
    """Take the hook out, if nobody has put another one over it."""
    if getattr(threading.Thread, "_set_native_id", None) is _set_native_id:
        threading.Thread._set_native_id = _ORIGINAL  # type: ignore[attr-defined]
