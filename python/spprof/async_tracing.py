"""Tracing of asyncio programs: every coroutine of the block, and of every task when it ran, waited, and stood in the queue.

    async with trace_scope_async() as graph:
        await gather_traced(fetch(1), fetch(2))
    print(get_async_stats(graph))

Waiting for others is what asynchronous programs are for: a low `efficiency` is normal for them. What tells of trouble is
`loop_utilization` near 100 (the loop has no time left) and a large `max_loop_lag` (something blocked it).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass
from typing import Any, Callable, Optional, TypeVar, Union

from ._marks import trace
from .callgraph import CallGraph, as_graph
from .tracing import CallTracer, trace_scope

__all__ = [
    "AsyncCallGraph",
    "AsyncSpan",
    "AsyncTracer",
    "gather_traced",
    "get_async_stats",
    "trace_async",
    "trace_scope_async",
]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class AsyncSpan:
    """One task, as far as it lies inside the scope. Times in seconds, the first two since the scope's start."""

    name: str
    #: Full name of its coroutine function.
    function: str
    #: When it was made ready for its first step.
    start: float
    end: float
    #: In steps of its own.
    active: float
    #: Suspended, until what it waited for had come.
    waiting: float
    #: Ready, until the loop came to it.
    queued: float
    steps: int
    #: "finished", "failed", "cancelled" or "unfinished".
    outcome: str
    #: Position of the task that created it in `AsyncCallGraph.spans`; None when that was outside.
    parent: Optional[int]
    thread_id: int

    @property
    def duration(self) -> float:
        """Seconds inside the scope: active, waiting and queued."""
        return self.active + self.waiting + self.queued


class AsyncCallGraph(CallGraph):
    """A call graph that knows of tasks."""

    @property
    def spans(self) -> list[AsyncSpan]:
        """The tasks, by their beginning."""
        return [
            AsyncSpan(
                name=task["name"],
                function=_full_name(task),
                start=task["start_ns"] / 1e9,
                end=task["end_ns"] / 1e9,
                active=task["run_ns"] / 1e9,
                waiting=task["wait_ns"] / 1e9,
                queued=task["queued_ns"] / 1e9,
                steps=task["steps"],
                outcome=task["outcome"],
                parent=task["parent"],
                thread_id=task["thread_id"],
            )
            for task in self._to_native().tasks()
        ]

    @property
    def tasks(self) -> list[AsyncSpan]:
        """Another name of `spans`."""
        return self.spans

    @property
    def task_edges(self) -> list[tuple[str, str, int]]:
        """Which coroutine function's task created tasks of which, by full names, and how many."""
        spans = self.spans
        counts: dict[tuple[str, str], int] = {}
        for span in spans:
            if span.parent is not None:
                edge = (spans[span.parent].function, span.function)
                counts[edge] = counts.get(edge, 0) + 1
        return [(parent, child, count) for (parent, child), count in counts.items()]

    @property
    def timeline(self) -> list[dict[str, Any]]:
        """The newest intervals of tasks, by their beginning: `task` (name), `state` ("run", "wait" or "queued"), `start` and
        `end` in seconds since the scope's start."""
        native = self._to_native()
        names = [task["name"] for task in native.tasks()]
        events = [
            {"task": names[task], "state": state, "start": start / 1e9, "end": end / 1e9}
            for state, task, _, start, end in native.spans()
            if isinstance(task, int)
        ]
        return sorted(events, key=lambda event: event["start"])

    @property
    def max_concurrency(self) -> int:
        """Tasks begun and not finished at once, as in `get_async_stats`."""
        concurrency: int = get_async_stats(self)["max_concurrent_tasks"]
        return concurrency

    @property
    def total_await_time(self) -> float:
        """Seconds that tasks were suspended."""
        return sum(span.waiting + span.queued for span in self.spans)


def _full_name(task: dict[str, Any]) -> str:
    return f"{task['module']}.{task['function']}" if task["module"] else str(task["function"])


def get_async_stats(graph: Any) -> dict[str, Any]:
    """What a graph tells of its tasks. All keys are there for any graph; without tasks they are 0.

    Args:
        graph: a graph, a profile, or a path of one in the `.spprof` format (call-graph JSON holds no tasks).

    Returns:
        `total_async_functions`: coroutine and asynchronous generator functions that ran.
        `total_async_time`: seconds that tasks lasted inside the scope, added up; `elapsed`: the scope's own duration.
        `total_active_time`, `total_await_time`: the parts of it in steps, and suspended; `total_waiting_time`,
        `total_queued_time`: the parts of the latter, waiting for something, and ready but not yet run.
        `efficiency`: active in percent of all. `tasks`: how many; `finished`, `failed`, `cancelled` of them.
        `max_concurrent_tasks`: begun inside the scope and not finished, at once; 1 when only the task that opened the scope
        ran. `max_runnable_tasks`: running or ready at once.
        `loop_utilization`: percent of the elapsed time that tasks ran, for each thread with a loop on average.
        `max_loop_lag`: seconds a ready task stood in its loop's queue at most.
        `timeline_events`: intervals of tasks that were kept.
    """
    graph = as_graph(graph)
    native = graph._to_native()
    tasks, activity = native.tasks(), native.activity()
    active = sum(task["run_ns"] for task in tasks) / 1e9
    waiting = sum(task["wait_ns"] for task in tasks) / 1e9
    queued = sum(task["queued_ns"] for task in tasks) / 1e9
    total = active + waiting + queued
    elapsed = native.metadata()["duration_ns"] / 1e9
    loops = len({task["thread_id"] for task in tasks})
    outcomes = [task["outcome"] for task in tasks]
    asynchronous = [node for node in graph.nodes.values() if node.kind in ("coroutine", "async generator")]
    return {
        "total_async_functions": len(asynchronous),
        "total_async_time": total,
        "total_await_time": waiting + queued,
        "total_waiting_time": waiting,
        "total_queued_time": queued,
        "total_active_time": active,
        "efficiency": 100.0 * active / total if total else 0.0,
        "max_concurrent_tasks": max(activity["max_unfinished"], 1 if tasks else 0),
        "max_runnable_tasks": max(activity["max_runnable"], 1 if active else 0),
        "tasks": len(tasks),
        "finished": outcomes.count("finished"),
        "failed": outcomes.count("failed"),
        "cancelled": outcomes.count("cancelled"),
        "elapsed": elapsed,
        "loop_utilization": min(100.0, 100.0 * active / (elapsed * loops)) if elapsed and loops else 0.0,
        "max_loop_lag": activity["max_lag_ns"] / 1e9,
        "timeline_events": sum(isinstance(task, int) for _, task, *_ in native.spans()),
    }


class AsyncTracer(CallTracer):
    """Records calls and tasks from `start()` to `stop()`, which may have any number of `await` between them."""

    _graph_class = AsyncCallGraph
    _timeline = True

    async def __aenter__(self) -> AsyncTracer:
        self._start(sys._getframe(1))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()


class trace_scope_async(trace_scope):
    """Traces the block of an `async with`, and all that runs meanwhile: every coroutine, decorated or not.

    Arguments as of `trace_scope`; the timeline of tasks is kept unless `timeline=False`.
    """

    _tracer = AsyncTracer

    async def __aenter__(self) -> AsyncCallGraph:
        graph = self._enter(sys._getframe(1))
        assert isinstance(graph, AsyncCallGraph)
        return graph

    async def __aexit__(self, *error: object) -> None:
        self.__exit__(*error)


def trace_async(function: Function) -> Function:
    """Marks a coroutine function or an asynchronous generator function, as `trace` does.

    Raises:
        TypeError: it is neither.
    """
    if not inspect.iscoroutinefunction(function) and not inspect.isasyncgenfunction(function):
        name = getattr(function, "__name__", repr(function))
        raise TypeError(f"{name} is not an async function; use @trace for functions that are not")
    return trace(function)


async def gather_traced(*awaitables: Union[Awaitable[Any], Coroutine[Any, Any, Any]], return_exceptions: bool = False) -> Any:
    """`asyncio.gather()`, with tasks that are named after their coroutines.

    Args:
        awaitables: coroutines, tasks, futures.
        return_exceptions: as of `asyncio.gather()`.

    Returns:
        The list of results, in order.
    """
    # Who traces no coroutines need not load it.
    import asyncio

    loop = asyncio.get_running_loop()
    made: list[Any] = []
    for awaitable in awaitables:
        if inspect.iscoroutine(awaitable):
            task = loop.create_task(awaitable)
            task.set_name(f"{getattr(awaitable, '__qualname__', 'coroutine')}-{len(made)}")
            made.append(task)
        else:
            made.append(awaitable)
    return await asyncio.gather(*made, return_exceptions=return_exceptions)
