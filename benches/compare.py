"""Times programs under each profiler, interleaved (A B C, A B C, ...), and gives ratios to the bare program with their spread.

Every measurement is a process of its own (worker.py). docs/benchmarks.md says what the contenders are and how to read it.
Needs benches/requirements.txt; `make bench` sees to that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from statistics_of_ratios import Spread, ratios, spread
from worker import PROGRAMS

HERE = Path(__file__).resolve().parent
CONTENDERS = [
    "bare",
    "handler-100hz-timer",
    "spprof-100hz",
    "handler-1khz-tick",
    "handler-1khz-perf",
    "spprof-1khz",
    "spprof-1khz-timer",
    "spprof-1khz-perf",
    "spprof-1khz-tick",
    "pyspy-100hz",
    "pyinstrument",
    "scalene",
    "cprofile",
]
Results = dict[str, dict[str, list[dict[str, Any]]]]


def measure(program: str, contender: str, arguments: list[str], folder: Path) -> dict[str, Any] | str:
    """One run: its result, or the reason why there is none."""
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    worker = [str(HERE / "worker.py"), program, contender, str(result), *arguments]
    command = [sys.executable, *worker]
    bin_folder = Path(sys.executable).parent
    if contender.startswith("pyspy"):
        command = [str(bin_folder / "py-spy"), "record", "-r", "100", "-f", "raw", "-o", str(folder / "pyspy"), "--", *command]
    elif contender == "scalene":
        outfile = str(folder / "scalene.json")
        command = [sys.executable, "-m", "scalene", "run", "--cpu-only", "-o", outfile, worker[0], "---", *worker[1:]]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
    if not result.exists():
        return (run.stderr.strip() or run.stdout.strip() or f"exit status {run.returncode}").splitlines()[-1]
    return json.loads(result.read_text())


def run_all(programs: list[str], contenders: list[str], rounds: int, seconds: float) -> tuple[Results, dict[str, str]]:
    """All rounds of all programs; a contender that fails once is left out of the rest, with its reason."""
    results: Results = {program: {contender: [] for contender in contenders} for program in programs}
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = folder / "empty_handler.so"
        compiler = ["cc", "-O2", "-shared", "-fPIC", "-pthread", str(HERE / "empty_handler.c"), "-o", str(library), "-lrt"]
        subprocess.run(compiler, check=True)
        for program in programs:
            calibration = measure(program, "bare", ["--seconds", str(seconds)], folder)
            if isinstance(calibration, str):
                raise SystemExit(f"{program} does not run: {calibration}")
            arguments = ["--times", str(calibration["times"]), "--handler-library", str(library)]
            for number in range(rounds):
                for contender in contenders:
                    if contender in left_out:
                        continue
                    result = measure(program, contender, arguments, folder)
                    if isinstance(result, str):
                        left_out[contender] = result
                        print(f"left out: {contender}: {result}", file=sys.stderr, flush=True)
                    else:
                        results[program][contender].append(result)
                print(f"{program}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return results, left_out


def summarise(results: Results, contenders: list[str], metric: str) -> dict[str, dict[str, Spread]]:
    """Contender to program to the spread of its ratios; "all" holds the rounds' ratios of every program together."""
    summary: dict[str, dict[str, Spread]] = {}
    for contender in contenders:
        everything: list[float] = []
        rows: dict[str, Spread] = {}
        for program, measured in results.items():
            mine = [result[metric] for result in measured[contender]]
            bare = [result[metric] for result in measured["bare"]]
            if mine and len(mine) == len(bare):
                rows[program] = spread(ratios(mine, bare))
                everything += ratios(mine, bare)
        if everything:
            summary[contender] = {**rows, "all": spread(everything)}
    return summary


def markdown(summary: dict[str, dict[str, Spread]], left_out: dict[str, str], machine: dict[str, Any]) -> str:
    lines = [", ".join(f"{key}: {value}" for key, value in machine.items()), ""]
    lines += ["| contender | time, bare = 1: median [95 %] | quartiles | worst program |", "|---|---|---|---|"]
    for contender, rows in summary.items():
        total = rows["all"]
        worst = max((name for name in rows if name != "all"), key=lambda name: rows[name].median)
        quartiles = f"{total.quartile_1:.3f} - {total.quartile_3:.3f}"
        lines.append(f"| `{contender}` | {total} | {quartiles} | {worst} {rows[worst].median:.3f} |")
    lines += [f"\nLeft out: `{contender}`: {reason}" for contender, reason in left_out.items()]
    programs = [name for name in next(iter(summary.values())) if name != "all"]
    lines += ["", "| program | " + " | ".join(f"`{contender}`" for contender in summary) + " |"]
    lines.append("|---" * (len(summary) + 1) + "|")
    for program in programs:
        cells = [f"{rows[program].median:.3f}" if program in rows else "-" for rows in summary.values()]
        lines.append(f"| {program} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="`bare` is always among them")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument(
        "--metric", choices=["wall_s", "cpu_s"], default="wall_s", help="cpu_s where others use the machine, too"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    programs, contenders = options.programs.split(","), options.contenders.split(",")
    contenders = ["bare", *(name for name in contenders if name != "bare")]
    machine = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "metric": options.metric,
        "date": time.strftime("%Y-%m-%d"),
    }
    results, left_out = run_all(programs, contenders, options.rounds, options.seconds)
    summary = summarise(results, contenders, options.metric)
    options.out.mkdir(parents=True, exist_ok=True)
    raw = {"machine": machine, "left_out": left_out, "results": results}
    raw["summary"] = {contender: {name: row._asdict() for name, row in rows.items()} for contender, rows in summary.items()}
    (options.out / "results.json").write_text(json.dumps(raw, indent=1))
    (options.out / "results.md").write_text(markdown(summary, left_out, machine))
    print((options.out / "results.md").read_text())


if __name__ == "__main__":
    main()
