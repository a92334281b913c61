"""C and C++ functions of known shares, called in known ways: their time, and every chain up to the thread's start."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any, Callable

import pytest
import spprof
from noise import SIGMAS, deviation_of, effective_samples, shares

pytestmark = pytest.mark.skipif(not spprof.native_unwinding_available(), reason="no native stacks on this processor")

# As in test_shares.
SYSTEMATIC = {"tick": 0.02, "perf": 0.002, "timer": 0.002}
# The callers of spin_<way>, leaf first, down to the Python function; the compiler leaves none of them out.
CHAINS = {
    "plain": "spin_plain plain call_plain [spin_plain]",
    "pointer": "spin_pointer pointer call_pointer [spin_pointer]",
    "tail": "spin_tail call_tail [spin_tail]",
    "aligned": "spin_aligned aligned call_aligned [spin_aligned]",
    "thrown": "spin_thrown thrower thrower thrower thrower thrower thrower thrown call_thrown [spin_thrown]",
    "inner": "spin_inner inner call_inner [python_between] back call_back [spin_inner]",
}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the extension module, compiled for this Python."""
    compiler, headers = shutil.which("c++") or shutil.which("g++"), Path(sysconfig.get_paths()["include"])
    if compiler is None or not (headers / "Python.h").exists():
        pytest.skip("no C++ compiler, or no headers of this Python")
    folder = tmp_path_factory.mktemp("known")
    module = folder / f"known{sysconfig.get_config_var('EXT_SUFFIX')}"
    source = Path(__file__).parent / "native/known.cpp"
    command = [compiler, "-O2", "-g0", "-shared", "-fPIC", f"-I{headers}", str(source), "-o", str(module)]
    subprocess.run(command, check=True)
    return folder


def of_extension(stack: str) -> tuple[str, str]:
    """The way a stack went, and the part of it from there to its Python function, without the interpreter between."""
    names = stack.split(" ")
    way = names[0].removeprefix("spin_")
    mine = {*CHAINS[way].split(" "), "[spin_inner]"}
    part = []
    for name in names:
        if name in mine:
            part.append(name)
        if name == f"[spin_{way}]":
            break
    return way, " ".join(part)


def test_shares_and_chains(report_of: Callable[..., Any], exact_engine: str, known: Path) -> None:
    """The time of each, and who called it: with and without frame pointers, by a jump, on a stack aligned anew, with exceptions
    thrown, through Python and back."""
    report = report_of("native.py", known, exact_engine, 1000, 4)
    truth, found = shares(grouped_by_way(report["truth"])), shares(grouped_by_way(report["weights"]))
    samples, systematic = effective_samples(report), SYSTEMATIC[report["metadata"]["engine"]]
    for way, share in truth.items():
        allowed = SIGMAS * deviation_of(share, samples) + systematic
        assert abs(found[way] - share) < allowed, f"{way}: {found[way]:.4f}, truly {share:.4f}"

    seen = dict.fromkeys(CHAINS, 0)
    complete = whole = 0
    for stack, count in report["stacks"].items():
        whole += count
        complete += 0 if "<native callers unknown>" in stack or "<truncated>" in stack else count
        if stack.startswith("spin_"):
            way, part = of_extension(stack)
            # An instant of a function's first and last instructions, too.
            assert part == CHAINS[way], stack
            seen[way] += count
    assert complete >= 0.999 * whole, f"{whole - complete} of {whole}: {report['losses']}"
    # The tests' own claim: these stacks were looked at.
    assert min(seen.values()) > 0.5 * whole * min(truth.values()), seen


def grouped_by_way(amounts: dict[str, float]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for key, amount in amounts.items():
        way = key.partition(":")[2]
        # What lies between the calls is the test's own work.
        if way != "other":
            sums[way] = sums.get(way, 0.0) + amount
    return sums
