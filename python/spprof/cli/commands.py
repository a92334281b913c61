"""The command group: one verb a file, gathered here."""

from __future__ import annotations

import click

import spprof as package

from .compare import compare
from .convert import convert
from .doctor import doctor
from .export import export
from .report import report
from .run import run

EXAMPLES = """\b
Examples:
  spprof run -o profile.spprof script.py argument
  spprof report --lines profile.spprof
  spprof convert profile.spprof profile.svg
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXAMPLES)
@click.version_option(package.__version__)
def spprof() -> None:
    """A sampling profiler for Python: which functions, lines and threads take the time.

    `run` makes a profile of a program, `report` shows it as text, `convert` makes a flame graph or a file for a viewer.
    """


for verb in (run, report, compare, convert, export, doctor):
    spprof.add_command(verb)
