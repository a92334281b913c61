"""The guards of the handler itself: memory that is not there, and the host's errno."""

from __future__ import annotations

from typing import Any

import pytest

ENGINES = ["auto", "timer", "tick"]

SPOIL = """
    #define _GNU_SOURCE
    #include <sys/mman.h>
    #include <time.h>
    static long long used(void) {
        struct timespec t;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return t.tv_sec * 1000000000LL + t.tv_nsec;
    }
    static void work(long ms) {
        long long end = used() + ms * 1000000LL;
        while (used() < end) {}
    }
    /* Works while the pointer at `at` leads to what was unmapped. */
    int work_spoiled(void *volatile *at, long ms) {
        char *gone = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (gone == MAP_FAILED || munmap(gone, 4096)) return 1;
        void *kept = *at;
        *at = gone + 64;
        work(ms);
        *at = kept;
        return 0;
    }
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_frame_that_leads_nowhere(hazard: Any, c_library: Any, engine: str) -> None:
    """A frame's link to its caller points into unmapped memory: the samples say that they could not be followed, their time
    counts, and the program lives. (Without the guard each is a SIGSEGV.)"""
    hazard(
        """
        import ctypes, sys, sysconfig, threading, spprof
        from witness import assert_true, burn
        library = ctypes.PyDLL(sys.argv[1])
        pointer = ctypes.c_size_t
        head = 32 if sysconfig.get_config_var("Py_GIL_DISABLED") else 16

        def link_of(frame):
            "Where a frame's link to its caller is."
            if sys.version_info < (3, 11):
                return id(frame) + head + 8
            inner = pointer.from_address(id(frame) + head + 8).value
            return inner + (48 if sys.version_info < (3, 12) else 8)

        def spoiled():
            at = link_of(sys._getframe())
            assert pointer.from_address(at).value, "that is not the link"
            assert library.work_spoiled(ctypes.c_void_p(at), 300) == 0

        def above():
            spoiled()

        spprof.start(interval_ms=1, engine=sys.argv[2])
        thread = threading.Thread(target=above)
        thread.start()
        thread.join()
        spent = burn(0.2)
        profile = spprof.stop()
        assert_true(profile, burn=spent)
        losses = profile.metadata["losses"]
        assert losses["broken_stack"] + losses["restarted_walk"] > 3, losses
        assert losses["broken_stack"] == 0 or any(s.frames[0].function_name == "<unresolved>" for s in profile.samples)
        """,
        c_library(SPOIL),
        engine,
        faulthandler=False,
    )


ERRNO = """
    #define _GNU_SOURCE
    #include <errno.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>
    /* In the place of libc's: POSIX lets a call that succeeds set errno. */
    int clock_gettime(clockid_t clock, struct timespec *time) {
        int result = syscall(SYS_clock_gettime, clock, time);
        errno = EXDEV;
        return result;
    }
    /* How often errno was another than it was set to. */
    long changed(long turns) {
        volatile int *at = &errno;
        long wrong = 0;
        while (turns-- > 0) {
            *at = 77;
            for (volatile int i = 0; i < 50; i++) {}
            wrong += *at != 77;
        }
        return wrong;
    }
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_errno_that_the_handlers_calls_set(hazard: Any, c_library: Any, engine: str) -> None:
    """The handler reads clocks; here they set errno. The interrupted code never sees it."""
    library = c_library(ERRNO)
    hazard(
        """
        import ctypes, sys, time, spprof
        from witness import assert_true
        library = ctypes.CDLL(sys.argv[1])
        library.changed.argtypes, library.changed.restype = [ctypes.c_long], ctypes.c_long

        def work():
            wrong, end = 0, time.thread_time() + 0.5
            while time.thread_time() < end:
                wrong += library.changed(100_000)
            return wrong

        spprof.start(interval_us=200, engine=sys.argv[2])
        wrong = work()
        profile = spprof.stop()
        assert_true(profile, work=int(0.5e9))
        assert wrong == 0, wrong
        """,
        library,
        engine,
        env={"LD_PRELOAD": str(library)},
    )
