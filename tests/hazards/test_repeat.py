"""Start and stop, many times, from anywhere, at once: nothing is left behind and the runs stay true."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("engine", ["auto", "timer", "tick"])
def test_many_cycles(hazard: Any, engine: str) -> None:
    """No descriptor, thread, timer or memory is left by hundreds of runs; the last one is as good as the first."""
    hazard(
        """
        import sys, spprof
        from witness import assert_true, burn, resident_mb, unchanged
        engine = sys.argv[1]
        with unchanged():
            for cycle in range(450):
                spprof.start(interval_ms=1 + cycle % 10, engine=engine)
                profile = spprof.stop()
                if cycle == 150:
                    before_mb = resident_mb()
            grown = resident_mb() - before_mb
            spprof.start(interval_ms=1, engine=engine)
            spent = burn(0.3)
            assert_true(spprof.stop(), burn=spent)
        # 300 cycles: a leak of 4 KiB in each would be 1.2 MB.
        assert grown < 1.2, f"{grown} MB"
        """,
        engine,
    )


def test_started_and_stopped_by_different_threads(hazard: Any) -> None:
    """Each run is begun and ended by threads that end before the other acts."""
    hazard(
        """
        import threading, spprof
        from witness import assert_true, burn, unchanged

        def on_a_thread(function):
            done = []
            thread = threading.Thread(target=lambda: done.append(function()))
            thread.start()
            thread.join()
            return done[0]

        with unchanged():
            for _ in range(60):
                on_a_thread(lambda: spprof.start(interval_ms=1))
                profile = on_a_thread(spprof.stop)
            on_a_thread(lambda: spprof.start(interval_ms=1))
            spent = burn(0.2)
            assert_true(on_a_thread(spprof.stop), burn=spent)
        """
    )


def test_racing_starts_and_stops(hazard: Any) -> None:
    """Four threads start, stop and ask at will: each start that succeeds is ended by exactly one stop."""
    hazard(
        """
        import threading, spprof
        from witness import assert_inactive, unchanged
        started, stopped, failures = [], [], []

        def at_will(number):
            try:
                for _ in range(120):
                    try:
                        spprof.start(interval_ms=1)
                        started.append(number)
                    except RuntimeError as error:
                        assert str(error) == "Profiler already running", error
                    stats = spprof.stats()
                    assert stats is None or stats.engine
                    try:
                        spprof.stop()
                        stopped.append(number)
                    except RuntimeError as error:
                        assert str(error) == "Profiler not running", error
            except BaseException as error:
                failures.append(error)

        with unchanged():
            threads = [threading.Thread(target=at_will, args=(n,)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if spprof.is_active():
                spprof.stop()
                stopped.append(None)
            assert not failures, failures
            assert len(started) == len(stopped) > 0
            assert_inactive()
        """
    )
