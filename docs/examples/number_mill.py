"""A mill of numbers: fits curves with numpy, ranks the results in Python.

For `spprof run --native` to look at: the time is in Python, in numpy's own C code and in the BLAS that it calls, and sorting
calls back from C into Python.

    python number_mill.py [rounds]

(The picture in the README is of `main(250)` after a `main(1)`, which imports what numpy puts off, with one thread and
OPENBLAS_CORETYPE=SKYLAKEX. Some other kernels of OpenBLAS are written in assembler without unwind information.)
"""

import sys

import numpy as np


def measure(generator, count, degree):
    """Noisy points of a polynomial."""
    x = generator.uniform(-1, 1, count)
    y = np.zeros(count)
    for coefficient in range(degree + 1, 0, -1):
        y = y * x + coefficient
    return x, y + generator.normal(0, 0.1, count)


def fit(x, y, degree):
    """The polynomial of least squares, by its normal equations: a product of matrices, and a system of equations."""
    design = np.vander(x, degree + 1)
    return np.linalg.solve(design.T @ design, design.T @ y)


def correlate(rows):
    """How much the rows resemble each other."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    return centred @ centred.T


def rank(values):
    """By distance from the median; the key is a function in Python, called by the sort in C."""
    middle = float(np.median(values))

    def distance(value):
        return abs(value - middle)

    return sorted(values.tolist(), key=distance)


def main(rounds):
    generator = np.random.default_rng(1)
    total = 0.0
    for _ in range(rounds):
        x, y = measure(generator, 20_000, 12)
        total += float(fit(x, y, 12)[0])
        total += float(correlate(generator.normal(size=(400, 600))).trace())
        total += rank(y[:5000])[0]
    print(f"{total:.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
