"""Little memory: of the machine's or of the limit's, the run still counts everything or does not begin."""

from __future__ import annotations

from typing import Any


def test_little_address_space(hazard: Any) -> None:
    """Under RLIMIT_AS start() either works or raises, and leaves the process as it was."""
    hazard(
        """
        import resource, sys, spprof
        from pathlib import Path
        from witness import assert_inactive, assert_true, burn, dispositions, timers, thread_count
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        worked, refused = 0, 0
        for megabytes in (1, 4, 20, 100, 400, 1500, 4000):
            before = dispositions()
            resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), resource.RLIM_INFINITY))
            try:
                spprof.start(interval_ms=1)
            except (OSError, RuntimeError, MemoryError) as error:
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                refused += 1
                assert_inactive()
            else:
                spent = burn(0.1)
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                assert_true(spprof.stop(), burn=spent)
                worked += 1
            assert (dispositions(), timers()) == (before, 0), megabytes
        assert worked >= 2 and refused >= 1, (worked, refused)
        """
    )


def test_memory_limit(hazard: Any) -> None:
    """With the smallest limit and the highest rate the timeline coarsens and the weights stay."""
    hazard(
        """
        import spprof
        from witness import assert_true, burn
        spprof.start(interval_us=50, memory_limit_mb=1)
        spent = burn(2.0)
        stats = spprof.stats()
        profile = spprof.stop()
        assert stats.memory_bytes < 3 << 20, stats
        assert sum(sample.count for sample in profile.samples) >= stats.collected_samples
        assert_true(profile, burn=spent)
        """
    )


def test_a_rate_the_machine_cannot_bear(hazard: Any) -> None:
    """At the shortest interval that may be asked for, the program still gets its work done, and the profile is true."""
    hazard(
        """
        import spprof
        from witness import ENGINES, assert_true, burn
        for engine in ENGINES:
            spprof.start(interval_us=20, engine=engine)
            spent = burn(0.5)
            profile = spprof.stop()
            assert_true(profile, burn=spent)
            # perf is asked for one every 50 us and no more: on a machine that is busy with others, 20 us stop the program
            # for good. The other engines cannot flood a thread: the kernel's tick and the manager's own pace bound them.
            if engine == "perf":
                assert profile.metadata["delivered_rate_hz"] < 25_000, profile.metadata
        """,
        timeout=90,
    )
