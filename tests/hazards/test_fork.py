"""Fork, exec and their kin: the child is clean and may have a run of its own, the parent's run does not notice."""

from __future__ import annotations

from typing import Any

import pytest

CHILD = """
    import os, signal, sys, threading, spprof
    from witness import (
        ENGINES, assert_inactive, assert_true, burn, descriptors, dispositions, named, thread_count, timers, unchanged,
    )

    def in_child(check):
        "Runs it in a forked child, whose exception is shown and counted as a failure."
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                check()
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0, "the child failed"
"""


@pytest.mark.parametrize("engine", ["auto", "timer", "tick"])
def test_the_child_is_clean(hazard: Any, tmp_path: Any, engine: str) -> None:
    """No timer, no descriptor, no handler of ours, no journal's owner; and a run of its own is true."""
    hazard(
        CHILD
        + """
    engine, folder = sys.argv[1:]
    before = dispositions(), descriptors()
    idle = threading.Event()
    threads = [threading.Thread(target=idle.wait, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()

    def check():
        assert_inactive()
        assert timers() == 0
        assert thread_count() == 1
        assert (dispositions(), descriptors()) == before, (descriptors(), before[1])
        for engine in ENGINES:
            spprof.start(interval_ms=1, engine=engine)
            in_the_child = named("in_the_child")
            spent = in_the_child(0.2)
            assert_true(spprof.stop(), in_the_child=spent)
        assert (dispositions(), descriptors(), timers(), thread_count()) == (*before, 0, 1)

    spprof.start(interval_ms=1, engine=engine, output_path=folder + "/parent.spprof")
    in_the_parent = named("in_the_parent")
    spent = in_the_parent(0.2)
    in_child(check)
    assert spprof.is_active()
    spent += in_the_parent(0.2)
    profile = spprof.stop()
    assert_true(profile, in_the_parent=spent, in_the_child=0)
    idle.set()
    for thread in threads:
        thread.join()
    assert (dispositions(), descriptors(), timers()) == (*before, 0)
        """,
        engine,
        tmp_path,
    )


@pytest.mark.filterwarnings("ignore")
def test_forks_while_everything_moves(hazard: Any) -> None:
    """Children forked at 5 kHz while threads come, go, allocate and compile: none hangs, all are clean."""
    hazard(
        CHILD
        + """
    import warnings
    warnings.simplefilter("ignore")
    ended = threading.Event()

    def churn():
        turn = 0
        while not ended.is_set():
            turn += 1
            exec(compile("def f(n):\\n    return [str(i) for i in range(n)]\\nf(50)", f"<{turn}>", "exec"), {})
            thread = threading.Thread(target=sum, args=(range(500),))
            thread.start()
            thread.join()

    def check():
        assert_inactive()
        assert timers() == 0
        spprof.start(interval_ms=1)
        spent = burn(0.01)
        assert_true(spprof.stop())

    churning = [threading.Thread(target=churn) for _ in range(2)]
    for thread in churning:
        thread.start()
    spprof.start(interval_us=200)
    spent = 0
    for _ in range(40):
        in_child(check)
        spent += burn(0.003)
    profile = spprof.stop()
    ended.set()
    for thread in churning:
        thread.join()
    assert_true(profile, burn=spent, tolerance=0.15, pieces=40)
    """
    )


def test_forks_while_a_run_is_started_and_stopped(hazard: Any) -> None:
    """Whatever the run of another thread is about at the moment of the fork, the child is inactive and may start."""
    hazard(
        CHILD
        + """
    import warnings
    warnings.simplefilter("ignore")
    ended, failures = threading.Event(), []

    def runs():
        try:
            while not ended.is_set():
                spprof.start(interval_ms=1)
                spprof.stop()
        except BaseException as error:
            failures.append(error)

    def check():
        assert_inactive()
        assert timers() == 0
        spprof.start(interval_ms=1)
        burn(0.01)
        assert_true(spprof.stop())
        assert thread_count() == 1

    # The first run of a process imports; a fork in the middle of any import breaks that import in the child.
    spprof.start()
    spprof.stop()
    thread = threading.Thread(target=runs, daemon=True)
    thread.start()
    for _ in range(40):
        in_child(check)
    ended.set()
    thread.join()
    assert not failures, failures
    """
    )


FIRST_START = """
    import os, sys, threading, spprof
    STEP = int(sys.argv[1])
    go, forked, steps, statuses = threading.Event(), threading.Event(), 0, []

    def fork():
        go.wait()
        pid = os.fork()
        if pid == 0:
            spprof.start(interval_ms=1)
            spprof.stop()
            os._exit(7)
        forked.set()
        statuses.append(os.waitpid(pid, 0)[1])

    def step(frame, event, argument):
        global steps
        steps += 1
        if steps == STEP:
            go.set()
            forked.wait()

    thread = threading.Thread(target=fork)
    thread.start()
    sys.setprofile(step)
    spprof.start(interval_ms=1)
    sys.setprofile(None)
    go.set()
    thread.join()
    spprof.stop()
    assert statuses == [7 << 8], statuses
    print(steps)
"""


def test_forks_in_the_first_start(hazard: Any) -> None:
    """Another thread forks in the middle of the very first start(), at one step of it or another: the child may start, too."""
    steps = hazard(FIRST_START, 0, env={"PYTHONWARNINGS": "ignore"}).json
    assert steps > 5
    for step in range(1, steps, max(1, steps // 8)):
        hazard(FIRST_START, step, env={"PYTHONWARNINGS": "ignore"})


def test_children_of_children(hazard: Any) -> None:
    """A profiled child forks in turn."""
    hazard(
        CHILD
        + """
    def check(depth=3):
        assert_inactive()
        with unchanged():
            spprof.start(interval_ms=1)
            spent = burn(0.05)
            if depth:
                in_child(lambda: check(depth - 1))
            assert spprof.is_active()
            assert_true(spprof.stop(), burn=spent)
    check()
    """
    )


def test_exec(hazard: Any) -> None:
    """The program that takes over the process has no timer, no descriptor and only default handlers, and no signal of
    ours ends it, at the highest rate and for every engine."""
    hazard(
        """
        import os, sys, spprof
        from witness import ENGINES, burn
        AFTER = "; ".join([
            "import os, signal, sys",
            "sys.path[:0] = sys.argv[1].split(os.pathsep)",
            "from witness import burn, descriptors, timers",
            "assert timers() == 0",
            "assert not [fd for fd, what in descriptors().items() if fd > 2 and '.so' not in what], descriptors()",
            "assert signal.getsignal(signal.SIGURG) == signal.SIG_DFL",
            "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL",
            "assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])",
            "burn(0.05)",
        ])
        for engine in ENGINES:
            for _ in range(3):
                pid = os.fork()
                if pid == 0:
                    spprof.start(interval_us=100, engine=engine)
                    burn(0.02)
                    os.execv(sys.executable, [sys.executable, "-c", AFTER, os.pathsep.join(sys.path)])
                assert os.waitpid(pid, 0)[1] == 0
        """
    )


@pytest.mark.parametrize("engine", ["auto", "timer", "tick"])
def test_subprocesses(hazard: Any, engine: str) -> None:
    """Programs started in every way, from two threads at 5 kHz, all end well and inherit nothing."""
    hazard(
        """
        import os, subprocess, sys, threading, spprof
        from witness import assert_true, burn, unchanged
        LOOK = "import os, sys; sys.exit(max(map(int, os.listdir('/proc/self/fd'))) > 3)"
        command = [sys.executable, "-S", "-E", "-c", LOOK]

        def start_some():
            for number in range(6):
                assert subprocess.run(command, close_fds=number % 2 == 0).returncode == 0
            pid = os.posix_spawn(sys.executable, command, {})
            assert os.waitpid(pid, 0)[1] == 0
            assert subprocess.run(command, preexec_fn=lambda: None).returncode == 0
            assert subprocess.run("exit 3", shell=True).returncode == 3

        with unchanged():
            spprof.start(interval_us=200, engine=sys.argv[1])
            failures = []
            threads = [threading.Thread(target=start_some) for _ in range(2)]
            threading.excepthook = lambda what: failures.append(what.exc_value)
            for thread in threads:
                thread.start()
            spent = burn(0.4)
            for thread in threads:
                thread.join()
            profile = spprof.stop()
        assert not failures, failures
        assert_true(profile, burn=spent, tolerance=0.15)
        """,
        engine,
    )


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(hazard: Any, method: str) -> None:
    """Workers are inactive, may have runs of their own, and end with their pool."""
    hazard(
        """
        import multiprocessing, sys, warnings, spprof
        from witness import assert_true, burn
        warnings.simplefilter("ignore")

        def work(number):
            assert not spprof.is_active()
            spprof.start(interval_ms=1)
            spent = burn(0.05)
            assert_true(spprof.stop(), burn=spent)
            return number * number

        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            spprof.start(interval_ms=1)
            with context.Pool(2) as pool:
                assert pool.map(work, range(6)) == [n * n for n in range(6)]
                spent = burn(0.2)
                process = context.Process(target=work, args=(1,))
                process.start()
                process.join()
                assert process.exitcode == 0
            assert_true(spprof.stop(), burn=spent)
        """,
        method,
    )


FORKING_LIBRARY = """
    #include <sys/wait.h>
    #include <unistd.h>
    /* How many of `count` children did not end as they should. */
    int fork_some(int count) {
        int wrong = 0;
        while (count-- > 0) {
            int status = 0;
            pid_t child = fork();
            if (child == 0) _exit(5);
            wrong += waitpid(child, &status, 0) != child || status != 5 << 8;
        }
        return wrong;
    }
"""


def test_c_code_forks(hazard: Any, c_library: Any) -> None:
    """fork() on threads without the GIL, at whatever moment of a run's start and stop."""
    hazard(
        """
        import ctypes, sys, threading, spprof
        from witness import burn, owned
        library = ctypes.CDLL(sys.argv[1])
        spprof.start(); spprof.stop()
        before = owned()
        wrong, cycles = [], 0
        threads = [threading.Thread(target=lambda: wrong.append(library.fork_some(150))) for _ in range(2)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            spprof.start(interval_us=200)
            burn(0.002)
            spprof.stop()
            cycles += 1
        assert wrong == [0, 0] and cycles > 3, (wrong, cycles)
        assert owned() == before
        """,
        c_library(FORKING_LIBRARY),
    )
