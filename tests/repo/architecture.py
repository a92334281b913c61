"""The ranks of docs/architecture.md, and the imports of the code, for the layering test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

RUST_COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"', re.DOTALL)
CRATES = "|".join(sorted(manifest.parent.name for manifest in (ROOT / "src").glob("*/Cargo.toml")))
RUST_PATH = re.compile(rf"\b(?:crate::(\w+)|spprof_({CRATES})\b)")
RUST_GROUP = re.compile(r"\bcrate::\{(.*?)\};", re.DOTALL)


def ranks(text: str, heading: str) -> dict[str, int]:
    """Room to rank, from the table below a heading."""
    section = text.split(f"### {heading}\n")[1].split("\n#")[0]
    table = re.findall(r"^\| (\d) \| (.+?) \|", section, re.MULTILINE)
    return {room: int(rank) for rank, rooms in table for room in re.findall(r"`(\w+)`", rooms)}


def rust_imports(source: Path) -> Iterator[tuple[Path, str, str]]:
    """(file, its room, room it names) for every path into another room or crate."""
    for file in sorted(source.rglob("*.rs")):
        parts = file.relative_to(source).with_suffix("").parts
        room = parts[0]
        if room == "lib" or room == "bin":
            continue  # the map of the house
        for imported in rust_names(file.read_text(encoding="utf-8"), is_crate=(source / room / "Cargo.toml").exists()):
            if imported != room:
                yield file, room, imported


def rust_names(text: str, *, is_crate: bool) -> set[str]:
    """The rooms a Rust file names. In a crate of its own `crate::` is the room itself."""
    code = RUST_COMMENT_OR_STRING.sub(" ", text)
    names = {crate for _, crate in RUST_PATH.findall(code) if crate}
    if not is_crate:
        names |= {module for module, _ in RUST_PATH.findall(code) if module}
        for group in RUST_GROUP.findall(code):
            names |= set(re.findall(r"(?:^|,)\s*(\w+)", strip_braces(group)))
    return names


def strip_braces(group: str) -> str:
    while "{" in group:
        group = re.sub(r"\{[^{}]*\}", "", group)
    return group


def python_imports(package: Path) -> Iterator[tuple[Path, str, str]]:
    """(file, its module, module it imports) inside one package; imports within functions count, too."""
    for file in sorted([*package.rglob("*.py"), *package.rglob("*.pyi")]):
        parts = file.relative_to(package).with_suffix("").parts
        for imported in python_names(file.read_text(encoding="utf-8"), package.name, depth=len(parts)):
            if imported != parts[0]:
                yield file, parts[0], imported


def python_names(text: str, package: str, depth: int) -> set[str]:
    """The modules of its own package a file imports; `__init__` stands for the package itself."""
    names: set[str] = set()
    tree = ast.parse(text)
    for_types_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if node in for_types_only:
            continue
        if isinstance(node, ast.Import):
            full = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level not in (0, depth):
                continue  # within a subpackage
            module = ".".join(filter(None, [package if node.level else "", node.module]))
            full = [module] if module != package else [f"{package}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in full:
            if name == package:
                names.add("__init__")
            elif name.startswith(f"{package}."):
                names.add(name.split(".")[1])
    return names
