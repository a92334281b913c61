"""`spprof trace`: a program with every call counted and timed, and its call graph saved at the end.

As `spprof run`, this process becomes a fresh interpreter, in which the tracer is started by the environment (`_env`): argv,
`__main__`, path, tracebacks and exit statuses are python's own, and the trace is saved when the interpreter ends: by return,
exception or sys.exit, but not when a signal ends the process.
"""

from __future__ import annotations

import json
import os
from typing import Any, Optional

import click

from .. import _env
from ..callgraph import format_of
from ..tracing import CallTracer
from .run import OURS, become, check_program, takes_a_program

EXAMPLES = """\b
Examples:
  spprof trace script.py --its-own-option
  spprof trace -o calls.csv --include myapp -m myapp.main
  spprof report trace.json
"""


@click.command(epilog=EXAMPLES, context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]})
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    default="trace.json",
    show_default=True,
    help="Its suffix tells the format.",
)
@click.option("--include", multiple=True, metavar="MODULE|PATH", help="Trace only this (may be given again).")
@click.option("--exclude", multiple=True, metavar="MODULE|PATH", help="Do not trace this (may be given again).")
@click.option("--c-functions", is_flag=True, help="Functions of extensions and of the interpreter, too.")
@click.option("--max-depth", type=click.IntRange(min=1), metavar="CALLS", help="Calls on top of each other that are traced.")
@click.option("--min-duration-ms", type=click.FloatRange(min=0), metavar="MS", help="Shorter calls are their caller's time.")
@click.option("--args", "include_args", is_flag=True, help="Keep the arguments of each function's last calls.")
@takes_a_program
def trace(
    output: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    c_functions: bool,
    max_depth: Optional[int],
    min_duration_ms: Optional[float],
    include_args: bool,
    module: bool,
    code: bool,
    program: str,
    arguments: tuple[str, ...],
) -> None:
    """Run a program as python does, count and time every call, and save its call graph at the end.

    PROGRAM is a script, or a module after -m, or text after -c; its ARGUMENTS follow. Options of spprof come before it.
    The exit status is the program's own.
    """
    given: dict[str, Any] = {
        "include_modules": list(include),
        "exclude_modules": list(exclude),
        "c_functions": c_functions,
        "max_depth": max_depth,
        "min_duration_ms": min_duration_ms,
        "include_args": include_args,
    }
    options = {name: value for name, value in given.items() if value}
    path = os.path.abspath(output)
    try:
        format = format_of(path)
        CallTracer(**options)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    if not os.access(path if os.path.exists(path) else os.path.dirname(path), os.W_OK):
        raise click.UsageError(f"Cannot write to {output}")
    if format in ("chrome", "speedscope"):
        # They tell when each call was, which is kept only if it is asked for.
        options["timeline"] = True
    check_program(program, module=module, code=code)
    environment = {
        **{key: value for key, value in os.environ.items() if key not in OURS},
        "SPPROF": _env.RUN,
        "SPPROF_TRACE": json.dumps(options),
        "SPPROF_OUTPUT": path,
    }
    become(program, arguments, module=module, code=code, environment=environment)
