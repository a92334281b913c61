"""What a run is asked to do, checked. Pure: nothing here looks at the machine or at the state of the profiler."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple, Optional

    class Settings(NamedTuple):
        interval_ns: int
        clock: str
        engine: str
        memory_limit_bytes: int
        native: Optional[str]


CLOCKS = ("cpu", "wall")
# What the argument `native` may be, and what the native side calls that.
NATIVE = {None: None, False: "none", True: "folded", "full": "full"}
ENGINES = ("auto", "timer", "perf", "tick")
# The engines that can see a sleeping thread.
WALL_ENGINES = ("auto", "tick")

# Below this the interruptions themselves would be most of what is measured.
MIN_INTERVAL_US = 20
# The native side counts nanoseconds and bytes in 64 bits.
MAX_U64 = 2**64 - 1


def checked(
    interval_ms: Any,
    memory_limit_mb: Any,
    clock: Any,
    engine: Any,
    interval_us: Any,
    native: Any = None,
) -> Settings:
    """The settings in the native side's units: (interval_ns, clock, engine, memory_limit_bytes, native).

    `interval_us`, when it is not None, takes the place of `interval_ms`; `native` None leaves the choice to the process.

    Raises:
        ValueError: a number is out of range, or a clock or engine is unknown or does not go with the other.
        TypeError: a number is not an integer.
    """
    interval_ns = whole("interval_ms", interval_ms, 1, 1_000_000)
    if interval_us is not None:
        interval_ns = whole("interval_us", interval_us, MIN_INTERVAL_US, 1_000)
    memory_limit_bytes = whole("memory_limit_mb", memory_limit_mb, 1, 1024 * 1024)
    if clock not in CLOCKS:
        raise ValueError(f"unknown clock: {clock!r} (choose from {', '.join(CLOCKS)})")
    if engine not in ENGINES:
        raise ValueError(f"unknown engine: {engine!r} (choose from {', '.join(ENGINES)})")
    if clock == "wall" and engine not in WALL_ENGINES:
        raise ValueError(
            f"engine={engine!r} cannot see sleeping threads: clock='wall' takes engine={' or '.join(map(repr, WALL_ENGINES))}"
        )
    try:
        meaning = NATIVE[native]
    except (KeyError, TypeError):
        raise ValueError(f"unknown native: {native!r} (choose from False, True, 'full')") from None
    # A plain tuple at run time: a NamedTuple would import `collections` and `typing` with the profiler.
    return interval_ns, clock, engine, memory_limit_bytes, meaning  # type: ignore[return-value]


def whole(name: str, value: Any, minimum: int, scale: int, *, maximum: Optional[int] = None) -> int:
    """`value * scale` for an integer in range; a bool is not an integer here."""
    if isinstance(value, float) and value < minimum:
        raise ValueError(f"{name} must be >= {minimum}")
    index: Optional[Any] = getattr(type(value), "__index__", None)
    if index is None or isinstance(value, bool):
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    number: int = index(value)
    if number < minimum:
        raise ValueError(f"{name} must be >= {minimum}")
    most = MAX_U64 // scale if maximum is None else maximum
    if number > most:
        raise ValueError(f"{name} must be <= {most}")
    return number * scale
