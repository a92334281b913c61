"""`spprof compare`: what became slower, for people and, by its exit status, for CI."""

from __future__ import annotations

import glob
import os
from typing import Any, Optional

import click

from ..comparison import compare_graphs, generate_comparison_report

# What CI looks at. Errors of use have 2, as everywhere.
EXIT_REGRESSION = 1

EXAMPLES = """\b
Examples:
  spprof compare before.json after.json
  spprof compare --fail-on 5% 'main-*.json' 'branch-*.json'
  spprof compare --format markdown runs/main/ runs/branch/
"""


def _percentage(context: click.Context, parameter: click.Parameter, value: Optional[str]) -> Optional[float]:
    """`5%`, `5` or `0.5%` as a part of one."""
    if value is None:
        return None
    try:
        number = float(value.rstrip("%"))
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise click.BadParameter(f"{value!r} is no percentage, such as 5%", context, parameter)
    return number / 100


@click.command(epilog=EXAMPLES)
@click.argument("before")
@click.argument("after")
@click.option(
    "--fail-on",
    callback=_percentage,
    metavar="PERCENT",
    help="Exit with status 1 when the whole program or a function takes longer by this much or more, beyond noise.",
)
@click.option(
    "--threshold",
    callback=_percentage,
    metavar="PERCENT",
    help="Smaller changes are none.  [default: 5%; 25% of single traces]",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "markdown", "json"]),
    default="text",
    show_default=True,
    help="How to say it.",
)
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write it to a file.")
def compare(
    before: str, after: str, fail_on: Optional[float], threshold: Optional[float], output_format: str, output: Optional[str]
) -> None:
    """Compare two traces or profiles, or two sets of them.

    BEFORE and AFTER are files, or several runs each: a folder, or a pattern in quotes. From four runs a side on, what is
    more than noise is tested. The exit status is 0, or 1 by --fail-on.
    """
    try:
        comparison = compare_graphs(
            _files(before),
            _files(after),
            label1=before,
            label2=after,
            threshold=threshold if threshold is not None else fail_on,
        )
    except (OSError, ValueError, TypeError) as error:
        raise click.ClickException(str(error)) from None
    text = generate_comparison_report(comparison, output_format)
    if output is None:
        click.echo(text)
    else:
        try:
            with open(output, "w", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            raise click.ClickException(str(error)) from None
    if fail_on is not None:
        failures = _failures(comparison, fail_on)
        for failure in failures:
            click.echo(f"spprof: {failure}", err=True)
        if failures:
            raise click.exceptions.Exit(EXIT_REGRESSION)


def _files(place: str) -> list[str]:
    """The runs that an argument names."""
    if os.path.isdir(place):
        files = [path for path in glob.glob(os.path.join(glob.escape(place), "*")) if os.path.isfile(path)]
    elif os.path.exists(place):
        files = [place]
    else:
        files = glob.glob(place)
    if not files:
        raise click.ClickException(f"{place}: no such file, and no file matches it")
    return sorted(files)


def _failures(comparison: dict[str, Any], fail_on: float) -> list[str]:
    summary = comparison["summary"]
    before, after = summary["total_time_before"], summary["total_time_after"]
    failures = []
    if summary["total_regression"] and after - before >= fail_on * before:
        failures.append(f"the whole takes {_more(after - before, before)} longer")
    for row in comparison["node_comparisons"]:
        if row["regression"] and row["time_diff"] >= fail_on * row["time_before"]:
            failures.append(f"{row['name']} takes {_more(row['time_diff'], row['time_before'])} longer")
    return failures


def _more(difference: float, before: float) -> str:
    return f"{100 * difference / before:.1f} %" if before else f"{difference:.6f} s"
