"""The rows of src/sigsafe/layout.rs against CPython's own headers: a C compiler says where each field is.

Each Python found is asked, and its headers once more as a free-threaded (or a GIL) build: so rows are checked, too, whose
interpreter is not on this machine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import architecture
import pytest

sys.path.append(str(architecture.ROOT / ".ci"))
import discover

HEADERS = """
#define Py_BUILD_CORE 1
#include <Python.h>
#include <frameobject.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include "internal/pycore_interp.h"
#include "internal/pycore_code.h"
#if PY_VERSION_HEX >= 0x030B0000
#include "internal/pycore_frame.h"
#endif
#if PY_VERSION_HEX >= 0x030E0000
#include "internal/pycore_interpframe_structs.h"
#endif
#define AT(name, type, field) printf(name " %zu\\n", offsetof(type, field));
/* The first bit that a bit field of a str's state occupies. */
#define BIT(name, field) { \\
    PyASCIIObject text; memset(&text, 0, sizeof text); text.state.field = 1; \\
    unsigned word; memcpy(&word, &text.state, sizeof word); printf(name " %d\\n", __builtin_ctz(word)); }
int main(void) {
    printf("minor %d\\n", PY_MINOR_VERSION);
"""

# Name in `Layout`, structure, field; for the versions from the first to the last, and free-threaded builds only or not.
FIELDS = [
    ("tstate_next", "PyThreadState", "next", 9, 99, False),
    ("tstate_interp", "PyThreadState", "interp", 9, 99, False),
    ("tstate_thread_id", "PyThreadState", "thread_id", 9, 99, False),
    ("tstate_native_thread_id", "PyThreadState", "native_thread_id", 11, 99, False),
    ("tstate_frame", "PyThreadState", "frame", 9, 10, False),
    ("tstate_frame", "PyThreadState", "cframe", 11, 12, False),
    ("tstate_frame", "PyThreadState", "current_frame", 13, 99, False),
    ("tstate_datastack_chunk", "PyThreadState", "datastack_chunk", 11, 99, False),
    ("tstate_datastack_top", "PyThreadState", "datastack_top", 11, 99, False),
    ("cframe_current", "_PyCFrame", "current_frame", 11, 12, False),
    ("cframe_previous", "_PyCFrame", "previous", 11, 12, False),
    ("cframe_previous", "CFrame", "previous", 10, 10, False),
    ("tstate_cframe", "PyThreadState", "cframe", 10, 10, False),
    ("interp_next", "PyInterpreterState", "next", 9, 99, False),
    ("interp_id", "PyInterpreterState", "id", 9, 99, False),
    ("interp_threads_head", "PyInterpreterState", "tstate_head", 9, 10, False),
    ("interp_threads_head", "PyInterpreterState", "threads.head", 11, 99, False),
    ("frame_previous", "PyFrameObject", "f_back", 9, 10, False),
    ("frame_code", "PyFrameObject", "f_code", 9, 10, False),
    ("frame_instr", "PyFrameObject", "f_lasti", 9, 10, False),
    ("frame_previous", "struct _PyInterpreterFrame", "previous", 11, 99, False),
    ("frame_code", "struct _PyInterpreterFrame", "f_code", 11, 12, False),
    ("frame_code", "struct _PyInterpreterFrame", "f_executable", 13, 99, False),
    ("frame_instr", "struct _PyInterpreterFrame", "prev_instr", 11, 12, False),
    ("frame_instr", "struct _PyInterpreterFrame", "instr_ptr", 13, 99, False),
    ("frame_owner", "struct _PyInterpreterFrame", "owner", 11, 99, False),
    ("frame_is_entry", "struct _PyInterpreterFrame", "is_entry", 11, 11, False),
    ("frame_tlbc_index", "struct _PyInterpreterFrame", "tlbc_index", 14, 99, True),
    ("ob_type", "PyObject", "ob_type", 9, 99, False),
    ("type_dealloc", "PyTypeObject", "tp_dealloc", 9, 99, False),
    ("code_filename", "PyCodeObject", "co_filename", 9, 99, False),
    ("code_qualname", "PyCodeObject", "co_name", 9, 10, False),
    ("code_qualname", "PyCodeObject", "co_qualname", 11, 99, False),
    ("code_name", "PyCodeObject", "co_name", 9, 99, False),
    ("code_firstlineno", "PyCodeObject", "co_firstlineno", 9, 99, False),
    ("code_linetable", "PyCodeObject", "co_lnotab", 9, 9, False),
    ("code_linetable", "PyCodeObject", "co_linetable", 10, 99, False),
    ("code_instructions", "PyCodeObject", "co_code", 9, 10, False),
    ("code_instructions", "PyCodeObject", "co_code_adaptive", 11, 99, False),
    ("code_tlbc", "PyCodeObject", "co_tlbc", 14, 99, True),
    ("str_length", "PyASCIIObject", "length", 9, 99, False),
    ("str_state", "PyASCIIObject", "state", 9, 99, False),
    ("bytes_size", "PyVarObject", "ob_size", 9, 99, False),
    ("bytes_data", "PyBytesObject", "ob_sval", 9, 99, False),
]
SIZES = {"sizeof_code": "PyCodeObject", "sizeof_ascii": "PyASCIIObject", "sizeof_compact": "PyCompactUnicodeObject"}
BITS = {"kind_shift": "kind", "compact_shift": "compact", "ascii_shift": "ascii"}
# What a program of ours cannot ask a compiler: how the walk goes about it, which tests of the walk itself check.
NOT_OFFSETS = {"minor", "free_threaded", "chain", "lines", "code_tag_mask"}

pytestmark = pytest.mark.skipif(shutil.which("cargo") is None or shutil.which("cc") is None, reason="needs cargo and cc")

PYTHONS, _ = discover.discover()
# The headers of a build without the GIL give no build with it, and before 3.13 there is no build without.
VARIANTS = [(python, python.key) for python in PYTHONS]
VARIANTS += [(python, f"{python.key}t") for python in PYTHONS if python.key in ("3.13", "3.14", "3.15")]


@pytest.fixture(scope="module")
def rows():
    """The table: {"3.13t": {field: number or None}}, and the owner from which on a frame is a shim."""
    command = ["cargo", "run", "--quiet", "--locked", "-p", "spprof-sigsafe", "--example", "layouts"]
    text = subprocess.run(command, cwd=architecture.ROOT, check=True, capture_output=True, text=True).stdout
    # Some(8) is printed on three lines.
    text = re.sub(r"Some\(\s+(\d+),\s+\)", r"\1", text)
    found = {}
    for row in text.split("Layout {")[1:]:
        values = dict(re.findall(r"(\w+): (\w+),", row))
        key = f"3.{values['minor']}" + "t" * (values["free_threaded"] == "true")
        found[key] = {name: int(value) if value.isdigit() else None for name, value in values.items()}
    return found, int(text.rsplit("OWNER_CSTACK: ")[1])


def include_of(python):
    code = "import sysconfig; print(sysconfig.get_paths()['include'])"
    return subprocess.run([python.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def compiled(python, key, folder):
    """{field: offset} as the compiler sees this Python's headers."""
    minor, threaded = int(key.rstrip("t")[2:]), key.endswith("t")
    lines = [
        f'AT("{name}", {struct}, {field});'
        for name, struct, field, first, last, only_threaded in FIELDS
        if first <= minor <= last and (threaded or not only_threaded)
    ]
    lines += [f'printf("{name} %zu\\n", sizeof({struct}));' for name, struct in SIZES.items()]
    lines += [f'BIT("{name}", {field})' for name, field in BITS.items()]
    if minor >= 12:
        owner = "FRAME_OWNED_BY_CSTACK" if minor <= 13 else "FRAME_OWNED_BY_INTERPRETER"
        lines += [f'printf("OWNER_CSTACK %d\\n", (int){owner});']
    if minor >= 14 and threaded:
        lines += ['AT("tlbc_entries", _PyCodeArray, entries);', 'AT("tlbc_size", _PyCodeArray, size);']
    (folder / "offsets.c").write_text(HEADERS + "\n".join(lines) + "\n}\n")
    include = include_of(python)
    command = ["cc", "-w", "-o", "offsets", "offsets.c", f"-I{include}", f"-I{include}/internal"]
    # pyconfig.h of a build with the GIL leaves this open; that of a build without says 1.
    command += ["-DPy_GIL_DISABLED=1"] if threaded else []
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    text = subprocess.run([folder / "offsets"], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


@pytest.mark.parametrize(("python", "key"), VARIANTS, ids=[f"{key}-by-{python.key}" for python, key in VARIANTS])
def test_row(python, key, rows, tmp_path):
    """Every number of the row is what the compiler says; every field of the row was asked for."""
    include = include_of(python)
    if not os.path.exists(f"{include}/internal/pycore_interp.h"):
        pytest.skip(f"{python.executable} comes without the internal headers ({include}/internal)")
    table, owner = rows
    theirs = compiled(python, key, tmp_path)
    assert theirs.pop("OWNER_CSTACK", owner) == owner
    # What `pywalk` calls ENTRIES, and the word it takes for the number of entries.
    assert (theirs.pop("tlbc_size", 0), theirs.pop("tlbc_entries", 8)) == (0, 8)
    assert theirs.pop("minor") == table[key]["minor"]
    ours = {name: value for name, value in table[key].items() if value is not None and name not in NOT_OFFSETS}
    assert ours == theirs


def test_every_python_has_a_row(rows):
    """A version that `make test` finds is a version that the table knows."""
    table, _ = rows
    assert {key for _, key in VARIANTS} <= set(table)
