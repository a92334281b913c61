"""Native stacks where they are hard to have: modules that come and go, other stacks, tiny and endless ones, children."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import spprof

pytestmark = pytest.mark.skipif(not spprof.native_unwinding_available(), reason="no native stacks on this processor")

SPIN = """
    #include <stdlib.h>
    static volatile double sum;
    __attribute__((noinline)) void spin_%s(long rounds) { for (long i = 0; i < rounds; i++) sum = sum * 0.999 + 1; }
    int work_%s(const void *a, const void *b) { spin_%s(3000); return sum < 0; }
    void run_%s(void) { int two[2] = {1, 2}; qsort(two, 2, 4, work_%s); sum += 1; }
"""


def test_modules_that_come_and_go(hazard: Any, c_library: Any, tmp_path: Path) -> None:
    """Two libraries are loaded and unloaded all the time, often to the same addresses, while another thread runs: nothing
    crashes, and every stack keeps its Python frames."""
    libraries = []
    for name in ("one", "two"):
        library = c_library(SPIN.replace("%s", name))
        libraries.append(library.rename(tmp_path / f"{name}.so"))
    hazard(
        """
        import _ctypes, ctypes, sys, threading, spprof
        from witness import unchanged

        def load_and_run(name, path):
            library = ctypes.CDLL(path)
            try:
                getattr(library, "run_" + name)()
            finally:
                _ctypes.dlclose(library._handle)

        def load_one():
            load_and_run("one", sys.argv[1])

        def load_two():
            load_and_run("two", sys.argv[2])

        def aside():
            while not done.is_set():
                sum(range(300))

        done = threading.Event()
        with unchanged():
            spprof.start(interval_us=200, native=True)
            threading.Thread(target=aside).start()
            while spprof.stats().collected_samples < 6000:
                for _ in range(100):
                    load_one()
                    load_two()
            done.set()
            profile = spprof.stop()
        seen = {"one": 0, "two": 0}
        for sample in profile.samples:
            names = [frame.function_name for frame in sample.frames]
            for name in seen:
                if {f"run_{name}", f"work_{name}", f"spin_{name}"} & set(names):
                    seen[name] += 1
                    assert "load_and_run" in names, names
        assert min(seen.values()) > 0 or profile.metadata["losses"]["native_ends_in_unknown_code"] > 0, seen
        """,
        *libraries,
    )


def test_another_stack(hazard: Any, c_library: Any) -> None:
    """A handler of the host's on a stack of its own: below it stands what it interrupted, up to the start."""
    library = c_library(
        """
        #include <signal.h>
        #include <stdlib.h>
        static volatile double sum;
        __attribute__((noinline)) void on_other_stack(int signal) { for (long i = 0; i < 3000000; i++) sum = sum * 0.999 + 1; }
        __attribute__((noinline)) int interrupted(void) { raise(SIGUSR1); return sum > 0; }
        int run(void) {
            stack_t other = {malloc(1 << 18), 0, 1 << 18};
            struct sigaction action = {0};
            action.sa_handler = on_other_stack;
            action.sa_flags = SA_ONSTACK;
            sigaltstack(&other, 0);
            sigaction(SIGUSR1, &action, 0);
            return interrupted() + 1;
        }
        """
    )
    hazard(
        """
        import ctypes, sys, threading, spprof
        library = ctypes.CDLL(sys.argv[1])

        def call():
            library.run()

        def profiled():
            spprof.start(interval_us=200, native="full")
            while spprof.stats().collected_samples < 200:
                call()
            return spprof.stop()

        for profile in (profiled(), None):
            if profile is None:
                found = []
                thread = threading.Thread(target=lambda: found.append(profiled()))
                thread.start()
                thread.join()
                (profile,) = found
            seen = 0
            for sample in profile.samples:
                names = [frame.function_name for frame in sample.frames]
                if names[0] == "on_other_stack":
                    seen += 1
                    order = [names.index(name) for name in ("on_other_stack", "interrupted", "run", "call")]
                    assert order == sorted(order), names
            assert seen > 50, (seen, len(profile.samples), profile.samples[-1])
            lost = "<native callers unknown>"
            ends = [sample for sample in profile.samples if lost in {frame.function_name for frame in sample.frames}]
            assert len(ends) * 100 <= len(profile.samples), (ends[0], profile.metadata["losses"])
        """,
        library,
    )


def test_deep_and_tiny_stacks(hazard: Any, c_library: Any) -> None:
    """A recursion of ten thousand C calls keeps both ends and says what is left out; threads on the smallest stacks there are
    live, and their stacks go to their start."""
    library = c_library(
        """
        #define _GNU_SOURCE
        #include <limits.h>
        #include <pthread.h>
        #include <unistd.h>
        static volatile double sum;
        __attribute__((noinline)) void spin(long rounds) { for (long i = 0; i < rounds; i++) sum = sum * 0.999 + 1; }
        __attribute__((noinline)) double deep(long depth) {
            if (depth) return deep(depth - 1) + sum;
            spin(4000000);
            return sum;
        }
        static void *tiny(void *unused) { spin(40000000); return 0; }
        int run_tiny(void) {
            pthread_attr_t attributes;
            pthread_t threads[4];
            pthread_attr_init(&attributes);
            if (pthread_attr_setstacksize(&attributes, sysconf(_SC_THREAD_STACK_MIN))) return 1;
            for (int i = 0; i < 4; i++) if (pthread_create(&threads[i], &attributes, tiny, 0)) return 2;
            for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
            return 0;
        }
        """
    )
    hazard(
        """
        import ctypes, sys, threading, spprof
        library = ctypes.CDLL(sys.argv[1])
        library.deep.restype = ctypes.c_double

        def go_deep():
            library.deep(ctypes.c_long(10_000))

        spprof.start(interval_us=500, native=True)
        for _ in range(8):
            go_deep()
        assert library.run_tiny() == 0
        stats = spprof.stats()
        profile = spprof.stop()
        deep = tiny = 0
        for sample in profile.samples:
            names = [frame.function_name for frame in sample.frames]
            if names[0] == "spin" and "deep" in names:
                deep += 1
                assert "<truncated>" in names and "go_deep" in names, names
            if names[:2] == ["spin", "tiny"] and sample.thread_id != threading.get_native_id():
                tiny += 1
                assert "<native callers unknown>" not in names, names
        assert deep > 5 and tiny > 20, (deep, tiny)
        assert profile.metadata["losses"]["native_frames_omitted"] >= deep * 9000
        """,
        library,
    )


def test_children(hazard: Any) -> None:
    """Forks, spawned programs and a child that profiles itself, all while the parent is sampled."""
    hazard(
        """
        import os, subprocess, sys, threading, spprof
        done = threading.Event()

        def aside():
            while not done.is_set():
                sorted(range(2000), key=lambda value: -value)

        spprof.start(interval_us=200, native=True)
        thread = threading.Thread(target=aside)
        thread.start()
        for number in range(12):
            subprocess.run([sys.executable, "-S", "-E", "-c", "pass"], check=True)
            child = os.fork()
            if child == 0:
                assert not spprof.is_active()
                spprof.start(interval_us=500, native="full")
                while spprof.stats().collected_samples < 20:
                    sorted(range(2000), key=lambda value: -value)
                frames = [frame for sample in spprof.stop().samples for frame in sample.frames]
                os._exit(0 if {frame.is_native for frame in frames} == {False, True} else 1)
            assert os.waitpid(child, 0)[1] == 0
        done.set()
        thread.join()
        assert len(spprof.stop().samples) > 50
        """
    )


def test_greenlets(hazard: Any) -> None:
    """Stacks that are copied away and back: nothing crashes, and the innermost Python frame is the right one."""
    pytest.importorskip("greenlet")
    hazard(
        """
        import greenlet, spprof

        def inner(other):
            for _ in range(30):
                sum(range(200))
                other.switch()

        def switch_to(one, value):
            if value == 50:
                one.switch()
            return value

        def outer():
            for _ in range(40):
                one = greenlet.greenlet(lambda: inner(main))
                while not one.dead:
                    sorted(range(100), key=lambda value: switch_to(one, value))

        main = greenlet.getcurrent()
        spprof.start(interval_us=200, native=True)
        while spprof.stats().collected_samples < 1500:
            outer()
        profile = spprof.stop()
        names = {frame.function_name.rpartition(".")[2] for sample in profile.samples for frame in sample.frames}
        assert {"inner", "outer"} <= names
        """
    )
