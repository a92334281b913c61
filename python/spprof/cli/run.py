"""`spprof run`: a program under the profiler.

This process becomes a fresh interpreter that runs the program as `python` itself would, with the profiler started by the
environment (`_env`). So argv, `__main__`, the path, tracebacks and exit statuses are python's own, and no frame of ours
is in any stack.
"""

from __future__ import annotations

import os
import re
import site
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Optional

import click

from .. import _env, _heap_env, memprof
from .._settings import CLOCKS, ENGINES, checked

START_FILE = "spprof-start.pth"
# Settings of an outer run are not this run's.
OURS = (*_env.VARIABLES, _env.OWNER, *_heap_env.VARIABLES, _heap_env.PRELOAD_BEFORE)


SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Duration(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Seconds, from 10, 10s, 500ms, 2m or 1h."""

    name = "time"

    def convert(self, value: object, param: Optional[click.Parameter], context: Optional[click.Context]) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)?", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no time such as 10s, 500ms or 2m", param, context)
        return float(found[1]) * SECONDS[found[2] or "s"]


DURATION = Duration()


EXAMPLES = """\b
Examples:
  spprof run script.py --its-own-option
  spprof run -i 1 -o profile.svg -m package.module
  spprof run --clock wall -o profile.spprof script.py
  spprof run --memory --every 10s -o heap.spprof script.py
"""


def takes_a_program(command: Callable[..., None]) -> Callable[..., None]:
    """The program a verb runs, as python takes it: `module`, `code`, `program` and `arguments` of the function."""
    for option in (
        click.argument("arguments", nargs=-1, type=click.UNPROCESSED),
        click.argument("program", type=click.UNPROCESSED),
        click.option("-c", "code", is_flag=True, help="The program is given as text, as in python -c."),
        click.option("-m", "module", is_flag=True, help="The program is a module, as in python -m."),
    ):
        command = option(command)
    return command


@click.command(epilog=EXAMPLES, context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]})
@click.option(
    "-i",
    "--interval",
    "interval_ms",
    type=int,
    default=10,
    show_default=True,
    metavar="MS",
    help="Sampling interval in milliseconds.",
)
@click.option("--interval-us", type=int, metavar="US", help="Sampling interval in microseconds, instead.")
@click.option(
    "--clock", type=click.Choice(CLOCKS), default="cpu", show_default=True, help="Sample what runs, or also what waits."
)
@click.option("--engine", type=click.Choice(ENGINES), default="auto", show_default=True, help="What makes samples happen.")
@click.option("--native", "native", flag_value="1", help="See C, C++ and Rust code between the Python frames, too.")
@click.option("--native-full", "native", flag_value="full", help="As --native, with the interpreter's own frames.")
@click.option(
    "-f",
    "--format",
    "output_format",
    type=click.Choice(list(_env.SUFFIXES)),
    help="Format; by default the suffix of the output decides.",
)
@click.option(
    "-o", "--output", type=click.Path(), help="The profile's file; {pid} stands for the process id.  [default: profile.json]"
)
@click.option(
    "--memory-limit",
    "memory_limit_mb",
    type=int,
    default=100,
    show_default=True,
    metavar="MB",
    help="Most memory for the profile.",
)
@click.option("--memory", is_flag=True, help="Profile the memory, not the time: who holds it, who churns it.")
@click.option(
    "--rate",
    "rate_kb",
    type=click.IntRange(1, 1 << 20),
    default=512,
    show_default=True,
    metavar="KB",
    help="With --memory: mean distance of two samples in KiB of allocated memory.",
)
@click.option(
    "--every",
    type=DURATION,
    default="0",
    metavar="TIME",
    help="With --memory: a snapshot every 10s, 2m ...; each replaces the file, or has its own where the name holds {n}.",
)
@click.option("--rss", is_flag=True, help="With --memory: tell at the end what the resident memory consists of.")
@click.option("--children", is_flag=True, help="Profile the Python programs it starts too, each into a file of its own.")
@takes_a_program
def run(
    interval_ms: int,
    interval_us: Optional[int],
    clock: str,
    engine: str,
    native: Optional[str],
    output_format: Optional[str],
    output: Optional[str],
    memory_limit_mb: int,
    memory: bool,
    rate_kb: int,
    every: float,
    rss: bool,
    children: bool,
    module: bool,
    code: bool,
    program: str,
    arguments: tuple[str, ...],
) -> None:
    """Run a program as python does, and save its profile at the end.

    PROGRAM is a script, or a module after -m, or text after -c; its ARGUMENTS follow. Options of spprof come before it.
    The exit status is the program's own.
    """
    try:
        checked(interval_ms, memory_limit_mb, clock, engine, interval_us)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    check_program(program, module=module, code=code)
    environment = {key: value for key, value in os.environ.items() if key not in OURS}
    if memory:
        environment.update(_heap_environment(children, output, output_format, rate_kb, every, rss))
    else:
        environment.update(
            {
                "SPPROF": "1" if children else _env.RUN,
                "SPPROF_OUTPUT": output or f"profile{_env.SUFFIXES[output_format or 'speedscope']}",
                "SPPROF_INTERVAL_MS": str(interval_ms),
                "SPPROF_MEMORY_LIMIT_MB": str(memory_limit_mb),
                "SPPROF_CLOCK": clock,
                "SPPROF_ENGINE": engine,
            }
        )
        if output_format is not None:
            environment["SPPROF_FORMAT"] = output_format
        if interval_us is not None:
            environment["SPPROF_INTERVAL_US"] = str(interval_us)
        if native is not None:
            environment["SPPROF_NATIVE"] = native
    become(program, arguments, module=module, code=code, environment=environment)


def become(program: str, arguments: Sequence[str], *, module: bool, code: bool, environment: dict[str, str]) -> None:
    """This process becomes an interpreter that runs the program, with our settings in its environment."""
    kind = ["-m"] if module else ["-c"] if code else []
    # The interpreter's own options (-O, -X, -W, ...) stay as they were given to us.
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    command = [sys.executable, *flags, *kind, program, *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command, environment)


def _heap_environment(
    children: bool, output: Optional[str], output_format: Optional[str], rate_kb: int, every: float, rss: bool
) -> dict[str, str]:
    """What starts a heap run in the program: the hooks of malloc, and the settings."""
    try:
        library = str(memprof.preload_path())
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from None
    before = os.environ.get("LD_PRELOAD", "")
    return {
        "SPPROF_MEMPROF": "1" if children else _heap_env.RUN,
        "SPPROF_MEMPROF_OUTPUT": output or f"heap{_env.SUFFIXES[output_format or 'spprof']}",
        "SPPROF_MEMPROF_RATE_KB": str(rate_kb),
        "SPPROF_MEMPROF_EVERY": str(every),
        **({"SPPROF_MEMPROF_RSS": "1"} if rss else {}),
        **({"SPPROF_MEMPROF_FORMAT": output_format} if output_format is not None else {}),
        "LD_PRELOAD": f"{library}:{before}" if before else library,
        _heap_env.PRELOAD_BEFORE: before,
    }


def check_program(program: str, *, module: bool, code: bool) -> None:
    """That the program can be run, before an older profile is replaced by one of nothing."""
    if module and code:
        raise click.UsageError("-m and -c exclude each other")
    if not _starts_by_environment():
        raise click.ClickException(
            f"{START_FILE} is in no site-packages folder of {sys.executable}: spprof must be installed there "
            "(pip install spprof), and python must not run with -S"
        )
    if not (module or code) and not os.path.exists(program):
        # As python says it.
        raise click.ClickException(f"can't open file {program!r}: no such file or directory")


def _starts_by_environment() -> bool:
    """Whether a fresh interpreter will read our .pth file."""
    if sys.flags.no_site:
        return False
    folders = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        folders = [*folders, site.getusersitepackages()]
    return any(os.path.isfile(os.path.join(folder, START_FILE)) for folder in folders)
