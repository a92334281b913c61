"""Programs with known numbers of calls."""

from __future__ import annotations


def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def fib_calls(n: int) -> int:
    return 1 if n < 2 else 1 + fib_calls(n - 1) + fib_calls(n - 2)


def even(n: int) -> bool:
    return n == 0 or odd(n - 1)


def odd(n: int) -> bool:
    return n != 0 and even(n - 1)


def leaf() -> int:
    return 1


def middle(times: int) -> int:
    return sum([leaf() for _ in range(times)])


def numbers(n: int):
    for i in range(n):
        yield leaf() + i


def chained(n: int):
    yield from numbers(n)


def fails() -> None:
    raise ValueError("planned")


def passes_on() -> None:
    fails()


def catches() -> None:
    try:
        passes_on()
    except ValueError:
        leaf()


def key(value: int) -> int:
    return -value


def sorts(n: int) -> list:
    return sorted(range(n), key=key)


class A:
    def run(self) -> int:
        return leaf()

    @staticmethod
    def plain() -> int:
        return 0


class B:
    def run(self) -> int:
        return leaf()


def spin(turns: int) -> int:
    total = 0
    for i in range(turns):
        total += i * i
    return total


def outer_spin(turns: int) -> int:
    return spin(turns) + spin(turns)
