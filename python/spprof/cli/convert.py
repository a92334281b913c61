"""`spprof convert`: a profile from one format into another."""

from __future__ import annotations

from typing import Optional

import click

from .._env import SUFFIXES
from .._profile import load


@click.command()
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
    """Write the profile SOURCE as TARGET, in another format.

    SOURCE may be spprof's own format, speedscope or collapsed stacks.
    """
    try:
        load(source).save(target, target_format)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
