"""Heap profiling by environment: for programs one cannot edit, and for `spprof run --memory`.

`spprof-start.pth`, which is installed beside the package, imports this module when `SPPROF_MEMPROF` is set; the interpreter
reads it before the program's first line. What was allocated before that, by the interpreter's own start, is not sampled.

    SPPROF_MEMPROF=1            profile the memory of this program and of every Python program it starts
    SPPROF_MEMPROF=run          set by `spprof run --memory`: this program alone, and a few lines on stderr at its end
    SPPROF_MEMPROF_OUTPUT       the file; `{pid}` stands for the process id, `{n}` for the number of the snapshot.
                                Default: spprof-heap-{pid}.spprof
    SPPROF_MEMPROF_FORMAT       speedscope, collapsed, pprof, svg, spprof. Default: by the suffix
    SPPROF_MEMPROF_RATE_KB      as sampling_rate_kb of spprof.memprof.start()
    SPPROF_MEMPROF_EVERY        seconds between two snapshots while the program runs; each replaces the file, or is a file of
                                its own where the name has `{n}`. So a program that is killed leaves its last one
    SPPROF_MEMPROF_RSS=1        tell on stderr at the end what the resident memory consists of
"""

from __future__ import annotations

import atexit
import os
import sys
import sysconfig
import threading
from typing import TYPE_CHECKING, Optional

from . import memprof
from ._heap import responsible

if TYPE_CHECKING:
    from ._heap import HeapSnapshot

VARIABLES = (
    "SPPROF_MEMPROF",
    "SPPROF_MEMPROF_OUTPUT",
    "SPPROF_MEMPROF_FORMAT",
    "SPPROF_MEMPROF_RATE_KB",
    "SPPROF_MEMPROF_EVERY",
    "SPPROF_MEMPROF_RSS",
)
#: LD_PRELOAD as it was before `spprof run --memory`.
PRELOAD_BEFORE = "SPPROF_MEMPROF_PRELOAD_BEFORE"
OFF = ("", "0")
RUN = "run"
# A bad setting or a profiler that cannot start: what `spprof run` exits with, before the program did anything.
EXIT_USAGE = 2
FORMATS = ("speedscope", "collapsed", "pprof", "svg", "spprof")

# Within a virtual environment some versions read .pth files twice.
_run: Optional[_Run] = None


def start() -> None:
    """Start a heap run as the environment says. Never raises: the program is not to suffer from our troubles."""
    global _run
    mode = os.environ["SPPROF_MEMPROF"]
    if mode in OFF or _run is not None:
        return
    try:
        rate_kb = _number("SPPROF_MEMPROF_RATE_KB", 512)
        every = _number("SPPROF_MEMPROF_EVERY", 0.0)
        output_format = os.environ.get("SPPROF_MEMPROF_FORMAT")
        if output_format is not None and output_format not in FORMATS:
            raise ValueError(f"unknown format: {output_format!r} (choose from {', '.join(FORMATS)})")
        output = os.path.abspath(os.environ.get("SPPROF_MEMPROF_OUTPUT") or "spprof-heap-{pid}.spprof")
        if mode != RUN and "{pid}" not in output:
            # Its children write files of their own.
            stem, dot, suffix = os.path.basename(output).partition(".")
            output = os.path.join(os.path.dirname(output), f"{stem}-{{pid}}{dot}{suffix}")
        memprof.start(rate_kb if rate_kb != int(rate_kb) else int(rate_kb))  # type: ignore[arg-type]
        explain = os.environ.get("SPPROF_MEMPROF_RSS", "") not in OFF
        _run = _Run(output, output_format, every, tell=mode == RUN, explain=explain)
    except Exception as error:
        _say(f"not profiling memory: {error}")
        if mode == RUN:
            # Nothing of the program has run yet, and an exception here would not stop the interpreter.
            os._exit(EXIT_USAGE)
        return
    if mode == RUN:
        # Only this program: what it starts is to find the environment that `spprof run` was given.
        before = os.environ.pop(PRELOAD_BEFORE, None)
        if before:
            os.environ["LD_PRELOAD"] = before
        elif before is not None:
            os.environ.pop("LD_PRELOAD", None)
        for variable in VARIABLES:
            os.environ.pop(variable, None)


class _Run:
    """Where the snapshots of this process go, and when."""

    def __init__(self, output: str, output_format: Optional[str], every: float, *, tell: bool, explain: bool) -> None:
        self.output = output
        self.format = output_format
        self.every = every
        self.tell = tell
        self.explain = explain
        self.pid = os.getpid()
        self.number = 0
        self.ending = threading.Event()
        # Between two snapshots that would write the same file.
        self.writing = threading.Lock()
        if every > 0:
            threading.Thread(target=self.go_on, name="spprof-snapshots", daemon=True).start()
        atexit.register(self.finish)

    def go_on(self) -> None:
        while not self.ending.wait(self.every):
            try:
                self.save()
            except OSError as error:
                _say(f"a snapshot is lost: {error}")

    def save(self) -> tuple[str, HeapSnapshot]:
        with self.writing:
            self.number += 1
            path = self.output.replace("{pid}", str(os.getpid())).replace("{n}", f"{self.number:04}")
            snapshot = memprof.get_snapshot()
            snapshot.save(path, self.format)
        return path, snapshot

    def finish(self) -> None:
        """The interpreter ends: save, and say where. Silent if the program itself ended the profiler, and in a forked child."""
        self.ending.set()
        if memprof._shutdown or (self.tell and os.getpid() != self.pid):
            return
        try:
            path, snapshot = self.save()
        except OSError as error:
            _say(f"the snapshot is lost: {error}")
            return
        if self.tell:
            _say(summary(snapshot, path))
        if self.explain:
            try:
                _say(f"in memory at the end\n{memprof.explain_rss()}")
            except OSError as error:
                _say(f"the resident memory cannot be explained: {error}")


def summary(snapshot: HeapSnapshot, path: str) -> str:
    """How much was alive at the end and at the peak, which lines held most, and where it is written."""
    shown = os.path.relpath(path) if path.startswith(os.getcwd() + os.sep) else path
    alive = snapshot.inuse_space
    lines = [
        f"{megabytes(alive.value)} ± {megabytes(1.96 * alive.standard_error)} alive at the end, "
        f"{megabytes(snapshot.peak_bytes)} at the peak, {megabytes(snapshot.alloc_space.value)} allocated in all, "
        f"by {snapshot.total_samples} samples"
    ]
    for row in snapshot.top_allocators(5):
        place = f"{row['file']}:{row['line']}" if row["line"] else row["file"]
        asker = _asker(snapshot, (row["function"], row["file"], row["line"]))
        lines.append(f"    {megabytes(row['estimated_bytes']):>10}  {row['function']} ({place}){asker}")
    lines.append(f"in {shown}")
    return "\n".join(lines)


def _asker(snapshot: HeapSnapshot, line: tuple[str, str, int]) -> str:
    """For a line of a library: the program's own function that most of its memory was asked for by."""
    if not _is_library(line[1]):
        return ""
    askers: dict[str, int] = {}
    for sample in snapshot.samples:
        if responsible(sample.stack) == line:
            own = next((str(frame) for frame in sample.stack if frame.is_python and not _is_library(frame.file)), "")
            askers[own] = askers.get(own, 0) + sample.estimated_bytes
    most = max(askers, key=lambda own: askers[own], default="")
    return f", for {most}" if most else ""


def _is_library(file: str) -> bool:
    paths = sysconfig.get_paths()
    folders = tuple(paths[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return file.startswith((*folders, "<frozen"))


def megabytes(value: float) -> str:
    return f"{value / 1e6:.1f} MB"


def _number(variable: str, default: float) -> float:
    text = os.environ.get(variable)
    if not text:
        return default
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{variable} must be a number, not {text!r}") from None


def _say(message: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"spprof: {message}\n")
        sys.stderr.flush()
