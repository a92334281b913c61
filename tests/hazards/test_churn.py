"""Programs whose frames and code never stay: what is sampled has only functions and callers that the program has."""

from __future__ import annotations

from typing import Any

import pytest

ENGINES = ["auto", "timer", "tick"]


@pytest.mark.parametrize("engine", ENGINES)
def test_greenlets(hazard: Any, engine: str) -> None:
    """Stacks are exchanged under the sampler: no stack has frames of two greenlets."""
    pytest.importorskip("greenlet")
    hazard(
        """
        import random, sys, spprof
        from greenlet import greenlet
        from witness import assert_true, burn, grain_ns

        spent, turns = dict.fromkeys("abcde", 0), 600
        # Of varied length: switches that come evenly would keep step with the sampler.
        seconds = random.Random(5).uniform
        def make(letter):
            names = {"burn": burn, "spent": spent, "letter": letter, "seconds": seconds}
            exec(
                f"def inner_{letter}(): spent[letter] += burn(seconds(0.0001, 0.0003)); main.switch()\\n"
                f"def outer_{letter}():\\n    while True: inner_{letter}()", names)
            return names, greenlet(names[f"outer_{letter}"])

        workers = {letter: make(letter) for letter in "abcde"}
        main = greenlet(lambda: None).parent
        for names, _ in workers.values():
            names["main"] = main
        spprof.start(interval_us=200, engine=sys.argv[1])
        for _ in range(turns):
            for _, worker in workers.values():
                worker.switch()
        profile = spprof.stop()
        seen = dict.fromkeys(workers, 0)
        for sample in profile.samples:
            functions = [frame.function_name for frame in sample.frames]
            letters = {name[-1] for name in functions if name.startswith(("inner_", "outer_"))}
            assert len(letters) <= 1, functions
            for letter in letters:
                seen[letter] += sample.weight_ns
        for letter, ns in seen.items():
            # Chance alone, five standard deviations of it, for samples that each stand for one grain.
            chance = 5 * (spent[letter] * grain_ns(profile)) ** 0.5
            assert ns and abs(ns - spent[letter]) < 0.15 * spent[letter] + chance, (seen, spent, chance)
        assert_true(profile)
        """,
        engine,
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_code_that_dies_while_it_is_sampled(hazard: Any, engine: str) -> None:
    """Functions compiled, called once and freed, under the collector's stress: each name goes with its own file, and
    nothing is kept after the run."""
    hazard(
        """
        import gc, sys, time, spprof
        from witness import assert_true, burn, resident_mb

        def run_code(number):
            names = {}
            exec(compile(
                f"def caller_{number}(n):\\n    return callee_{number}(n)\\n"
                f"def callee_{number}(n):\\n    return sum(i * i for i in range(n))\\n", f"<file {number}>", "exec"), names)
            names[f"caller_{number}"](3000)

        def churn(seconds, number=0):
            goal = time.thread_time() + seconds
            while time.thread_time() < goal:
                number += 1
                run_code(number)
                cycle = []
                cycle.append(cycle)
                if number % 50 == 0:
                    gc.collect(number % 3)
            return number

        gc.set_threshold(50, 2, 2)
        profiles = []
        for turn in range(3):
            spprof.start(interval_us=200, engine=sys.argv[1])
            churn(0.6)
            profile = spprof.stop()
            seen = 0
            for sample in profile.samples:
                stack = [(f.function_name.rpartition(".")[2], f.filename) for f in sample.frames]
                numbers = {file for _, file in stack if file.startswith("<file")}
                assert len(numbers) <= 1, stack
                for position, (name, file) in enumerate(stack):
                    if name.startswith(("caller_", "callee_")):
                        seen += 1
                        assert file == f"<file {name[7:]}>", stack
                        above = stack[position + 1][0]
                        assert above == ("caller_" + name[7:] if name.startswith("callee_") else "run_code"), stack
            assert seen, profile.metadata
            assert profile.metadata["losses"]["unresolved_not_code"] == 0, profile.metadata
            assert_true(profile, churn=int(0.6e9), tolerance=0.15)
            mb = resident_mb()
            if turn == 1:
                before = mb
        assert mb - before < 6, f"{before} -> {mb} MB"
        """,
        engine,
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_generators_and_coroutines(hazard: Any, engine: str) -> None:
    """Frames suspended, resumed, thrown into and closed: each is seen below who resumes it."""
    hazard(
        """
        import asyncio, sys, time, spprof
        from witness import assert_true, burn

        spent = {"generate": 0, "awaited": 0}

        def generate():
            while True:
                try:
                    spent["generate"] += burn(0.0001)
                    yield
                except ValueError:
                    pass

        def resume(seconds):
            goal = time.thread_time() + seconds
            while time.thread_time() < goal:
                generator = generate()
                for _ in range(10):
                    next(generator)
                generator.throw(ValueError)
                generator.close()

        async def awaited():
            spent["awaited"] += burn(0.0001)
            await asyncio.sleep(0)

        async def task():
            for _ in range(300):
                await awaited()

        async def run():
            await asyncio.gather(*(task() for _ in range(8)))

        spprof.start(interval_us=200, engine=sys.argv[1])
        resume(0.4)
        asyncio.run(run())
        profile = spprof.stop()
        assert_true(profile, resume=int(0.4e9), tolerance=0.25, **spent)
        for sample in profile.samples:
            functions = [f.function_name.rpartition(".")[2] for f in sample.frames]
            for name, above in zip(functions, functions[1:]):
                if name == "generate":
                    assert above == "resume", functions
                if name == "awaited":
                    assert above == "task", functions
        """,
        engine,
    )


def test_deep_recursion(hazard: Any) -> None:
    """Stacks of tens of thousands of frames that grow and fall: both ends are there, and what is left out is said."""
    hazard(
        """
        import sys, threading, time, spprof
        from witness import assert_true, burn
        DEPTH = 20_000
        sys.setrecursionlimit(DEPTH * 2)
        threading.stack_size(512 << 20)

        def down(n):
            if n == 0:
                return burn(0.002)
            return down(n - 1)

        def bottom():
            goal = time.thread_time() + 0.6
            while time.thread_time() < goal:
                down(DEPTH)

        spprof.start(interval_us=500)
        thread = threading.Thread(target=bottom)
        thread.start()
        thread.join()
        profile = spprof.stop()
        assert_true(profile, bottom=int(0.6e9), tolerance=0.15)
        deep = [s for s in profile.samples if any(f.function_name == "<truncated>" for f in s.frames)]
        assert deep and profile.metadata["losses"]["truncated_frames"] > DEPTH
        for sample in deep:
            names = [f.function_name.rpartition(".")[2] for f in sample.frames]
            assert names[0] in ("down", "burn") and "bottom" in names[-5:], (names[:3], names[-5:])
        """
    )


@pytest.mark.parametrize("hook", ["settrace", "setprofile"])
def test_tracing_hosts(hazard: Any, hook: str) -> None:
    """A debugger or a profiler of the host's sees each call, and is sampled like any code."""
    hazard(
        """
        import sys, spprof
        from witness import assert_true, burn
        calls = 0
        def traced(frame, event, argument):
            global calls
            calls += event == "call" and frame.f_code.co_name == "called"
            return traced
        def called():
            pass
        def host():
            for _ in range(60_000):
                called()
        spprof.start(interval_us=200)
        set_hook = getattr(sys, sys.argv[1])
        set_hook(traced)
        assert getattr(sys, sys.argv[1].replace("set", "get"))() is traced
        host()
        set_hook(None)
        spent = burn(0.2)
        profile = spprof.stop()
        assert calls == 60_000, calls
        assert_true(profile, burn=spent)
        assert any([f.function_name for f in s.frames[:2]] == ["traced", "called"] for s in profile.samples)
        """,
        hook,
    )


def test_numpy(hazard: Any) -> None:
    """Work without the GIL inside a library is the caller's."""
    pytest.importorskip("numpy")
    hazard(
        """
        import threading, time, spprof
        import numpy
        from witness import assert_true
        matrix = numpy.random.default_rng(1).random((300, 300))
        spent = []
        def multiply():
            began = time.thread_time_ns()
            while time.thread_time_ns() - began < 3e8:
                numpy.sort(matrix, axis=0)
            spent.append(time.thread_time_ns() - began)
        spprof.start(interval_us=200)
        threads = [threading.Thread(target=multiply) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert_true(spprof.stop(), multiply=sum(spent))
        """
    )
