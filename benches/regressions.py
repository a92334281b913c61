"""How often a comparison of real runs errs: alarms when nothing differs, and slowdowns of one function that are found.

    python benches/regressions.py [--slower 1.1] [--runs 8] [--trials 100]

Two versions of a program are traced in turns, more often than a comparison needs; each trial compares runs drawn from these.
"""

from __future__ import annotations

import argparse
import random

from spprof.callgraph import CallGraph
from spprof.comparison import compare_graphs
from spprof.tracing import trace_scope

WORK = 40_000
FUNCTIONS = 8
PLANTED = "part_3"


def program(slower: float) -> CallGraph:
    """Eight functions of some milliseconds; one of them does more work by this factor."""
    parts = {}
    exec("".join(f"def part_{i}(n):\n    for _ in range(n): pass\n" for i in range(FUNCTIONS)), parts)
    with trace_scope() as graph:
        for i in range(FUNCTIONS):
            parts[f"part_{i}"](round(WORK * (1 + i) * (slower if f"part_{i}" == PLANTED else 1.0)))
    return graph


def slower_functions(before: list[CallGraph], after: list[CallGraph]) -> set[str]:
    rows = compare_graphs(before, after)["node_comparisons"]
    return {row["name"].rpartition(".")[2] for row in rows if row["regression"]}


def trials(slower: float, runs: int, count: int, chance: random.Random) -> tuple[int, int, int]:
    """Alarms of a program with itself; trials that found the planted one; those that named another part."""
    pairs = [(program(1.0), program(slower)) for _ in range(4 * runs)]
    alarms = found = elsewhere = 0
    for _ in range(count):
        drawn = chance.sample(pairs, 2 * runs)
        before = [plain for plain, _ in drawn[:runs]]
        alarms += bool(slower_functions(before, [plain for plain, _ in drawn[runs:]]))
        names = slower_functions(before, [planted for _, planted in drawn[runs:]])
        found += PLANTED in names
        elsewhere += any(name.startswith("part_") and name != PLANTED for name in names)
    return alarms, found, elsewhere


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slower", type=float, default=1.1)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--trials", type=int, default=100)
    options = parser.parse_args()
    alarms, found, elsewhere = trials(options.slower, options.runs, options.trials, random.Random(1))
    print(
        f"{options.runs} runs a side, {options.trials} trials: {alarms} alarms without a change; "
        f"{PLANTED} x {options.slower:g} found in {found}, another part named in {elsewhere}"
    )


if __name__ == "__main__":
    main()
