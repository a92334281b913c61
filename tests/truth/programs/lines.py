"""Lines of the standard library and lines of known shares: lines.py ENGINE CPU_SECONDS."""

from __future__ import annotations

import dis
import sys
import threading
import time
from pathlib import Path
from types import CodeType
from typing import Any

import spprof
from account import report

KNOWN = 24
PORTIONS = (1, 2, 4)


def spin(n: int) -> None:
    for _ in range(n):
        pass


def make_known() -> tuple[Any, Any, dict[int, int]]:
    """A function whose odd lines call `spin` and whose even ones call C; each line measures itself."""
    spent = dict.fromkeys(range(2, 2 + KNOWN), 0)
    source = ["def known():"]
    for line in spent:
        portion = PORTIONS[line % 3]
        work = f"spin({portion * 12_000})" if line % 2 else f"sum(range({portion * 12_000}))"
        source.append(f"    b = clock(); {work}; spent[{line}] += clock() - b")
    scope: dict[str, Any] = {"spin": spin, "clock": time.thread_time_ns, "spent": spent}
    exec(compile("\n".join(source), "<known>", "exec"), scope)
    return scope["known"], scope, spent


def use_standard_library() -> None:
    import argparse
    import ast
    import csv
    import difflib
    import email
    import fractions
    import io
    import json
    import pprint
    import random
    import re
    import statistics
    import string
    import textwrap
    import tokenize

    text = Path(textwrap.__file__).read_text()
    tree = ast.parse(text)
    [ast.dump(node) for node in ast.walk(tree)]
    list(tokenize.generate_tokens(io.StringIO(text).readline))
    json.dumps(json.loads(json.dumps({str(i): [i, {"a": i}] for i in range(200)})), indent=2)
    textwrap.wrap(text[:3000], 40)
    list(difflib.unified_diff(text.splitlines()[:60], text.splitlines()[5:70]))
    parser = argparse.ArgumentParser()
    parser.add_argument("--many", type=int, nargs="*")
    parser.parse_args(["--many", *map(str, range(20))])
    re.purge()
    re.compile(r"(a|b)*c{2,3}(?P<name>x+)[^y-z]")
    statistics.variance([random.gauss(0, 1) for _ in range(30)])
    sum(fractions.Fraction(1, i) for i in range(1, 40))
    csv.writer(io.StringIO()).writerows([[1, "a b", 2.5]] * 50)
    pprint.pformat({str(i): list(range(i)) for i in range(12)})
    email.message_from_string("From: a@b\nTo: c@d\n\nbody").as_string()
    string.Template("$a $b").substitute(a=1, b=2)


def lines_of(file: str) -> dict[tuple[str, int], set[int]]:
    """By name and first line: the lines that a function's instructions have, the first one included; 0 if some have none."""
    found: dict[tuple[str, int], set[int]] = {}

    def visit(code: CodeType) -> None:
        if hasattr(code, "co_lines"):
            lines = {line or 0 for _, _, line in code.co_lines()}
        else:
            lines = {line for _, line in dis.findlinestarts(code)}
        key = (code.co_name, code.co_firstlineno)
        found.setdefault(key, set()).update(lines | {code.co_firstlineno})
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                visit(constant)

    visit(compile(Path(file).read_bytes(), file, "exec", dont_inherit=True))
    return found


def main(engine: str, cpu_s: str) -> None:
    known, _, spent = make_known()
    use_standard_library()
    spprof.start(engine=engine, interval_us=200, memory_limit_mb=500)

    def body() -> None:
        end = time.thread_time() + float(cpu_s) / 2
        while time.thread_time() < end:
            use_standard_library()
        end = time.thread_time() + float(cpu_s) / 2
        while time.thread_time() < end:
            known()

    thread = threading.Thread(target=body, name="lines")
    thread.start()
    thread.join()
    profile = spprof.stop()

    weights = dict.fromkeys(spent, 0)
    squares = 0
    for sample in profile.samples:
        line = next((frame.lineno for frame in sample.frames if frame.filename == "<known>"), None)
        if line in weights:
            weights[line] += sample.weight_ns
            squares += sample.weight_ns**2
    tables: dict[str, dict[tuple[str, int], set[int]]] = {}
    checked, illegal = 0, []
    for row in profile._to_native().lines():
        file = row["file"]
        if not Path(file).is_file():
            continue
        table = tables.setdefault(file, lines_of(file))
        checked += 1
        lines = table.get((row["name"].rpartition(".")[2], row["first_line"]))
        if lines is None or row["line"] not in lines:
            illegal.append(row)
    keyed = {f"lines:known_{line}": ns for line, ns in spent.items()}
    report(
        truth=keyed,
        weights={f"lines:known_{line}": ns for line, ns in weights.items()},
        squares=squares,
        checked=checked,
        files=len(tables),
        illegal=illegal[:20],
        metadata=profile.metadata,
    )


main(*sys.argv[1:])
