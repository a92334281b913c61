"""`spprof export`: traces and profiles into the formats of other tools, one or many at a time."""

from __future__ import annotations

import os
from typing import Optional

import click

from ..callgraph import FORMATS, SUFFIXES, load_graph

# The names people know.
NAMES = {"json": "callgraph", **{name: name for name in FORMATS if name != "callgraph"}}
SUFFIX = {name: next(suffix for suffix, known in SUFFIXES.items() if known == NAMES[name]) for name in NAMES}


@click.command(epilog="Example: spprof export trace.json --format csv")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("-f", "--format", "name", type=click.Choice(list(NAMES)), help="Format; by default by --output's suffix.")
@click.option("-o", "--output", type=click.Path(), help="File to write, or folder.  [default: beside each file]")
def export(files: tuple[str, ...], name: Optional[str], output: Optional[str]) -> None:
    """Write the call graphs of traces or profiles in another format.

    FILES are traces or profiles of any format that spprof reads. `json` is the call graph without loss, `csv` two tables,
    `svg` a flame graph, `collapsed`, `speedscope` and `pprof` are for the tools of these names.
    """
    if len(files) > 1 and output is not None and not os.path.isdir(output):
        raise click.UsageError(f"--output must be a folder that is there, for {len(files)} files")
    if name is None and (output is None or os.path.isdir(output)):
        raise click.UsageError("which format? Give --format, or a file with --output")
    for file in files:
        target = _target(file, name, output)
        if os.path.exists(target) and os.path.samefile(file, target):
            raise click.UsageError(f"{file} would be written over: give --output")
        try:
            load_graph(file).save(target, NAMES[name] if name is not None else None)
        except (OSError, ValueError) as error:
            raise click.ClickException(str(error)) from None
        click.echo(target)


def _target(file: str, name: Optional[str], output: Optional[str]) -> str:
    if output is not None and not os.path.isdir(output):
        return output
    assert name is not None
    folder, base = os.path.split(file)
    stem = next((base[: -len(suffix)] for suffix in SUFFIXES if base.lower().endswith(suffix)), base)
    return os.path.join(output or folder, stem + SUFFIX[name])
