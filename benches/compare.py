"""Times programs under each profiler, interleaved (A B C, A B C, ...), and gives ratios to the bare program with their spread.

Every measurement is a process of its own (worker.py). docs/benchmarks.md says what the contenders are and how to read it.
Needs benches/requirements.txt; `make bench` sees to that.
"""

from __future__ import annotations

import argparse
import hashlib
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
# spprof-100hz and spprof-1khz take the engine that `auto` takes; the others are for --contenders.
CONTENDERS = [
    "bare",
    "handler-100hz-timer",
    "spprof-100hz",
    "handler-1khz-perf",
    "spprof-1khz-perf",
    "handler-1khz-tick",
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


class Journal:
    """What was measured so far, a line each: a session that was broken off goes on where it was."""

    def __init__(self, path: Path, session: dict[str, Any]) -> None:
        self.path = path
        self.known: dict[tuple[int, str, str], dict[str, Any] | str] = {}
        lines = path.read_text().splitlines() if path.exists() else []
        # The last line may be half a line.
        whole = [json.loads(line) for line in lines if line.endswith("}")]
        if whole[:1] == [session]:
            for row in whole[1:]:
                self.known[row["round"], row["program"], row["contender"]] = row["result"]
        else:
            whole = [session]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in whole))

    def add(self, key: tuple[int, str, str], result: dict[str, Any] | str) -> None:
        self.known[key] = result
        row = {"round": key[0], "program": key[1], "contender": key[2], "result": result}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def run_all(
    programs: list[str], contenders: list[str], rounds: int, seconds: float, minutes: float, journal: Journal
) -> tuple[Results, dict[str, str]]:
    """Rounds of all programs, until there are so many or the time would not do for another (but two at least).

    A contender that fails once is left out of the rest, with its reason.
    """
    results: Results = {program: {contender: [] for contender in contenders} for program in programs}
    left_out: dict[str, str] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = folder / "empty_handler.so"
        compiler = ["cc", "-O2", "-shared", "-fPIC", "-pthread", str(HERE / "empty_handler.c"), "-o", str(library), "-lrt"]
        subprocess.run(compiler, check=True)

        def once(number: int, program: str, contender: str, arguments: list[str]) -> dict[str, Any] | str:
            key = (number, program, contender)
            if key not in journal.known:
                journal.add(key, measure(program, contender, arguments, folder))
            return journal.known[key]

        arguments_of: dict[str, list[str]] = {}
        for program in programs:
            calibration = once(-1, program, "bare", ["--seconds", str(seconds)])
            if isinstance(calibration, str):
                raise SystemExit(f"{program} does not run: {calibration}")
            arguments_of[program] = ["--times", str(calibration["times"]), "--handler-library", str(library)]
        for number in range(rounds):
            round_began = time.monotonic()
            for program in programs:
                for contender in contenders:
                    if contender in left_out:
                        continue
                    result = once(number, program, contender, arguments_of[program])
                    if isinstance(result, str):
                        left_out[contender] = result
                        print(f"left out: {contender}: {result}", file=sys.stderr, flush=True)
                    else:
                        results[program][contender].append(result)
            now = time.monotonic()
            print(f"round {number + 1} of {rounds} at most: {now - round_began:.0f} s", file=sys.stderr, flush=True)
            if number >= 1 and now - began + (now - round_began) > minutes * 60:
                break
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
        cells = [str(rows[program]) if program in rows else "-" for rows in summary.values()]
        lines.append(f"| {program} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def extension_digest() -> str:
    """What is measured: figures of another build are not gone on with."""
    import spprof

    return hashlib.sha256(Path(spprof._native.__file__).read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="`bare` is always among them")
    parser.add_argument("--rounds", type=int, default=9, help="at most")
    parser.add_argument("--minutes", type=float, default=11.0, help="no further round is begun that would take longer")
    parser.add_argument("--seconds", type=float, default=0.7, help="of one measurement")
    parser.add_argument(
        "--metric", choices=["wall_s", "cpu_s"], default="wall_s", help="cpu_s where others use the machine, too"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="a session that was broken off there goes on")
    parser.add_argument("--fresh", action="store_true", help="forget what a broken-off session has measured")
    parser.add_argument("--markdown", action="store_true", help="print the tables only (they are in OUT/results.md anyway)")
    options = parser.parse_args()
    programs, contenders = options.programs.split(","), options.contenders.split(",")
    contenders = ["bare", *(name for name in contenders if name != "bare")]
    machine = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "seconds": options.seconds,
        "metric": options.metric,
        "date": time.strftime("%Y-%m-%d"),
    }
    session = {**machine, "programs": programs, "contenders": contenders, "extension": extension_digest()}
    path = options.out / "measurements.jsonl"
    if options.fresh:
        path.unlink(missing_ok=True)
    results, left_out = run_all(programs, contenders, options.rounds, options.seconds, options.minutes, Journal(path, session))
    machine["rounds"] = max(len(rows["bare"]) for rows in results.values())
    summary = summarise(results, contenders, options.metric)
    options.out.mkdir(parents=True, exist_ok=True)
    raw = {"machine": machine, "left_out": left_out, "results": results}
    raw["summary"] = {contender: {name: row._asdict() for name, row in rows.items()} for contender, rows in summary.items()}
    (options.out / "results.json").write_text(json.dumps(raw, indent=1))
    (options.out / "results.md").write_text(markdown(summary, left_out, machine))
    # A session that has come to its end is not gone on with.
    path.unlink()
    if not options.markdown:
        print(f"raw figures: {options.out / 'results.json'}\n")
    print((options.out / "results.md").read_text())


if __name__ == "__main__":
    main()
