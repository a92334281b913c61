"""What the functions of an object file reach, by its relocations: the symbol gate of the signal zone stands on this."""

from __future__ import annotations

import collections
import re
import subprocess
from pathlib import Path

SYMBOL = re.compile(r"^[0-9a-f]+ (.{7}) (\S+)\t[0-9a-f]+ +(?:\.hidden )?(\S+)$")
RELOCATIONS_OF = re.compile(r"^RELOCATION RECORDS FOR \[(.+)\]:$")
RELOCATION = re.compile(r"^[0-9a-f]+ R_\S+ +(\S+?)(?:[+-]0x[0-9a-f]+)?$")


def reached_from(objects: list[Path], is_root: re.Pattern[str]) -> tuple[int, dict[str, str]]:
    """How many roots there are, and every undefined symbol they reach, with the function that names it.

    A section holds one function or one constant (rustc's default), so sections are the nodes.
    """
    section_of: dict[str, str] = {}
    undefined: set[str] = set()
    edges: dict[str, set[str]] = collections.defaultdict(set)
    for number, file in enumerate(objects):
        for line in objdump("--syms", file):
            if match := SYMBOL.match(line):
                _, section, name = match.groups()
                if section == "*UND*":
                    undefined.add(name)
                else:
                    section_of[name] = f"{number}:{section}"
        section = ""
        for line in objdump("--reloc", file):
            if match := RELOCATIONS_OF.match(line):
                section = f"{number}:{match[1]}"
            elif match := RELOCATION.match(line):
                edges[section].add(match[1])
                section_of.setdefault(match[1], f"{number}:{match[1]}")
    undefined = {name for name in undefined if not section_of.get(name, "").split(":")[-1].startswith(".text")}
    roots = {section_of[name] for name in section_of if is_root.search(name)}
    reached, queue, culprits = set(roots), sorted(roots), {}
    while queue:
        section = queue.pop()
        for name in edges[section]:
            if name in undefined:
                culprits[name] = section.partition(":")[2]
            elif section_of[name] not in reached:
                reached.add(section_of[name])
                queue.append(section_of[name])
    return len(roots), culprits


def objdump(what: str, file: Path) -> list[str]:
    run = subprocess.run(["objdump", what, "--wide", str(file)], check=True, capture_output=True, text=True)
    return run.stdout.splitlines()
