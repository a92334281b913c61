"""Holds known amounts of every kind of memory; prints the estimates of many trials beside the truth.

usage: heap_mixture.py RATE_BYTES TRIALS SCALE
"""

import json
import mmap
import sys

import spprof.memprof as memprof

try:
    import numpy
except ImportError:
    numpy = None

RATE, TRIALS, SCALE = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])


def times(number):
    return range(int(number * SCALE))


def large_bytes():
    return [bytes(1_000_000) for _ in times(100)], (1_000_000 + bytes.__basicsize__) * len(times(100))


def small_bytearrays():
    return [bytearray(1000) for _ in times(20_000)], (1001 + bytearray.__basicsize__) * len(times(20_000))


def medium():
    return [bytes(300_000) for _ in times(200)], (300_000 + bytes.__basicsize__) * len(times(200))


def tiny():
    return [object() for _ in times(200_000)], object.__basicsize__ * len(times(200_000))


def at_the_border():
    """Up to 512 bytes CPython serves itself; beyond, malloc does."""
    sizes = [size - bytes.__basicsize__ for size in (496, 511, 512, 513, 514, 528) for _ in times(3000)]
    return [bytes(size) for size in sizes], sum(size + bytes.__basicsize__ for size in sizes)


def arrays():
    if numpy is None:
        return [], 0
    return [numpy.ones(12_500) for _ in times(100)], 100_000 * len(times(100))


def mappings():
    return [mmap.mmap(-1, 1 << 20) for _ in times(30)], (1 << 20) * len(times(30))


KINDS = [large_bytes, small_bytearrays, medium, tiny, at_the_border, arrays, mappings]


def leaf(sample):
    """The kind that a sample belongs to, and whether it is the list of the blocks."""
    for frame in sample.stack:
        if frame.is_python and frame.function in NAMES:
            return frame.function
    return None


NAMES = {kind.__name__ for kind in KINDS}
report = {kind.__name__: [] for kind in KINDS}
report["total"] = []
memprof.start(sampling_rate_bytes=RATE)
for _ in range(TRIALS):
    kept, truths = [], {}
    for kind in KINDS:
        blocks, truth = kind()
        kept.append(blocks)
        # The list that holds the blocks is memory of its line, too.
        truths[kind.__name__] = truth + sys.getsizeof(blocks)
    snapshot = memprof.get_snapshot()
    sums = {name: [0, 0.0] for name in NAMES}
    for sample in snapshot.samples:
        name = leaf(sample)
        if name is not None:
            sums[name][0] += sample.estimated_bytes
            inverse = sample.estimated_bytes / sample.size if sample.size else 1.0
            sums[name][1] += sample.size**2 * inverse * max(inverse - 1, 0.0)
    for name, (value, variance) in sums.items():
        report[name].append([value, variance**0.5, truths[name]])
    total = [sum(value for value, _ in sums.values()), sum(v for _, v in sums.values()) ** 0.5, sum(truths.values())]
    report["total"].append(total)
    del kept, blocks
memprof.stop()
left = [s for s in memprof.get_snapshot().samples if leaf(s) is not None]
print(
    json.dumps(
        {
            "trials": report,
            "left": sum(s.estimated_bytes for s in left),
            # Of blocks far below the rate, of which nothing large can be left.
            "left_error": sum(s.estimated_bytes**2 for s in left if s.size < RATE / 4) ** 0.5,
            "numpy": numpy is not None,
            "hooks": snapshot.metadata["malloc_hooks"],
        }
    )
)
