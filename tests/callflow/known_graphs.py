"""Call graphs put together by hand, with times that are known."""

from __future__ import annotations

from typing import Any

from spprof.callgraph import CallGraph

SECOND = 1_000_000_000


def graph_of(
    stacks: dict[str, tuple[int, float]], *, duration: float = 1.0, columns: tuple[str, str] = ("calls", "self_ns"), **meta: Any
) -> CallGraph:
    """A graph of `{"main;work;leaf": (calls, seconds of its own)}`; other columns take the same places."""
    names: list[str] = []
    rows: dict[str, int] = {"": 0}
    parents, nodes = [], []
    values: tuple[list[int], list[int]] = ([0], [0])

    def row(stack: str) -> int:
        if stack not in rows:
            above, _, name = stack.rpartition(";")
            parent = row(above)
            if name not in names:
                names.append(name)
            rows[stack] = len(rows)
            parents.append(parent)
            nodes.append(names.index(name))
            values[0].append(0)
            values[1].append(0)
        return rows[stack]

    for stack, (count, seconds) in stacks.items():
        place = row(stack)
        values[0][place] += count
        values[1][place] += round(seconds * SECOND)
    return CallGraph.from_dict(
        {
            "schema": "spprof-callgraph",
            "version": 1,
            "metadata": {"spprof": {"duration_ns": round(duration * SECOND), "clock": "wall", **meta}},
            "nodes": [
                {"qualname": name, "module": "app", "file": "/src/app.py", "kind": "python", "line": 10 * (place + 1)}
                for place, name in enumerate(names)
            ],
            "edges": [],
            "threads": [],
            "tree": {
                "parent": parents,
                "node": nodes,
                "line": [0] * len(parents),
                "columns": {columns[0]: values[0], columns[1]: values[1]},
            },
        }
    )


def sampled(stacks: dict[str, tuple[int, float]], **meta: Any) -> CallGraph:
    """The same of samples and CPU time."""
    return graph_of(stacks, columns=("samples", "cpu_ns"), **{"clock": "cpu", "interval_ns": 10_000_000, **meta})
