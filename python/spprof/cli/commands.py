"""The command group: one verb a file, gathered here."""

from __future__ import annotations

import click

import spprof as package

from .convert import convert
from .doctor import doctor
from .report import report
from .run import run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package.__version__, prog_name="spprof")
def spprof() -> None:
    """A sampling profiler for Python."""


for verb in (run, report, convert, doctor):
    spprof.add_command(verb)
