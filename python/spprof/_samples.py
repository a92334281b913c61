"""`Profile.samples`: a list of `Sample` that stays native until it is touched.

A million samples cost no Python object before one of them is asked for. The first write (append, sort, ...) makes a
plain list of it, once; from then on that list is what counts, for saving too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSequence
from typing import Any, Callable, Optional, Union, overload

from . import _native
from ._types import Frame, Sample


class Samples(MutableSequence[Sample]):
    """A list of samples, in the order of time."""

    __slots__ = ("_frames", "_list", "_native", "_stacks")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, native: _native.NativeProfile) -> None:
        self._native: Optional[_native.NativeProfile] = native
        self._list: Optional[list[Sample]] = None
        # Stacks and frames made so far: samples of one stack share one tuple.
        self._stacks: dict[int, tuple[Frame, ...]] = {}
        self._frames: dict[tuple[str, str, int, bool, str], Frame] = {}

    @property
    def native(self) -> Optional[_native.NativeProfile]:
        """The native profile these samples still are; None once they were written to."""
        return self._native

    def stack(self, stack_id: int) -> tuple[Frame, ...]:
        """The frames of a stack of the native profile, leaf first."""
        assert self._native is not None
        stack = self._stacks.get(stack_id)
        if stack is None:
            stack = tuple(map(self._frame, self._native.stack(stack_id)))
            self._stacks[stack_id] = stack
        return stack

    def _frame(self, parts: tuple[str, str, int, bool, str]) -> Frame:
        frame = self._frames.get(parts)
        if frame is None:
            frame = self._frames[parts] = Frame(*parts)
        return frame

    def _sample(self, index: int) -> Sample:
        assert self._native is not None
        timestamp_ns, thread_id, thread_name, stack_id, weight_ns, count = self._native.sample(index)
        return Sample(timestamp_ns, thread_id, thread_name, self.stack(stack_id), weight_ns, count)

    def _written(self) -> list[Sample]:
        """The plain list, which from now on is what counts."""
        if self._list is None:
            self._list = list(self)
            self._native = None
            self._stacks.clear()
            self._frames.clear()
        return self._list

    def __len__(self) -> int:
        return len(self._native) if self._native is not None else len(self._written())

    def __iter__(self) -> Iterator[Sample]:
        index = 0
        while index < len(self):
            yield self[index]
            index += 1

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: Union[int, slice]) -> Union[Sample, list[Sample]]:
        if self._native is None:
            return self._written()[index]
        places = range(len(self._native))[index]
        if isinstance(places, range):
            return [self._sample(place) for place in places]
        return self._sample(places)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._written()[index] = value

    def __delitem__(self, index: Union[int, slice]) -> None:
        del self._written()[index]

    def insert(self, index: int, value: Sample) -> None:
        self._written().insert(index, value)

    def sort(self, *, key: Optional[Callable[[Sample], Any]] = None, reverse: bool = False) -> None:
        self._written().sort(key=key, reverse=reverse)  # type: ignore[arg-type]

    def copy(self) -> list[Sample]:
        return list(self)

    def __add__(self, other: Iterable[Sample]) -> list[Sample]:
        if not isinstance(other, (list, Samples)):
            return NotImplemented
        return [*self, *other]

    def __radd__(self, other: list[Sample]) -> list[Sample]:
        if not isinstance(other, list):
            return NotImplemented
        return [*other, *self]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (list, Samples)):
            return NotImplemented
        if isinstance(other, Samples) and self._native is not None and self._native is other._native:
            return True
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other))

    def __repr__(self) -> str:
        return f"<{len(self)} samples>"

    def __reduce__(self) -> Any:
        """Pickled and copied as what they are: native samples losslessly as bytes, a list as a list."""
        if self._native is not None:
            return _unpickled, (self._native.to_bytes("spprof"),)
        return list, (self._written(),)


def _unpickled(data: bytes) -> Samples:
    return Samples(_native._load_bytes(data))
