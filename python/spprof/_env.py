"""Profiling by environment: for programs one cannot edit, and for `spprof run`.

`spprof-start.pth`, which is installed beside the package, imports this module when `SPPROF` is set; the interpreter reads
it before the program's first line. So the program runs as it would without us: same argv, `__main__`, path and exit status.

    SPPROF=1             profile this program and every Python program it starts, each into a file of its own
    SPPROF=run           set by `spprof run`: this program alone, and a line on stderr at its end
    SPPROF_OUTPUT        the file; `{pid}` stands for the process id. Default: spprof-{pid}.json (by the format)
    SPPROF_FORMAT        speedscope, collapsed, pprof, svg, spprof. Default: by the suffix
    SPPROF_NATIVE        1: native frames, too; full: those of the interpreter as well
    SPPROF_INTERVAL_MS, SPPROF_INTERVAL_US, SPPROF_MEMORY_LIMIT_MB, SPPROF_CLOCK, SPPROF_ENGINE: as for spprof.start()
    SPPROF_TRACE         set by `spprof trace`: trace calls instead, with these options of the tracer, as JSON
"""

from __future__ import annotations

import atexit
import os
import sys

from . import _native, profiler
from ._settings import checked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from .tracing import CallTracer

VARIABLES = (
    "SPPROF",
    "SPPROF_OUTPUT",
    "SPPROF_FORMAT",
    "SPPROF_INTERVAL_MS",
    "SPPROF_INTERVAL_US",
    "SPPROF_MEMORY_LIMIT_MB",
    "SPPROF_CLOCK",
    "SPPROF_ENGINE",
    "SPPROF_NATIVE",
    "SPPROF_TRACE",
)
OFF = ("", "0")
RUN = "run"

# The process SPPROF_OUTPUT was given to; its children add their own id to the name.
OWNER = "SPPROF_OUTPUT_OWNER"

SUFFIXES = {"speedscope": ".json", "collapsed": ".collapsed", "pprof": ".pb.gz", "svg": ".svg", "spprof": ".spprof"}
HOW_TO_OPEN = {
    "speedscope": "open it at https://www.speedscope.app, or read it with: spprof report {path}",
    "collapsed": "read it with: spprof report {path}",
    "pprof": "open it with: go tool pprof -http=: {path}",
    "svg": "open it in a browser",
    "spprof": "read it with: spprof report {path}",
}
INTERPRETER = "<interpreter>"
PROGRAM_BEGINS = ("cpython.run_file", "cpython.run_module", "cpython.run_command", "cpython.run_stdin")
# A bad setting or a profiler that cannot start: what `spprof run` exits with, before the program did anything.
EXIT_USAGE = 2

# Within a virtual environment some versions read .pth files twice.
_started = False


def start() -> None:
    """Start a run as the environment says. Never raises: the program is not to suffer from our troubles."""
    global _started
    mode = os.environ["SPPROF"]
    if mode in OFF or _started:
        return
    _started = True
    if "SPPROF_TRACE" in os.environ:
        _start_trace()
        return
    try:
        settings = checked(
            _number("SPPROF_INTERVAL_MS", 10),
            _number("SPPROF_MEMORY_LIMIT_MB", 100),
            os.environ.get("SPPROF_CLOCK", "cpu"),
            os.environ.get("SPPROF_ENGINE", "auto"),
            _number("SPPROF_INTERVAL_US", None),
            {"0": False, "1": True}.get(os.environ.get("SPPROF_NATIVE", "0"), os.environ.get("SPPROF_NATIVE")),
        )
        output_format = os.environ.get("SPPROF_FORMAT")
        if output_format is not None and output_format not in SUFFIXES:
            raise ValueError(f"unknown format: {output_format!r} (choose from {', '.join(SUFFIXES)})")
        profiler.begin(settings, _output_path(output_format), output_format)
    except Exception as error:
        _say(f"not profiling: {error}")
        if mode == RUN:
            # Nothing of the program has run yet, and an exception here would not stop the interpreter.
            os._exit(EXIT_USAGE)
        return
    if mode == RUN:
        # Only this program: what it starts is to find the environment that `spprof run` was given.
        for variable in (*VARIABLES, OWNER):
            os.environ.pop(variable, None)
        atexit.register(_finish)


def _start_trace() -> None:
    import json

    from .tracing import CallTracer

    path = os.environ["SPPROF_OUTPUT"]
    try:
        options = json.loads(os.environ["SPPROF_TRACE"])
        tracer = CallTracer(**options)
        for variable in (*VARIABLES, OWNER):
            os.environ.pop(variable, None)
        atexit.register(_finish_trace, tracer, path, os.getpid())
        # The function that opens a scope is in its graph, with the time outside of all others: here, the interpreter's.
        opener = compile("start()", "", "exec").replace(co_name=INTERPRETER)
        if sys.version_info >= (3, 11):
            opener = opener.replace(co_qualname=INTERPRETER)
        # What the interpreter still does before the program is not the program's: it tells by an audit event when it
        # begins. Hooks of these events cannot be taken away, but this one does nothing afterwards.
        waiting = [tracer.start]

        def begin(event: str, _: object) -> None:
            if waiting and event in PROGRAM_BEGINS:
                try:
                    exec(opener, {"start": waiting.pop(), "__name__": ""})
                except RuntimeError as error:
                    _say(f"not tracing: {error}")
                    os._exit(EXIT_USAGE)

        sys.addaudithook(begin)
    except Exception as error:
        _say(f"not tracing: {error}")
        os._exit(EXIT_USAGE)


def _finish_trace(tracer: CallTracer, path: str, pid: int) -> None:
    """The interpreter ends: save, and say where. In a child after fork the trace is its parent's."""
    if os.getpid() != pid:
        return
    tracer.stop()
    graph = tracer.get_graph()
    try:
        graph.save(path)
    except OSError as error:
        _say(f"the trace is lost: cannot write to {path}: {error}")
        return
    import shlex

    figures = tracer.get_statistics()
    shown = os.path.relpath(path) if path.startswith(os.getcwd() + os.sep) else path
    _say(
        f"{figures['total_calls']} calls of {figures['functions']} functions in {figures['wall_time']:.3f} s, in {shown} - "
        f"read it with: spprof report {shlex.quote(shown)}"
    )


def _number(variable: str, default: Optional[int]) -> Optional[int]:
    text = os.environ.get(variable)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{variable} must be a whole number, not {text!r}") from None


def _output_path(output_format: Optional[str]) -> str:
    pid = str(os.getpid())
    path = os.environ.get("SPPROF_OUTPUT")
    if not path:
        return f"spprof-{pid}{SUFFIXES[output_format or 'speedscope']}"
    if "{pid}" in path:
        return path.replace("{pid}", pid)
    owner = os.environ.setdefault(OWNER, pid)
    if owner == pid:
        return path
    folder, name = os.path.split(path)
    stem, dot, suffix = name.partition(".")
    return os.path.join(folder, f"{stem}-{pid}{dot}{suffix}")


def _finish() -> None:
    """The interpreter ends: save, and say where. Silent when the program itself stopped the run."""
    if not _native._is_active():
        return
    native, output = profiler.end()
    if output is None:
        return
    path, output_format = output
    try:
        native.write(path, output_format)
    except OSError as error:
        _say(f"the profile is lost: cannot write to {path}: {error}")
        return
    _say(_summary(native, path, output_format or _native._format_of(path)))


def _summary(native: _native.NativeProfile, path: str, output_format: str) -> str:
    """One line: how much was seen, what was lost, where it is and how to open it."""
    import shlex

    meta = native.metadata()
    kind = "CPU time" if meta["clock"] == "cpu" else "elapsed time"
    samples = "1 sample" if native.sample_count == 1 else f"{native.sample_count} samples"
    seen = f"{samples}, {meta['weight_ns'] / 1e9:.3f} s of {kind}"
    if meta["dropped_samples"]:
        seen += f" ({meta['dropped_samples']} more were due and not taken)"
    if not native.sample_count:
        seen += f" (it used less than the interval, {meta['interval_ns'] / 1e6:g} ms)"
    shown = os.path.relpath(path) if path.startswith(os.getcwd() + os.sep) else path
    return f"{seen}, in {shown} - {HOW_TO_OPEN[output_format].format(path=shlex.quote(shown))}"


def _say(message: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"spprof: {message}\n")
        sys.stderr.flush()
