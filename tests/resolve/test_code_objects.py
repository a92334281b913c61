"""Names and lines read from raw memory, compared with what Python itself says of the same code objects and frames."""

from __future__ import annotations

import dis
import functools
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MINOR = sys.version_info.minor
STDLIB = Path(os.__file__).parent
KIND = {9: "lnotab", 10: "linetable"}.get(MINOR, "locations")


def code_of(source: str, file: str = "<test>") -> types.CodeType:
    return compile(source, file, "exec", dont_inherit=True)


def nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from nested(constant)


@functools.cache
def stdlib_code() -> list[types.CodeType]:
    """Every code object of the standard library's top level and some packages: thousands."""
    found = sorted(STDLIB.glob("*.py")) + sorted(STDLIB.glob("[acej]*/*.py"))
    # Debian has a link to a file that need not exist.
    files = [file for file in found if file.exists()]
    return [code for file in files for code in nested(code_of(file.read_text(encoding="utf-8"), str(file)))]


def true_lines(code: types.CodeType) -> dict[int, int | None]:
    """The line of each instruction's offset, as Python has it."""
    if MINOR >= 10:
        return {at: line for start, end, line in code.co_lines() for at in range(start, end, 2)}
    lines: dict[int, int | None] = {}
    starts = dict(dis.findlinestarts(code))
    line = None
    for at in range(0, len(code.co_code), 2):
        line = starts.get(at, line)
        lines[at] = line
    return lines


def qualname(code: types.CodeType) -> str:
    return getattr(code, "co_qualname", code.co_name)


def wtf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def test_standard_library(probe: Any) -> None:
    codes = stdlib_code()
    assert len(codes) > 4000
    for code in codes:
        lines = true_lines(code)
        name, file, first_line, _, got = probe.read(id(code), list(lines))
        assert (name, file, first_line) == (wtf8(qualname(code)), wtf8(code.co_filename), code.co_firstlineno)
        assert got == list(lines.values()), code


def test_offsets_outside(probe: Any) -> None:
    """Before the first instruction a frame is at its first line; behind the last one there is nothing."""
    code = next(nested(code_of("\n\n\ndef f():\n  return 1"))).co_consts[0]
    end = len(code.co_code)
    lines = probe.read(id(code), [-2, -1, end, 1 << 40, -(1 << 40)])[4]
    behind = [5, 5] if KIND == "lnotab" else [None, None]
    assert lines[:2] + lines[4:] == [4, 4, 4]
    assert lines[2] == behind[0]


def recorder(wrong: list[Any], count: list[int], probe: Any) -> Any:
    def check() -> int:
        frame: types.FrameType | None
        captured, frame, line_here = probe.stack(), sys._getframe(), sys._getframe().f_lineno
        for depth, (address, name, line) in enumerate(captured):
            assert frame is not None
            true_line = frame.f_lineno if depth else line_here
            if (address, name, line) != (id(frame.f_code), wtf8(qualname(frame.f_code)), true_line):
                wrong.append((frame.f_code, name, line, true_line))
            count[0] += 1
            frame = frame.f_back
        return 0

    return check


def test_live_frames(probe: Any) -> None:
    """Callers in generators, comprehensions, decorators, callbacks from C, coroutines, multi-line calls, exec."""
    import asyncio

    wrong: list[Any] = []
    count = [0]
    inner = recorder(wrong, count, probe)

    def check() -> int:
        return inner()

    class Item:
        def __lt__(self, other: object) -> bool:
            return check() == 0

    # The calls below are spread over lines on purpose.
    # fmt: off
    def generator() -> Iterator[Any]:
        yield (
            check(),
            [check() for _ in range(2)],
            sorted([Item(),
                    Item()]),
        )
        try:
            raise ValueError
        except ValueError:
            yield check()
        finally:
            check()

    async def leaf() -> int:
        await asyncio.sleep(0)
        return check()

    async def root() -> list[int]:
        async def many() -> Any:
            for _ in range(3):
                yield await leaf()

        return [value async for value in many()]

    def recurse(depth: int) -> int:
        return (
            recurse(depth - 1)
            if depth
            else check()
        )

    for _ in range(30):
        list(generator())
        recurse(30)
        list(map(lambda _: check(), [1,  # noqa: C417
                                     2]))
    # fmt: on
    asyncio.run(root())
    exec("def f():\n\n\n  check()\nf()", {"check": check})
    assert count[0] > 4000
    assert not wrong, (len(wrong), wrong[:5])


@pytest.mark.parametrize(
    "name",
    ["plain", "caf\xe9", "\u0416\u0443\u043a", "\u4e2d\u6587", "\U0001f40d" + "x", "a\udcffb", "\ud83d\udc0d", '\x00;\n"', ""],
    ids=ascii,
)
def test_any_name(probe: Any, name: str) -> None:
    """All widths of str, lone surrogates included, in name and file."""
    change = {"co_name": name, "co_filename": name}
    if MINOR >= 11:
        change["co_qualname"] = "Q" + name
    code = code_of("pass").replace(**change)
    got = probe.read(id(code), [])
    assert got[:2] == (wtf8(qualname(code)), wtf8(name))


@pytest.mark.parametrize("letter", ["x", "\xe9", "\u0416", "\u4e2d", "\U0001f40d"], ids=ascii)
def test_long_names_are_cut(probe: Any, letter: str) -> None:
    limit = 16 * 1024
    width = len(wtf8(letter))
    fits = code_of("pass").replace(co_filename=letter * (limit // width))
    assert probe.read(id(fits), [])[1] == wtf8(fits.co_filename)
    for length in (limit // width + 1, 1_000_000):
        code = code_of("pass").replace(co_filename=letter * length)
        file = probe.read(id(code), [])[1]
        kept = file.decode()
        assert kept == letter * (len(kept) - 1) + "…"
        assert limit - 4 <= len(file) <= limit


def test_str_subclass(probe: Any) -> None:
    """Instances of a subclass keep their characters elsewhere."""

    class Text(str):
        pass

    for text in ("plain", "\u0416", "\U0001f40d"):
        try:
            code = code_of("pass").replace(co_filename=Text(text))
        except TypeError:
            pytest.skip("this Python takes exact strings only")
        assert probe.read(id(code), [])[1] == wtf8(text)


def test_what_is_not_code_is_refused(probe: Any) -> None:
    for thing in (object(), "text", b"x" * 400, [1] * 100, probe.read):
        with pytest.raises(ValueError, match="NotCode"):
            probe.read(id(thing), [])
    code = code_of("pass")
    for address in (0, 8, 1, id(code) + 4, 1 << 63):
        with pytest.raises(ValueError, match="NotCode"):
            probe.read(address, [])


def test_identity(probe: Any) -> None:
    """Code compiled twice is one function; from 3.11 on, two lambdas on a line are two."""
    source = "f = lambda x: x + 1; g = lambda x: x + 2"
    first, again = code_of(source), code_of(source)

    def identity(code: types.CodeType) -> Any:
        name, file, line, discriminator, _ = probe.read(id(code), [])
        return name, file, line, discriminator

    f, g = list(nested(first))[1:]
    assert identity(first) == identity(again)
    assert identity(f) == identity(list(nested(again))[1])
    if MINOR >= 11:
        assert identity(f) != identity(g)
    assert identity(f) != identity(first)


def test_garbage_tables(probe: Any) -> None:
    """A code object may carry any bytes as its table."""
    field = "co_lnotab" if MINOR == 9 else "co_linetable"
    for table in (b"", b"\x00", b"\xff" * 1000, b"\x7f" * 999, bytes(range(256)) * 4):
        code = code_of("pass").replace(**{field: table})
        assert len(probe.read(id(code), list(range(-2, 2000)))[4]) == 2002
