"""Call graphs as CSV tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .callgraph import CallGraph

NODE_KEYS = ("full_name", "name", "module", "file", "line", "kind")
EDGE_KEYS = ("caller", "callee")
VALUES = ("call_count", "total_time", "self_time", "avg_time", "samples")


def nodes_csv(graph: CallGraph) -> str:
    """The functions, longest total time first; times in seconds, empty where not known."""
    return _table(NODE_KEYS, _longest_first(graph.nodes.values()))


def edges_csv(graph: CallGraph) -> str:
    """The pairs of caller and callee, longest total time first."""
    return _table(EDGE_KEYS, _longest_first(graph.edges))


def _longest_first(rows: Iterable[Any]) -> list[Any]:
    return sorted(rows, key=lambda row: -(getattr(row, "total_time", None) or 0.0))


def _table(keys: Sequence[str], rows: Sequence[Any]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow((*keys, *VALUES))
    for row in rows:
        table.writerow([getattr(row, key, None) for key in (*keys, *VALUES)])
    return text.getvalue()
