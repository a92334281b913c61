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
from .trace import trace

EXAMPLES = """\b
Examples:
  spprof run -o profile.spprof script.py argument
  spprof report --lines profile.spprof
  spprof trace -o trace.json script.py argument
  spprof compare --fail-on 5% 'main-*.json' 'branch-*.json'
  spprof convert profile.spprof profile.svg
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXAMPLES)
@click.version_option(package.__version__)
def spprof() -> None:
    """A profiler for Python: which functions, lines and threads take the time, by samples or by counting calls.

    `run` makes a profile of a program and `trace` a call graph, `report` shows them as text, `compare` what became slower,
    `convert` and `export` make flame graphs and files for other tools.
    """


for verb in (run, trace, report, compare, convert, export, doctor):
    spprof.add_command(verb)
