"""What the hooks cost: nanoseconds a malloc+free pair and a PyObject_Malloc+PyObject_Free pair, the best of many rounds.

python benches/heap_pair.py        needs a C compiler; some ten seconds
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile

import spprof.memprof as memprof

SOURCE = r"""
#include <stdlib.h>
#include <time.h>
extern void *PyObject_Malloc(size_t);
extern void PyObject_Free(void *);
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e9 + t.tv_nsec; }
#define PAIR(name, get, give) \
    double name(size_t size, long pairs) { \
        double began = now(); \
        for (long i = 0; i < pairs; i++) { void *volatile p = get(size); give(p); } \
        return (now() - began) / pairs; }
PAIR(pair_malloc, malloc, free)
PAIR(pair_object, PyObject_Malloc, PyObject_Free)
"""
ROUNDS, PAIRS = 60, 100_000
MODES = {
    "bare": (False, None),
    "preloaded, never started": (True, None),
    "preloaded, 512 KiB": (True, 512),
    "preloaded, 64 KiB": (True, 64),
    "preloaded, stopped": (True, 0),
    "in-process, 512 KiB": (False, 512),
    "in-process, stopped": (False, 0),
}


def measure(library: str, rate: str) -> None:
    """Runs in a process of its own, with the GIL held."""
    functions = ctypes.PyDLL(library)
    if rate:
        memprof.start(int(rate) or 512)
        if rate == "0":
            memprof.stop()
    best = {}
    for name in ("pair_malloc", "pair_object"):
        function = getattr(functions, name)
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_size_t, ctypes.c_long]
        best[name] = min(function(48, PAIRS) for _ in range(ROUNDS))
    print(json.dumps(best))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        library = os.path.join(folder, "pair.so")
        source = os.path.join(folder, "pair.c")
        with open(source, "w") as file:
            file.write(SOURCE)
        subprocess.run(["cc", "-O2", "-fno-builtin", "-shared", "-fPIC", source, "-o", library], check=True)
        print(f"{'':28} malloc+free  PyObject_Malloc+Free")
        for name, (preloaded, rate) in MODES.items():
            environment = {**os.environ, **({"LD_PRELOAD": str(memprof.preload_path())} if preloaded else {})}
            command = [sys.executable, __file__, "measure", library, "" if rate is None else str(rate)]
            best = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
            print(f"{name:28} {best['pair_malloc']:8.2f} ns {best['pair_object']:14.2f} ns")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(*sys.argv[2:])
    else:
        main()
