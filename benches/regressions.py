"""How often a comparison of real runs errs: alarms when nothing differs, and slowdowns of one function that are found.

    python benches/regressions.py [--slower 1.1] [--runs 8] [--trials 100] [--traced]

Two versions of a program run in turns, more often than a comparison needs; each trial compares runs drawn from these. The CPU
time of samples is compared, or with --traced the elapsed time of calls, which on a busy machine is mostly that of others.
"""

from __future__ import annotations

import argparse
import random

import spprof
from spprof.callgraph import CallGraph
from spprof.comparison import compare_graphs
from spprof.tracing import trace_scope

WORK = 400_000
INTERVAL_US = 200
FUNCTIONS = 8
PLANTED = "part_3"


PARTS: dict[str, object] = {}
exec("".join(f"def part_{i}(n):\n    for _ in range(n): pass\n" for i in range(FUNCTIONS)), PARTS)


def run(slower: float) -> None:
    """Eight functions of some milliseconds; one of them does more work by this factor."""
    for i in range(FUNCTIONS):
        name = f"part_{i}"
        PARTS[name](round(WORK * (slower if name == PLANTED else 1.0)))


def measured(slower: float, traced: bool) -> CallGraph:
    if traced:
        with trace_scope() as graph:
            run(slower)
        return graph
    spprof.start(interval_us=INTERVAL_US)
    run(slower)
    return spprof.stop().call_graph()


def slower_functions(before: list[CallGraph], after: list[CallGraph]) -> set[str]:
    rows = compare_graphs(before, after)["node_comparisons"]
    return {row["name"].rpartition(".")[2] for row in rows if row["regression"]}


def trials(slower: float, runs: int, count: int, chance: random.Random, traced: bool = False) -> tuple[int, int, int]:
    """Alarms of a program with itself; trials that found the planted one; those that named another part."""
    pairs = [(measured(1.0, traced), measured(slower, traced)) for _ in range(3 * runs)]
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
    parser.add_argument("--traced", action="store_true")
    options = parser.parse_args()
    alarms, found, elsewhere = trials(options.slower, options.runs, options.trials, random.Random(1), options.traced)
    print(
        f"{options.runs} runs a side, {options.trials} trials: {alarms} alarms without a change; "
        f"{PLANTED} x {options.slower:g} found in {found}, another part named in {elsewhere}"
    )


if __name__ == "__main__":
    main()
