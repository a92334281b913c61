"""Real programs' libraries at work while they are sampled; writes the stacks of the profile.

work.py KIND SAMPLES OUTPUT
"""

from __future__ import annotations

import json
import sys
import threading
import zlib

import spprof

kind, samples, output = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def deflate() -> None:
    zlib.decompress(zlib.compress(bytes(range(256)) * 300, 6))


def patterns() -> None:
    import re

    re.compile(r"(a|b)*c(\d+)[x-z]").sub(lambda match: match.group(0).upper(), "ababc123x " * 400)


def documents() -> None:
    rows = [{"name": str(row), "values": list(range(row % 17)), "nested": {"x": row / 7}} for row in range(200)]
    json.loads(json.dumps(rows, sort_keys=True, indent=1), parse_float=lambda text: float(text))


def tables() -> None:
    import sqlite3

    base = sqlite3.connect(":memory:")
    base.create_function("twice", 1, lambda value: value * 2)
    base.execute("create table t (a integer, b text)")
    base.executemany("insert into t values (?, ?)", ((row % 50, str(row)) for row in range(600)))
    base.execute("select twice(a), count(*), group_concat(b) from t group by a order by 2 desc").fetchall()


def ciphers() -> None:
    import hashlib
    import ssl

    ssl.create_default_context()
    hashlib.pbkdf2_hmac("sha256", b"x", b"salt", 1500)
    hashlib.sha512(bytes(300_000)).hexdigest()


def arrays() -> None:
    import numpy

    square = numpy.random.default_rng(1).random((120, 120))
    numpy.linalg.inv(square @ square.T + numpy.eye(120))
    numpy.sort(square.ravel())
    numpy.apply_along_axis(lambda row: sorted(row)[0], 0, square)


WORK = {it.__name__: it for it in (deflate, patterns, documents, tables, ciphers, arrays)}


def run() -> None:
    WORK[kind]()


run()
spprof.start(4, engine="timer", native="full")
while spprof.stats().collected_samples < samples:  # type: ignore[union-attr]
    run()
losses = dict(spprof.stats().losses)  # type: ignore[union-attr]
profile = spprof.stop()
own = threading.get_native_id()
stacks = [[[f.function_name, f.is_native] for f in s.frames] for s in profile.samples if s.thread_id == own]
with open(output, "w") as out:
    json.dump({"tid": own, "stacks": stacks, "losses": losses}, out)
