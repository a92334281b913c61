"""Descriptors: few, ours alone, and never somebody else's after the host has closed them."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("engine", ["auto", "timer", "tick"])
def test_a_host_that_closes_everything(hazard: Any, tmp_path: Any, engine: str) -> None:
    """A daemon closes all descriptors and opens its own files, which get the numbers ours had: none of its files is
    written to, moved in or closed by us, and sampling goes on."""
    hazard(
        """
        import os, sys, threading, spprof
        from witness import assert_true, burn, descriptors, timers, thread_count
        engine, folder = sys.argv[1:]
        stop = threading.Event()
        for _ in range(4):
            threading.Thread(target=stop.wait).start()
        spprof.start(interval_ms=1, engine=engine, output_path=folder + "/p.spprof")
        burn(0.1)
        os.closerange(3, 512)
        files = []
        for number in range(40):
            files.append(open(f"{folder}/host{number}", "w+b", buffering=0))
            files[-1].write(b"0123456789")
        spent = burn(1.2)
        late = threading.Thread(target=burn, args=(0.1,))
        late.start()
        late.join()
        for file in files:
            file.write(b"abc")
        stop.set()
        profile = spprof.stop()
        spprof.start(interval_ms=1, engine=engine)
        spprof.stop()
        for file in files:
            assert os.path.samestat(os.fstat(file.fileno()), os.stat(file.name)), file.name
            file.seek(0)
            assert file.read() == b"0123456789abc", file.name
            file.close()
        left = [fd for fd in descriptors() if fd > 2]
        assert not left, descriptors()
        assert_true(profile, burn=spent + int(0.2e9), tolerance=0.15)
        assert spprof.load(folder + "/p.spprof").sample_count == profile.sample_count
        """,
        engine,
        tmp_path,
    )


@pytest.mark.parametrize("engine", ["auto", "timer", "tick"])
def test_few_descriptors_allowed(hazard: Any, engine: str) -> None:
    """Under a small RLIMIT_NOFILE the host keeps most of them, and threads beyond are sampled by other means."""
    hazard(
        """
        import os, resource, sys, threading, spprof
        from witness import assert_true, named, unchanged
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        go = threading.Event()
        def work():
            go.wait()
            spent.append(in_threads(0.03))
        in_threads, spent = named("in_threads"), []
        with unchanged():
            threads = [threading.Thread(target=work) for _ in range(60)]
            for thread in threads:
                thread.start()
            spprof.start(interval_ms=1, engine=sys.argv[1])
            mine = [os.open("/dev/null", os.O_RDONLY) for _ in range(16)]
            go.set()
            for thread in threads:
                thread.join()
            profile = spprof.stop()
            for fd in mine:
                os.close(fd)
        # The kernel's tick is all that a thread without a descriptor gets: coarser, but not biased.
        assert_true(profile, in_threads=sum(spent), tolerance=0.3, pieces=60)
        assert profile.metadata["losses"]["thread_not_armed"] == 0
        """,
        engine,
    )


def test_no_descriptor_free(hazard: Any) -> None:
    """A host that has used up its descriptors gets an OSError from start(), or loses none of its samples when it does so
    during a run."""
    hazard(
        """
        import os, resource, spprof
        from witness import assert_inactive, assert_true, burn, owned
        resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
        def use_up():
            used = []
            try:
                while True:
                    used.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                return used
        spprof.start()
        spprof.stop()
        used = use_up()
        try:
            spprof.start()
        except OSError as error:
            assert_inactive()
        else:
            assert_true(spprof.stop())
        for fd in used:
            os.close(fd)
        spprof.start(interval_ms=1)
        used = use_up()
        spent = burn(0.3)
        for fd in used:
            os.close(fd)
        assert_true(spprof.stop(), burn=spent)
        """
    )
