"""Watches event loops while a trace runs: when a task's next step is put into the queue.

What asyncio's and uvloop's tasks do to run again is call their loop's `call_soon`; the loop object gets one of its own
that notes whose step it is, until the trace ends.
"""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakSet

from . import _native

_watched: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


def watch_running_loop() -> None:
    """Watches the calling thread's running loop, if it lets itself be watched."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    if loop in _watched:
        return
    _watched.add(loop)
    original = loop.call_soon
    ready = _native._trace_task_ready

    def call_soon(callback: Any, *args: Any, **options: Any) -> Any:
        task = getattr(callback, "__self__", None)
        if isinstance(task, asyncio.Task):
            ready(task)
        return original(callback, *args, **options)

    try:
        loop.call_soon = call_soon  # type: ignore[method-assign,assignment]
    except AttributeError:
        # A loop without attributes of its own: all of a suspension counts as waiting.
        return
    if not _native._trace_is_armed():
        # The trace ended on another thread meanwhile.
        unwatch_all()


def unwatch_all() -> None:
    """Gives every loop its own `call_soon` back."""
    for loop in list(_watched):
        vars(loop).pop("call_soon", None)
    _watched.clear()
