"""The host's own signals: its handlers, timers and masks work as without us, while we sample and after."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("engine", ["auto", "timer", "tick"])
def test_the_hosts_profiling_timer(hazard: Any, engine: str) -> None:
    """All ticks of the host's ITIMER_PROF come to its SIGPROF handler, and none of them is a sample."""
    hazard(
        """
        import signal, sys, time, spprof
        from witness import assert_true, burn, unchanged
        # Handlers set from Python have SA_ONSTACK, the default action does not: not ours to undo.
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        with unchanged():
            ticks = []
            handler = lambda number, frame: ticks.append(number)
            signal.signal(signal.SIGPROF, handler)
            began = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, 0.02, 0.02)
            spprof.start(interval_ms=50, engine=sys.argv[1])
            assert signal.getsignal(signal.SIGPROF) is handler
            spent = burn(1.0)
            profile = spprof.stop()
            remaining, interval = signal.getitimer(signal.ITIMER_PROF)
            signal.setitimer(signal.ITIMER_PROF, 0)
            due = (time.process_time() - began) / 0.02
            assert abs(interval - 0.02) < 0.01, interval
            assert set(ticks) == {signal.SIGPROF}
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
        # The kernel measures this timer by whole ticks of its own, and of two that come due within one, one is sent.
        assert 0.5 * due <= len(ticks) <= 1.5 * due, (len(ticks), due)
        # One every 50 ms, or fewer: the fifty ticks of the host are not among them.
        assert 0 < profile.sample_count <= due / 2 + 3, (profile.sample_count, due)
        assert_true(profile, burn=spent)
        """,
        engine,
    )


@pytest.mark.parametrize("when", ["before", "during"])
def test_the_hosts_sampling_signal(hazard: Any, when: str) -> None:
    """The signal we sample with may be the host's: each one it is sent comes to its handler, and it has it back after."""
    hazard(
        """
        import os, signal, sys, threading, time, spprof
        from witness import assert_true, burn, dispositions, seen_ns
        got = []
        handler = lambda number, frame: got.append(number)

        def sent(count):
            for _ in range(count):
                had = len(got)
                os.kill(os.getpid(), signal.SIGURG)
                deadline = time.monotonic() + 5
                while len(got) == had and time.monotonic() < deadline:
                    pass

        spprof.start(); spprof.stop()
        signal.signal(signal.SIGURG, handler)
        before = dispositions()
        if sys.argv[1] == "during":
            signal.signal(signal.SIGURG, signal.SIG_DFL)
        spprof.start(interval_ms=1)
        if sys.argv[1] == "during":
            signal.signal(signal.SIGURG, handler)
            # Until we notice, which takes a twentieth of a second, it gets our samples too.
            while dispositions()[signal.SIGURG] == before[signal.SIGURG]:
                burn(0.01)
            burn(0.01)
            got.clear()
        assert signal.getsignal(signal.SIGURG) is handler
        sent(50)
        spent = burn(0.3)
        profile = spprof.stop()
        assert len(got) == 50, len(got)
        assert dispositions() == before
        sent(5)
        assert len(got) == 55
        assert_true(profile, tolerance=0.1)
        assert seen_ns(profile, "burn") >= 0.9 * spent
        """,
        when,
    )


def test_handlers_set_and_removed_while_we_run(hazard: Any) -> None:
    """What the host has set last is in place after the run, for every signal there is."""
    hazard(
        """
        import faulthandler, signal, spprof
        from witness import assert_true, burn, dispositions
        faulthandler.disable()
        spprof.start(); spprof.stop()
        handler = lambda number, frame: None
        numbers = [signal.SIGURG, signal.SIGSEGV, signal.SIGBUS, signal.SIGTERM, signal.SIGPROF, signal.SIGUSR1]
        for last in (handler, signal.SIG_IGN, signal.SIG_DFL):
            for number in numbers:
                signal.signal(number, last)
            expected = dispositions()
            for number in numbers:
                signal.signal(number, signal.SIG_DFL)
            spprof.start(interval_ms=1)
            spent = burn(0.1)
            for number in numbers:
                signal.signal(number, last)
            # Some of it within the time in which we look for what was replaced, some after.
            spent += burn(0.2)
            profile = spprof.stop()
            now = dispositions()
            assert now == expected, [n for n in now if now[n] != expected[n]]
            # What we could not take back at once is not sampled, but accounted for.
            assert_true(profile, burn=spent, tolerance=0.2)
        """,
        faulthandler=False,
    )


@pytest.mark.parametrize("engine", ["auto", "timer", "tick"])
def test_interrupts(hazard: Any, engine: str) -> None:
    """Ctrl-C raises KeyboardInterrupt in the main thread as ever."""
    hazard(
        """
        import os, signal, sys, threading, time, spprof
        from witness import assert_true, burn, unchanged
        # Whoever is started in the background has it ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with unchanged():
            spprof.start(interval_us=200, engine=sys.argv[1])
            for _ in range(20):
                try:
                    threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
                    burn(20)
                    raise AssertionError("not interrupted")
                except KeyboardInterrupt:
                    pass
                while threading.active_count() > 1:
                    pass
            spent = burn(0.2)
            profile = spprof.stop()
        assert_true(profile)
        """,
        engine,
    )


@pytest.mark.parametrize("engine", ["auto", "timer", "tick"])
def test_errno(hazard: Any, engine: str) -> None:
    """At 10 kHz no failing system call is seen with another errno than its own."""
    hazard(
        """
        import ctypes, errno, sys, threading, time, spprof
        from witness import assert_true
        libc = ctypes.CDLL(None, use_errno=True)
        wrong, turns = [], []

        def fail(argument, expected, call):
            goal = time.thread_time() + 0.4
            while time.thread_time() < goal:
                for _ in range(100):
                    ctypes.set_errno(0)
                    assert call(argument) == -1
                    if ctypes.get_errno() != expected:
                        wrong.append((expected, ctypes.get_errno()))
            turns.append(expected)

        spprof.start(interval_us=100, engine=sys.argv[1])
        threads = [
            threading.Thread(target=fail, args=(999, errno.EBADF, libc.close)),
            threading.Thread(target=fail, args=(b"/nowhere", errno.ENOENT, libc.chdir)),
            threading.Thread(target=fail, args=(1, errno.EFAULT, libc.pipe)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        profile = spprof.stop()
        assert len(turns) == 3
        assert not wrong, wrong[:5]
        assert_true(profile, fail=int(1.2e9), tolerance=0.15)
        """,
        engine,
    )


C_HANDLERS = """
    #define _GNU_SOURCE
    #include <errno.h>
    #include <pthread.h>
    #include <setjmp.h>
    #include <signal.h>
    #include <string.h>
    static struct sigaction before;
    static sigjmp_buf landing;
    static volatile long caught;
    static void on_fault(int number, siginfo_t *info, void *context) {
        if (info->si_addr == (void *)16) { caught++; siglongjmp(landing, 1); }
        before.sa_flags & SA_SIGINFO ? before.sa_sigaction(number, info, context) : signal(number, SIG_DFL);
    }
    int take_over(void) {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        return sigaction(SIGSEGV, &action, &before);
    }
    long survive_a_fault(void) {
        if (sigsetjmp(landing, 1) == 0) *(volatile int *)16 = 1;
        return caught;
    }
"""


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_host_that_survives_its_own_faults(hazard: Any, c_library: Any, when: str) -> None:
    """A handler of SIGSEGV in C, that jumps out of itself, gets the host's faults and none of ours."""
    hazard(
        """
        import ctypes, sys, spprof
        from witness import assert_true, burn, dispositions
        library, when = ctypes.PyDLL(sys.argv[1]), sys.argv[2]
        spprof.start(); spprof.stop()
        if when == "before":
            assert library.take_over() == 0
        before = dispositions()
        spprof.start(interval_us=200)
        if when == "during":
            assert library.take_over() == 0
            before = {**before, 11: dispositions()[11]}
        for turn in range(1, 101):
            assert library.survive_a_fault() == turn
            if turn == 50:
                spent = burn(0.3)
        assert_true(spprof.stop(), burn=spent)
        assert dispositions() == before
        assert library.survive_a_fault() == 101
        """,
        c_library(C_HANDLERS),
        when,
        faulthandler=False,
    )
