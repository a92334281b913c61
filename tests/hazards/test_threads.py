"""Threads of every kind: short, many, on small stacks, deaf to signals, of sub-interpreters. All are accounted for."""

from __future__ import annotations

import sys
from typing import Any

import pytest

ENGINES = ["auto", "timer", "tick"]


@pytest.mark.parametrize("engine", ENGINES)
def test_short_threads(hazard: Any, engine: str) -> None:
    """A thousand threads of half a millisecond beside one that lives: each nanosecond is claimed once or said to be
    unattributed, and the one that lives loses nothing."""
    hazard(
        """
        import sys, threading, time, spprof
        from witness import assert_true, burn, named, seen_ns, unchanged
        short, lasting = named("short"), named("lasting")
        spent, whole, ended = [], [], threading.Event()

        def live_shortly():
            spent_short.append(short(0.0005))
            whole.append(time.thread_time_ns())

        def last():
            spent_by_it = 0
            while not ended.is_set():
                spent_by_it += lasting(0.001)
            spent.append(spent_by_it)

        with unchanged():
            spprof.start(interval_ms=1, engine=sys.argv[1])
            survivor = threading.Thread(target=last)
            survivor.start()
            spent_short = []
            for _ in range(80):
                threads = [threading.Thread(target=live_shortly) for _ in range(8)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            ended.set()
            survivor.join()
            profile = spprof.stop()
        assert_true(profile, lasting=spent[0])
        meta = profile.metadata
        # Those that no sample caught are in what is unattributed.
        assert seen_ns(profile, "short") + meta["unattributed_ns"] >= 0.95 * sum(spent_short), meta
        # A thread's first sample also stands for its way to `short`, which is long beside half a millisecond.
        assert seen_ns(profile, "short") <= 1.01 * sum(whole)
        """,
        engine,
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_that_block_all_signals(hazard: Any, engine: str) -> None:
    """They cannot be interrupted, so they are looked at from outside: their time is theirs, in the function they are in
    where that can be read, and never in another."""
    hazard(
        """
        import hashlib, signal, sys, threading, spprof
        from witness import assert_true, burn, named, seen_ns
        open_to_signals, deaf = named("open_to_signals"), named("deaf")
        spent = {}

        def work():
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
            spent["deaf"] = deaf(1.0)

        spprof.start(interval_ms=1, engine=sys.argv[1])
        thread = threading.Thread(target=work, name="deaf thread")
        thread.start()
        spent["open_to_signals"] = open_to_signals(0.5)
        thread.join()
        profile = spprof.stop()
        assert_true(profile, open_to_signals=spent["open_to_signals"])
        of_the_deaf = [s for s in profile.samples if s.thread_name == "deaf thread"]
        claimed = sum(s.weight_ns for s in of_the_deaf)
        meta = profile.metadata
        assert claimed + meta["unattributed_ns"] >= 0.9 * spent["deaf"], meta
        assert claimed >= 0.5 * spent["deaf"], (claimed, spent, meta)
        assert seen_ns(profile, "deaf") <= 1.1 * spent["deaf"]
        assert not [s for s in of_the_deaf if any(f.function_name == "open_to_signals" for f in s.frames)]
        assert meta["losses"]["signal_blocked_threads"] == 1
        """,
        engine,
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_small_stacks(hazard: Any, engine: str) -> None:
    """The handler fits on the smallest stack a thread may have."""
    hazard(
        """
        import sys, threading, spprof
        from witness import assert_true, named
        little = named("little")
        spent = []
        # The smallest that threading accepts; the interpreter itself leaves little of it.
        threading.stack_size(32768 if sys.version_info < (3, 11) else 65536)
        spprof.start(interval_us=200, engine=sys.argv[1])
        threads = [threading.Thread(target=lambda: spent.append(little(0.1))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert_true(spprof.stop(), little=sum(spent), tolerance=0.15)
        """,
        engine,
    )


def test_alternate_stacks(hazard: Any, c_library: Any) -> None:
    """A thread on a signal stack of its own is sampled there, however deep it was on its other stack."""
    hazard(
        """
        import ctypes, sys, threading, spprof
        from witness import assert_true, named
        library, on_it, spent = ctypes.PyDLL(sys.argv[1]), named("on_it"), []
        def work():
            assert library.give_stack() == 0
            spent.append(on_it(0.2))
            assert library.used() == 1
        spprof.start(interval_us=200)
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert_true(spprof.stop(), on_it=sum(spent))
        """,
        c_library(
            """
            #define _GNU_SOURCE
            #include <signal.h>
            #include <stdlib.h>
            #include <string.h>
            #include <unistd.h>
            static __thread unsigned char *memory;
            static __thread size_t size;
            int give_stack(void) {
                stack_t stack;
                memset(&stack, 0, sizeof stack);
                size = sysconf(_SC_MINSIGSTKSZ) + 16384;
                memory = calloc(1, size);
                stack.ss_sp = memory;
                stack.ss_size = size;
                return sigaltstack(&stack, 0);
            }
            int used(void) {
                for (size_t i = 0; i < size; i++) if (memory[i]) return 1;
                return 0;
            }
            """
        ),
    )


SUB = """
    import sys, threading, spprof
    from witness import assert_true, burn, named, unchanged
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters

    def run(source):
        interpreter = interpreters.create()
        try:
            interpreters.run_string(interpreter, source)
        finally:
            interpreters.destroy(interpreter)

    SOURCE = '''if 1:
        import time
        def inside():
            goal = time.thread_time() + 0.02
            while time.thread_time() < goal:
                exec(compile("def f(n):\\\\n  return sum(range(n))\\\\nf(100)", "<sub>", "exec"), {})
        inside()
    '''
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_subinterpreters(hazard: Any, engine: str) -> None:
    """Interpreters made and destroyed while their code is sampled, on the main thread and others."""
    hazard(
        SUB
        + """
    failures = []
    threading.excepthook = lambda what: failures.append(what.exc_value)
    def churn():
        for _ in range(6):
            run(SOURCE)
    with unchanged():
        spprof.start(interval_us=500, engine=sys.argv[1])
        threads = [threading.Thread(target=churn) for _ in range(2)]
        for thread in threads:
            thread.start()
        spent = burn(0.2)
        churn()
        for thread in threads:
            thread.join()
        profile = spprof.stop()
    assert not failures, failures
    assert_true(profile, burn=spent, inside=int(18 * 0.02e9), tolerance=0.3, pieces=18)
    """,
        engine,
        timeout=120,
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_native_threads(hazard: Any, c_library: Any, engine: str) -> None:
    """Threads that Python knows nothing of, which come, work and go."""
    hazard(
        """
        import ctypes, sys, spprof
        from witness import assert_true, unchanged
        library = ctypes.CDLL(sys.argv[1])
        with unchanged():
            spprof.start(interval_ms=1, engine=sys.argv[2])
            assert library.work(20, 30) == 0
            profile = spprof.stop()
        assert_true(profile)
        native = sum(s.weight_ns for s in profile.samples if s.frames[0].function_name == "<native>")
        meta = profile.metadata
        assert native + meta["unattributed_ns"] >= 0.95 * 20 * 30e6, (native, meta)
        assert native >= 0.6 * 20 * 30e6, (native, meta)
        """,
        c_library(
            """
            #define _GNU_SOURCE
            #include <pthread.h>
            #include <time.h>
            static long ms;
            static long long now(clockid_t clock) {
                struct timespec t;
                clock_gettime(clock, &t);
                return t.tv_sec * 1000000000LL + t.tv_nsec;
            }
            static void *spin(void *unused) {
                while (now(CLOCK_THREAD_CPUTIME_ID) < ms * 1000000) {}
                return unused;
            }
            int work(int threads, long milliseconds) {
                ms = milliseconds;
                for (int i = 0; i < threads; i += 2) {
                    pthread_t one, two;
                    if (pthread_create(&one, 0, spin, 0) || pthread_create(&two, 0, spin, 0)) return 1;
                    pthread_join(one, 0);
                    pthread_join(two, 0);
                }
                return 0;
            }
            """
        ),
        engine,
    )


def test_wall_clock_over_churning_threads(hazard: Any) -> None:
    """The wall clock walks threads from outside while they start, sleep, wait and end: where they sleep is found, however
    the interpreter's list of threads changes while it is read."""
    hazard(
        """
        import sys, threading, time, spprof
        from witness import unchanged
        def asleep():
            time.sleep(0.05)
        def run(target, name=None):
            thread = threading.Thread(target=target, name=name)
            thread.start()
            thread.join()
        def churn():
            while not ended.is_set():
                run(lambda: time.sleep(0.002))
        ended = threading.Event()
        with unchanged():
            spprof.start(interval_us=500, clock="wall")
            threads = [threading.Thread(target=churn) for _ in range(2)]
            for thread in threads:
                thread.start()
            began = time.monotonic_ns()
            for _ in range(24):
                run(asleep, "sleeper")
            took = time.monotonic_ns() - began
            ended.set()
            for thread in threads:
                thread.join()
            profile = spprof.stop()
        leaves = {}
        for sample in profile.samples:
            if sample.thread_name == "sleeper":
                leaf = sample.frames[0].function_name
                leaves[leaf] = leaves.get(leaf, 0) + sample.weight_ns
        assert leaves["asleep"] > 0.9 * 24 * 0.05e9, (leaves, profile.metadata)
        # A thread that was looked at before it had a thread state, for one tick; not for as long as it slept.
        assert leaves.get("<native>", 0) < 0.03 * 24 * 0.05e9, (leaves, took)
        """
    )


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring is new in 3.12")
def test_monitoring(hazard: Any) -> None:
    """Tools of sys.monitoring see every event they asked for."""
    hazard(
        """
        import sys, spprof
        from witness import assert_true, burn
        monitoring, calls = sys.monitoring, []
        monitoring.use_tool_id(3, "host")
        monitoring.register_callback(3, monitoring.events.PY_START, lambda code, offset: calls.append(code.co_name))
        spprof.start(interval_us=200)
        monitoring.set_events(3, monitoring.events.PY_START)
        def called():
            pass
        for _ in range(20_000):
            called()
        monitoring.set_events(3, 0)
        spent = burn(0.2)
        profile = spprof.stop()
        assert calls.count("called") == 20_000
        assert monitoring.get_tool(3) == "host"
        assert_true(profile, burn=spent)
        """
    )
