"""`@spprof.profile` on everything that can be called, alone and overlapping."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import threading
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any, Callable

import pytest
import spprof

Work = Callable[..., None]


def seen(profile: spprof.Profile) -> set[str]:
    """The last parts of all function names in the profile."""
    return {frame.function_name.rpartition(".")[2] for sample in profile.samples for frame in sample.frames}


def test_with_arguments(work: Work, tmp_path: Path) -> None:
    """The guide's example: profiled and saved at every call."""

    @spprof.profile(interval_ms=1, output_path=tmp_path / "f.json")
    def busy_one(a: int, b: int = 2) -> int:
        """Its own docstring."""
        work()
        return a + b

    assert (busy_one.__name__, busy_one.__doc__) == ("busy_one", "Its own docstring.")
    assert busy_one.profile is None  # type: ignore[attr-defined]
    assert not spprof.is_active()
    for result in (3, 3):
        assert busy_one(1) == result
        assert not spprof.is_active()
        profile = busy_one.profile  # type: ignore[attr-defined]
        assert "busy_one" in seen(profile) and profile.interval_ms == 1
        assert json.loads((tmp_path / "f.json").read_text()) == profile.to_speedscope()
        (tmp_path / "f.json").unlink()


def test_bare(work: Work) -> None:
    """Without parentheses: the defaults."""

    @spprof.profile
    def busy_bare() -> str:
        work()
        return "done"

    assert busy_bare() == "done"
    assert "busy_bare" in seen(busy_bare.profile)  # type: ignore[attr-defined]
    assert busy_bare.profile.interval_ms == 10  # type: ignore[attr-defined]


def test_methods(work: Work) -> None:
    """Functions of a class stay methods."""

    class Thing:
        @spprof.profile(interval_ms=1)
        def method(self) -> Any:
            work()
            return self

    thing = Thing()
    assert thing.method() is thing
    assert "method" in seen(Thing.method.profile)  # type: ignore[attr-defined]


def test_exceptions_pass(work: Work, tmp_path: Path) -> None:
    """Saved all the same, and the exception is the function's own."""

    @spprof.profile(interval_ms=1, output_path=tmp_path / "f.json")
    def fails() -> None:
        work()
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        fails()
    assert not spprof.is_active()
    assert (tmp_path / "f.json").stat().st_size > 0


def test_recursion_is_one_run(work: Work) -> None:
    """The run ends with the outermost call."""

    @spprof.profile(interval_ms=1)
    def recursive(depth: int) -> None:
        assert spprof.is_active()
        if depth:
            recursive(depth - 1)
            assert spprof.is_active()
        work(2)

    recursive(3)
    assert not spprof.is_active()
    assert recursive.profile.sample_count >= 8  # type: ignore[attr-defined]


def test_concurrent_calls_are_one_run(work: Work) -> None:
    """Nobody's call is cut short, whoever began the run."""
    barrier = threading.Barrier(4)
    failures: list[BaseException] = []

    @spprof.profile(interval_ms=1)
    def concurrent(number: int) -> None:
        barrier.wait()
        for _ in range(number):
            work(2)
        assert spprof.is_active()

    def call(number: int) -> None:
        try:
            concurrent(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=call, args=(number,), name=f"caller-{number}") for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not spprof.is_active()
    profile = concurrent.profile  # type: ignore[attr-defined]
    assert "caller-4" in {sample.thread_name for sample in profile.samples}


def test_functions_that_overlap_share_a_run(work: Work, tmp_path: Path) -> None:
    """Each gets the profile, and each file is written."""

    @spprof.profile(interval_ms=1, output_path=tmp_path / "inner.json")
    def inner() -> None:
        work()

    @spprof.profile(interval_ms=1, output_path=tmp_path / "outer.json")
    def outer() -> None:
        inner()
        assert spprof.is_active()

    outer()
    assert inner.profile is outer.profile  # type: ignore[attr-defined]
    assert (tmp_path / "inner.json").read_bytes() == (tmp_path / "outer.json").read_bytes() != b""


def test_a_run_of_somebody_else_is_joined(work: Work, tmp_path: Path) -> None:
    """It is not stopped, and nothing is saved here."""

    @spprof.profile(output_path=tmp_path / "f.json")
    def joins() -> None:
        work()

    spprof.start(interval_ms=1)
    joins()
    assert spprof.is_active()
    assert "joins" in seen(spprof.stop())
    assert joins.profile is None  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []


def test_a_stop_in_between(work: Work) -> None:
    """Who stops our run has its profile; a run begun after that is not ours to stop."""

    @spprof.profile
    def stopped() -> None:
        spprof.stop()
        spprof.start()

    stopped()
    assert spprof.is_active()
    spprof.stop()
    assert stopped.profile is None  # type: ignore[attr-defined]


def test_coroutines(work: Work) -> None:
    """Creating one profiles nothing; awaiting it does, across its suspensions."""

    @spprof.profile(interval_ms=1)
    async def coroutine(value: int) -> int:
        work()
        await asyncio.sleep(0)
        assert spprof.is_active()
        return value

    assert inspect.iscoroutinefunction(coroutine)
    made = coroutine(7)
    assert not spprof.is_active()
    assert asyncio.run(made) == 7
    assert not spprof.is_active()
    assert "coroutine" in seen(coroutine.profile)  # type: ignore[attr-defined]


def test_tasks_share_a_run(work: Work) -> None:
    """Coroutines that take turns are one run."""

    @spprof.profile(interval_ms=1)
    async def task(turns: int) -> int:
        for _ in range(turns):
            work(1)
            await asyncio.sleep(0)
        return turns

    async def main() -> list[int]:
        return list(await asyncio.gather(*(task(turns) for turns in (1, 3, 5))))

    assert asyncio.run(main()) == [1, 3, 5]
    assert task.profile.sample_count >= 9  # type: ignore[attr-defined]


def test_generators(work: Work) -> None:
    """From the first step to the end; values, sent values and exceptions go through."""

    @spprof.profile(interval_ms=1)
    def generator() -> Generator[Any, Any, str]:
        work()
        got = yield 1
        try:
            yield got
        except KeyError:
            yield "caught"
        return "returned"

    assert inspect.isgeneratorfunction(generator)
    made = generator()
    assert not spprof.is_active()
    assert next(made) == 1
    assert spprof.is_active()
    assert made.send("sent") == "sent"
    assert made.throw(KeyError()) == "caught"
    with pytest.raises(StopIteration) as end:
        next(made)
    assert end.value.value == "returned"
    assert not spprof.is_active()
    assert "generator" in seen(generator.profile)  # type: ignore[attr-defined]


def test_a_generator_that_is_dropped(work: Work) -> None:
    """Its run ends with it."""

    @spprof.profile
    def endless() -> Generator[int, None, None]:
        while True:
            yield 1

    made = endless()
    next(made)
    assert spprof.is_active()
    del made
    gc.collect()
    assert not spprof.is_active()


def test_async_generators(work: Work) -> None:
    """As generators: sent values, exceptions, early end."""
    closed: list[str] = []

    @spprof.profile(interval_ms=1)
    async def generator() -> AsyncGenerator[Any, Any]:
        try:
            work()
            got = yield 1
            try:
                yield got
            except KeyError:
                yield "caught"
        finally:
            closed.append("closed")

    async def main() -> None:
        made = generator()
        assert not spprof.is_active()
        assert await made.__anext__() == 1
        assert spprof.is_active()
        assert await made.asend("sent") == "sent"
        assert await made.athrow(KeyError()) == "caught"
        with pytest.raises(StopAsyncIteration):
            await made.__anext__()
        assert not spprof.is_active()
        again = generator()
        await again.__anext__()
        await again.aclose()
        assert not spprof.is_active()
        assert [value async for value in generator()] == [1, None]

    assert inspect.isasyncgenfunction(generator)
    asyncio.run(main())
    assert closed == ["closed"] * 3
    assert "generator" in seen(generator.profile)  # type: ignore[attr-defined]


def test_fork_inside_a_call(run_program: Any) -> None:
    """The child leaves the call that its parent entered without stopping anything, and profiles its own calls."""
    program = """
        import os, spprof, threading
        from spprof import _decorator
        @spprof.profile(interval_ms=1)
        def forks():
            return os.fork()
        @spprof.profile(interval_ms=1)
        def own():
            while spprof.stats().collected_samples < 5:
                sum(range(1000))
        @spprof.profile(interval_ms=1)
        def spans_the_fork():
            yield os.fork()
        held, let_go = threading.Event(), threading.Event()
        def hold():
            with _decorator._shared.lock:
                held.set()
                let_go.wait()
        def forked_while_held():
            # A call is left in the child while the lock of the parent's run has a holder that the child does not have.
            call = _decorator._Call(_decorator._Target((10**6, "cpu", "auto", 2**20, None), None))
            call.target.wrapper = spans_the_fork
            call.__enter__()
            threading.Thread(target=hold).start()
            held.wait()
            child = os.fork()
            if child == 0:
                call.__exit__(None, None, None)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            let_go.set()
            call.__exit__(None, None, None)
        forked_while_held()
        left = spans_the_fork()
        if next(left) == 0:
            @spprof.profile(interval_ms=1)
            def leaves():
                assert spprof.is_active()
                left.close()  # a call of the parent's run ends here, within one of our own
                assert spprof.is_active()
            leaves()
            assert not spprof.is_active() and leaves.profile is not None
            os._exit(0)
        assert os.wait()[1] == 0
        left.close()
        child = forks()
        assert not spprof.is_active()
        own()
        own()
        assert own.profile.sample_count >= 5
        assert (forks.profile is None) == (child == 0)
        if child:
            assert os.waitpid(child, 0)[1] == 0
    """
    run_program(program)
