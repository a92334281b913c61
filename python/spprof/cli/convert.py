"""`spprof convert`: a profile from one format into another."""

from __future__ import annotations

from typing import Optional

import click

from .._env import SUFFIXES
from .._profile import load


@click.command(epilog="Example: spprof convert profile.spprof profile.svg")
@click.argument("source", type=click.Path(exists=True, dir_okay=False))
@click.argument("target", type=click.Path())
@click.option(
    "-f",
    "--format",
    "target_format",
    type=click.Choice(list(SUFFIXES)),
    help="Format; by default the suffix of TARGET decides.",
)
def convert(source: str, target: str, target_format: Optional[str]) -> None:
    """Change the format of a profile.

    SOURCE is a profile in spprof's own format, or speedscope, pprof or collapsed stacks. TARGET's suffix tells what to
    write: .svg a flame graph for a browser, .json for https://www.speedscope.app, .pb.gz for go tool pprof, .collapsed
    one line a stack, .spprof spprof's own.
    """
    try:
        load(source).save(target, target_format)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
