"""The signal zone calls nothing but a few async-signal-safe functions: read from its object file, not from its source.

No symbol of core's panicking or formatting means that no panic path is left after optimisation; no allocator symbol
means that nothing allocates; no __tls_get_addr means that no thread-local storage is made lazily.
"""

import os
import re
import shutil
import subprocess

import architecture
import object_file
import pytest

# Every name with its reason. What is not here does not belong into a signal handler.
ALLOWED = {
    "memcpy": "copies of known size; libc's are async-signal-safe (POSIX.1-2016)",
    "memmove": "as memcpy",
    "memset": "as memcpy",
    "memcmp": "as memcpy",
    "bcmp": "as memcmp",
    "__errno_location": "to save and restore errno: an address in static TLS",
    "clock_gettime": "async-signal-safe by POSIX",
    "pthread_self": "async-signal-safe by POSIX: reads the thread pointer",
    "sigaction": "async-signal-safe by POSIX: reads which handler of SIGSEGV is installed",
    "sigismember": "async-signal-safe by POSIX: reads the interrupted thread's mask",
    "__start_spprof_ex": "the linker's name for the begin of the table of guarded loads",
    "__stop_spprof_ex": "its end",
}
ROOTS = re.compile(r"^_ZN14spprof_sigsafe")
# What runs inside malloc keeps the same rules, and stands on the zone and on mathematics without libc.
HEAP_ROOTS = re.compile(r"^_ZN11spprof_heap")
HEAP_ALLOWED = re.compile(r"^_ZN(14spprof_sigsafe|4libm)")
# The number of the calling thread: a system call that never fails.
HEAP_SYSTEM = {"syscall"}

pytestmark = pytest.mark.skipif(
    shutil.which("objdump") is None or shutil.which("cargo") is None, reason="needs objdump (binutils) and cargo"
)


def culprits_of(flags, environment, crate="sigsafe", is_root=ROOTS):
    """Undefined symbols that the zone reaches and that are not allowed, each with the function that names it."""
    target = architecture.ROOT / "build/gates"
    shutil.rmtree(target / "release/deps", ignore_errors=True)
    command = ["cargo", "rustc", "-p", f"spprof-{crate}", "--lib", "--release", "--locked", "--quiet"]
    # link-dead-code compiles inline functions, too, as functions of their own; LTO would leave bitcode.
    command += ["--target-dir", str(target), "--", "--emit=obj", "-Clink-dead-code", "-Cpanic=abort", *flags]
    environment = {**os.environ, "CARGO_PROFILE_RELEASE_LTO": "off", **environment}
    subprocess.run(command, cwd=architecture.ROOT, env=environment, check=True)
    objects = list((target / "release/deps").glob(f"spprof_{crate}-*.o"))
    roots, names = object_file.reached_from(objects, is_root)
    assert roots > 30, "the zone's functions are not seen"
    assert "clock_gettime" in names, "calls are not followed"
    return {name: by for name, by in names.items() if name not in ALLOWED}


def test_the_zone_reaches_allowed_symbols_only():
    """The optimised object of sigsafe names no symbol outside the list."""
    assert culprits_of([], {}) == {}


def test_what_runs_inside_malloc_reaches_allowed_symbols_only():
    """The same of the crate that runs inside malloc: above all, it names no allocator and no lock."""
    found = culprits_of([], {}, "heap", HEAP_ROOTS)
    assert {name: by for name, by in found.items() if not HEAP_ALLOWED.match(name) and name not in HEAP_SYSTEM} == {}


def test_the_gate_sees_panic_paths():
    """The same code with overflow checks in has panic paths, and they are found."""
    found = culprits_of(["-Coverflow-checks=on", "-Cdebug-assertions=on"], {"CARGO_PROFILE_RELEASE_OPT_LEVEL": "0"})
    assert any("panicking" in name for name in found)


def test_the_gate_sees_a_call_through_a_table(tmp_path):
    """A forbidden function is found behind a static table of function pointers, and one nobody calls is not."""
    (tmp_path / "zone.c").write_text(
        """
        void *malloc(unsigned long); void free(void *);
        static void *helper(void) { return malloc(8); }
        void *(*const table[])(void) = {helper};
        void *_ZN14spprof_sigsafe5entry(int i) { return table[i](); }
        void unrelated(void *p) { free(p); }
        """
    )
    subprocess.run(["cc", "-O0", "-ffunction-sections", "-fdata-sections", "-c", "zone.c"], cwd=tmp_path, check=True)
    assert object_file.reached_from([tmp_path / "zone.o"], ROOTS) == (1, {"malloc": ".text.helper"})
