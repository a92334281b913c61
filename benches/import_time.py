"""What `import spprof` adds to the start of Python: whole processes with and without it, interleaved."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from statistics_of_ratios import spread


def start_ms(statement: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, stdin=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--module", default="spprof")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    bare, with_module = [], []
    start_ms(f"import {options.module}")  # byte code and file cache
    for _ in range(options.rounds):
        bare.append(start_ms("pass"))
        with_module.append(start_ms(f"import {options.module}"))
    added = spread([mine - base for mine, base in zip(with_module, bare)])
    print(f"bare Python {statistics.median(bare):.1f} ms; import {options.module} adds {added} ms (median [95 %])")


if __name__ == "__main__":
    main()
