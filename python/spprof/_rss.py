"""What the resident memory of this process consists of: every mapping in its row, so that the rows sum to RSS.

Loaded by `spprof.memprof`. Exact is what the kernel tells of a mapping; an estimate is what the heap profiler's samples
tell, of which only the pages count that are in memory. What a mapping holds beyond its estimates is its allocator's.
"""

from __future__ import annotations

import bisect
import math
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Optional

from . import _native

if TYPE_CHECKING:
    from ._heap import AllocationSample, HeapSnapshot

#: The 95 % quantile of the normal distribution.
Z95 = 1.959964
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
#: glibc's arenas, but for the first, lie in address space reserved in steps of this.
GLIBC_HEAP = 64 << 20
#: Of CPython's own allocator.
SMALLEST_ARENA = 256 << 10
HEADER = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+ *(.*)")
GLIBC_FREE = re.compile(rb'<total type="(?:fast|rest)" count="\d+" size="(\d+)"/>')
#: Of an entry in /proc/self/pagemap, the byte with the bit that says the page is in memory.
IS_PRESENT = bytes(byte >> 7 for byte in range(256))

PYTHON = "Python objects"
NATIVE = "native blocks"
MAPPED = "mapped by the program"
MALLOC_FREE = "malloc: free, kept for later"
MALLOC_REST = "malloc: headers, caches, blocks without a sample"
PYTHON_REST = "Python's allocator: free, headers, blocks without a sample"
STACKS = "stacks of threads"
OWN = "the profiler"
FILE = "file"
OTHER = "anonymous, not attributed"
KERNEL = "the kernel's pages"
ORDER = (PYTHON, NATIVE, MAPPED, PYTHON_REST, MALLOC_FREE, MALLOC_REST, STACKS, OWN, OTHER, KERNEL, FILE)


@dataclass(frozen=True)
class RssRow:
    """A part of the resident memory."""

    #: What it is; of a mapped file, "file".
    kind: str
    #: The file's path; empty for other kinds.
    path: str
    #: Bytes in memory.
    bytes: int
    #: Typical distance from the truth; 0 where the kernel tells it exactly.
    standard_error: float = 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The truth lies within these, in 95 of 100 cases."""
        return max(self.bytes - Z95 * self.standard_error, 0.0), self.bytes + Z95 * self.standard_error


@dataclass(frozen=True)
class RssReport:
    """The resident memory of a process at one moment. `print()` shows it as a table."""

    #: The sum of the rows: what /proc/self/smaps adds up to.
    rss_bytes: int
    rows: Sequence[RssRow]
    #: Bytes that the program asked for in living blocks (an estimate), resident or not.
    asked_bytes: int
    notes: Sequence[str] = field(default_factory=list)

    def bytes(self, kind: str) -> int:
        """The bytes of all rows of a kind."""
        return sum(row.bytes for row in self.rows if row.kind == kind)

    def __str__(self) -> str:
        lines = [f"{_megabytes(self.rss_bytes)}          resident memory (RSS)"]
        small = 0
        for row in self.rows:
            if row.kind == FILE and row.bytes < max(self.rss_bytes // 200, 1 << 20):
                small += row.bytes
                continue
            error = Z95 * row.standard_error
            margin = f"± {error / 1e6:<7.1f}" if error >= 50_000 else " " * 9
            share = 100 * row.bytes / self.rss_bytes if self.rss_bytes else 0.0
            lines.append(f"{_megabytes(row.bytes)} {margin} {share:3.0f} %  {row.path or row.kind}")
        if small:
            lines.append(f"{_megabytes(small)} {'':9} {100 * small / self.rss_bytes:3.0f} %  other files")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _megabytes(size: int) -> str:
    return f"{size / 1e6:9.1f} MB"


@dataclass
class Mapping:
    """A line of /proc/self/smaps."""

    start: int
    end: int
    permissions: str
    path: str
    resident: int = 0
    #: By kind: estimate and variance.
    estimates: dict[str, list[float]] = field(default_factory=dict)
    #: Bytes asked for in blocks of malloc, resident or not.
    asked: float = 0.0
    #: Somebody else's than the heap's: the row it belongs to.
    owner: Optional[tuple[str, str]] = None
    own: int = 0

    @property
    def is_anonymous(self) -> bool:
        return not self.path or self.path in ("[heap]", "/dev/zero (deleted)") or self.path.startswith("[anon")


class Place(NamedTuple):
    """Where a sampled block lies and what it stands for."""

    start: int
    size: int
    kind: str
    inverse: float


def mappings(smaps: bytes) -> list[Mapping]:
    """The mappings of /proc/PID/smaps, by address."""
    found: list[Mapping] = []
    for line in smaps.splitlines():
        if line.startswith(b"Rss:"):
            found[-1].resident = int(line.split()[1]) * 1024
        elif header := HEADER.match(line):
            start, end, permissions, path = header.groups()
            found.append(Mapping(int(start, 16), int(end, 16), permissions.decode(), os.fsdecode(path)))
    return found


def resident(pagemap: int, start: int, size: int) -> int:
    """How many of the bytes at an address are in memory."""
    first, last = start // PAGE, (start + size - 1) // PAGE
    entries = os.pread(pagemap, 8 * (last - first + 1), 8 * first)
    present = entries[7::8].translate(IS_PRESENT)
    pages = present.count(1)
    if not pages:
        return 0
    outside_first = start % PAGE if present[0] else 0
    outside_last = PAGE - 1 - (start + size - 1) % PAGE if present[-1] else 0
    return pages * PAGE - outside_first - outside_last


def places(samples: Iterable[AllocationSample]) -> list[Place]:
    """The sampled blocks by address, with the row each belongs to."""
    found = []
    for sample in samples:
        inverse = -1.0 / math.expm1(-sample.size / sample.weight)
        if sample.domain == "mmap":
            kind = MAPPED
        elif sample.domain == "python" or any(frame.is_python for frame in sample.stack[:1]):
            # Between Python's line and malloc there is nobody but the interpreter.
            kind = PYTHON
        else:
            kind = NATIVE
        found.append(Place(sample.address, sample.size, kind, inverse))
    return sorted(found)


def attribute(
    maps: Sequence[Mapping],
    blocks: Sequence[Place],
    pagemap: int,
    own: Sequence[tuple[int, int]],
    stacks: Iterable[int],
) -> None:
    """Gives each mapping its owner or its estimates.

    Args:
        maps: by address.
        blocks: sampled blocks, by address.
        pagemap: the file to ask for pages in memory.
        own: (address, bytes) of the profiler's own.
        stacks: an address in each thread's stack.
    """
    starts = [mapping.start for mapping in maps]

    def holder(address: int) -> Optional[Mapping]:
        number = bisect.bisect_right(starts, address) - 1
        return maps[number] if number >= 0 and address < maps[number].end else None

    for address, size in own:
        while size > 0 and (mapping := holder(address)):
            length = min(size, mapping.end - address)
            mapping.own = min(mapping.own + resident(pagemap, address, length), mapping.resident)
            address, size = address + length, size - length
    for block in blocks:
        mapping = holder(block.start)
        if mapping is None:
            continue  # unmapped meanwhile
        in_memory = min(resident(pagemap, block.start, min(block.size, mapping.end - block.start)), mapping.resident)
        figures = mapping.estimates.setdefault(block.kind, [0.0, 0.0])
        figures[0] += block.inverse * in_memory
        figures[1] += in_memory**2 * block.inverse * (block.inverse - 1)
        mapping.asked += block.inverse * block.size
    for address in stacks:
        mapping = holder(address)
        if mapping and not mapping.estimates and mapping.path != "[heap]":
            mapping.owner = STACKS, ""
    before: Optional[Mapping] = None
    for mapping in maps:
        if mapping.owner or mapping.estimates:
            pass
        elif mapping.path == "[stack]":
            mapping.owner = STACKS, ""
        elif mapping.path.startswith("[v"):
            mapping.owner = KERNEL, ""
        elif not mapping.is_anonymous:
            file = os.path.basename(mapping.path)
            is_ours = file.startswith("libspprof_alloc") or mapping.path == _native.__file__
            mapping.owner = (OWN, "") if is_ours else (FILE, mapping.path)
        elif before and before.end == mapping.start and _holds_variables(before) and _may_be_variables(mapping):
            # The zeroed variables of a library lie behind those with a value. (What is larger has an arena merged into it.)
            mapping.owner = before.owner
        before = mapping


def _may_be_variables(mapping: Mapping) -> bool:
    return not mapping.path and mapping.end - mapping.start < SMALLEST_ARENA


def _holds_variables(mapping: Mapping) -> bool:
    return mapping.path.startswith("/") and mapping.permissions[1] == "w" and not mapping.is_anonymous


def add_up(maps: Sequence[Mapping], malloc_free: int, names: int) -> dict[tuple[str, str], list[float]]:
    """Bytes and variance by (kind, path); the bytes sum to what is resident.

    Args:
        maps: attributed.
        malloc_free: bytes that malloc holds free.
        names: bytes from malloc for names of the profiler.
    """
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    groups: dict[str, list[Mapping]] = defaultdict(list)
    for number, mapping in enumerate(maps):
        sums[OWN, ""][0] += mapping.own
        if mapping.owner:
            sums[mapping.owner][0] += mapping.resident - mapping.own
        else:
            following = maps[number + 1] if number + 1 < len(maps) else None
            groups[_group(mapping, following)].append(mapping)
    for group, members in groups.items():
        room = float(sum(mapping.resident - mapping.own for mapping in members))
        estimated = sum(figures[0] for mapping in members for figures in mapping.estimates.values())
        # An estimate may be above what there is; the truth is not.
        scale = min(1.0, room / estimated) if estimated else 1.0
        error = 0.0
        for mapping in members:
            for kind, (size, variance) in mapping.estimates.items():
                sums[kind, ""][0] += size * scale
                sums[kind, ""][1] += variance * scale**2
                error += variance * scale**2
        rest = max(room - estimated * scale, 0.0)
        if group == MALLOC_REST:
            own = min(float(names), rest)
            sums[OWN, ""][0] += own
            rest -= own
            # What is in no page is mostly free memory: the rest of it is in memory.
            absent = sum(mapping.end - mapping.start - mapping.resident for mapping in members)
            absent_blocks = sum(mapping.asked for mapping in members) - estimated
            free = min(max(malloc_free - max(absent - absent_blocks, 0.0), 0.0), rest)
            sums[MALLOC_FREE, ""][0] += free
            rest -= free
        sums[group, ""][0] += rest
        sums[group, ""][1] += error
    return sums


def _group(mapping: Mapping, following: Optional[Mapping]) -> str:
    """To whom belongs what a mapping holds beyond its estimates."""
    if mapping.path == "[heap]" or _is_arena(mapping, following):
        return MALLOC_REST
    if PYTHON in mapping.estimates and NATIVE not in mapping.estimates:
        return PYTHON_REST
    if mapping.estimates.keys() & {PYTHON, NATIVE}:
        return MALLOC_REST
    return OTHER


def _is_arena(mapping: Mapping, following: Optional[Mapping]) -> bool:
    """Whether it is the used part of an arena of glibc's: aligned, and with the reserved part behind it."""
    if not following or mapping.start % GLIBC_HEAP or following.start != mapping.end:
        return False
    return following.permissions == "---p" and following.end % GLIBC_HEAP == 0


def explain(snapshot: HeapSnapshot) -> RssReport:
    """See `spprof.memprof.explain_rss`."""
    blocks = places(snapshot.samples)
    own, names = _native._own_memory()
    information = _native._malloc_info()
    stacks = [*sys._current_frames(), *_stack_pointers()]
    with open("/proc/self/smaps", "rb") as file:
        maps = mappings(file.read())
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        attribute(maps, blocks, pagemap, own, stacks)
    finally:
        os.close(pagemap)
    return report(maps, glibc_free(information), names, sum(block.inverse * block.size for block in blocks), snapshot)


def report(maps: Sequence[Mapping], free: int, names: int, asked: float, snapshot: HeapSnapshot) -> RssReport:
    """The attributed mappings as rows whose whole numbers sum to RSS."""
    total = sum(mapping.resident for mapping in maps)
    sums = add_up(maps, free, names)
    whole = {key: round(figures[0]) for key, figures in sums.items()}
    # What rounding left, a few bytes.
    largest = max(whole, key=lambda key: whole[key])
    whole[largest] += total - sum(whole.values())
    rows = [RssRow(kind, path, whole[kind, path], math.sqrt(sums[kind, path][1])) for kind, path in sums if whole[kind, path]]
    rows.sort(key=lambda row: (ORDER.index(row.kind), -row.bytes, row.path))
    notes = []
    if snapshot.metadata.get("malloc_hooks") != "preload":
        notes.append("blocks from before start() have no sample: they are in the rows of their allocators")
    return RssReport(total, rows, round(asked), notes)


def glibc_free(information: Optional[bytes]) -> int:
    """The free bytes of all arenas, from the text of malloc_info."""
    if not information:
        return 0
    return sum(map(int, GLIBC_FREE.findall(information.rpartition(b"</heap>")[2])))


def _stack_pointers() -> list[int]:
    """Where the stacks of sleeping threads are that Python does not know."""
    found = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/syscall", "rb") as file:
                words = file.read().split()
        except OSError:
            continue  # it ended, or the kernel does not tell
        if len(words) >= 2 and words[-2].startswith(b"0x"):
            found.append(int(words[-2], 16))
    return found
