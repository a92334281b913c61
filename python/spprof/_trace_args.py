"""The arguments of the last calls of each function, as short texts; only for scopes that ask for them."""

from __future__ import annotations

import gc
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Callable, Optional, Union

#: `redact(name, value)` gives what is shown in place of the value.
Redact = Callable[[str, Any], Any]

MAX_CHARACTERS = 100
KEPT_CALLS = 5


class Capture(Mapping[str, "list[str]"]):
    """By full name (`module.qualname`), the texts of the last calls' arguments."""

    def __init__(self, redact: Optional[Redact] = None) -> None:
        self._redact = redact
        #: By code object and module, or by full name.
        self._calls: dict[Union[tuple[types.CodeType, str], str], deque[str]] = {}

    def _by_name(self) -> dict[str, list[str]]:
        calls = dict(self._calls)
        names = qualnames() if calls else {}
        return {
            key if isinstance(key, str) else f"{key[1]}.{names.get(id(key[0]), qualname(key[0]))}": list(texts)
            for key, texts in calls.items()
        }

    def __getitem__(self, full_name: str) -> list[str]:
        return self._by_name()[full_name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name())

    def __len__(self) -> int:
        return len(self._calls)

    def clear(self) -> None:
        self._calls.clear()

    def call(self, frame: types.FrameType) -> None:
        """A function begins; called by the tracer, which hears no events meanwhile."""
        code = frame.f_code
        count = code.co_argcount + code.co_kwonlyargcount
        count += bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)
        values = frame.f_locals
        names = [name for name in code.co_varnames[:count] if name in values]
        text = ", ".join(f"{name}={self._text(name, values[name])}" for name in names)
        self.keep((code, frame.f_globals.get("__name__", "")), text)

    def keep(self, key: Union[tuple[types.CodeType, str], str], text: str) -> None:
        self._calls.setdefault(key, deque(maxlen=KEPT_CALLS)).append(shortened(text))

    def _text(self, name: str, value: Any) -> str:
        try:
            return shortened(repr(value if self._redact is None else self._redact(name, value)))
        except Exception as error:
            # An object half made, or one that does not want to be shown: the call itself must not notice.
            return f"<{type(value).__name__}: {type(error).__name__}>"


def shortened(text: str) -> str:
    """At most `MAX_CHARACTERS` of it."""
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


#: Names given by decorators, by code object.
renamed: dict[types.CodeType, str] = {}


def qualname(code: types.CodeType) -> str:
    """The qualified name, as far as the code object knows it."""
    name: str = getattr(code, "co_qualname", code.co_name)
    return name


def qualnames() -> dict[int, str]:
    """Names that code objects do not tell, by their addresses: those given by decorators, and before Python 3.11 the
    qualified names of all functions that there are."""
    names = {id(code): name for code, name in list(renamed.items())}
    if sys.version_info < (3, 11):
        for thing in gc.get_objects():
            if type(thing) is types.FunctionType:
                names.setdefault(id(thing.__code__), thing.__qualname__)
    return names
