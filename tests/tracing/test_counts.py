"""Programs with known numbers of calls: every count is exact, whatever the functions do to come and go."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import programs
import pytest
from programs import A, B, fib, fib_calls
from spprof.tracing import trace_scope


def counts(graph, *names):
    """Calls by name in this module's programs; 0 for what is not in the graph."""
    found = {node.qualname: node.call_count for node in graph.nodes.values() if node.module == "programs"}
    return [found.get(name, 0) for name in names] if names else found


def resumes(graph, name):
    rows = graph._to_native().contexts()
    return sum(values.get("resumes", 0) for _, _, qualname, values in rows if qualname.rpartition(".")[2] == name)


def test_plain_and_recursive_calls():
    with trace_scope() as graph:
        programs.middle(7)
        fib(12)
        programs.even(9)
    assert counts(graph, "leaf", "middle", "fib", "even", "odd") == [7, 1, fib_calls(12), 5, 5]
    fib_node = graph.nodes["programs.fib"]
    assert fib_node.primitive_calls == 1
    if sys.version_info >= (3, 12):  # Before, a list comprehension is a function of its own.
        assert graph.edges[("programs.middle", "programs.leaf")].call_count == 7
    assert graph.edges[("programs.fib", "programs.fib")].call_count == fib_calls(12) - 1


def test_the_time_of_recursion_counts_once():
    with trace_scope() as graph:
        fib(15)
    node = graph.nodes["programs.fib"]
    assert 0 < node.self_time <= node.total_time <= graph.duration


def test_methods_of_equal_name_are_two_functions():
    with trace_scope() as graph:
        for _ in range(3):
            A().run()
        B().run()
    assert counts(graph, "A.run", "B.run", "leaf") == [3, 1, 4]


def test_a_generator_is_one_call_with_resumes():
    with trace_scope() as graph:
        assert len(list(programs.numbers(5))) == 5
        assert len(list(programs.chained(4))) == 4
    # Five and four steps with a value, each with one more for the end.
    assert counts(graph, "numbers", "chained", "leaf") == [2, 1, 5 + 4]
    assert resumes(graph, "numbers") == 5 + 4
    assert resumes(graph, "chained") == 4


def test_generators_that_do_not_come_to_their_end():
    with trace_scope() as graph:
        stopped = programs.numbers(10)
        next(stopped)
        next(stopped)
        stopped.close()
        never = programs.numbers(3)
        never.close()
        programs.middle(1)
    assert counts(graph, "numbers", "leaf") == [1, 3]
    # Contexts are right again behind them.
    assert "programs.numbers" not in {edge.caller for edge in graph.edges if edge.callee == "programs.middle"}


def test_suspended_time_is_nobodys():
    with trace_scope() as graph:
        generator = programs.numbers(2)
        next(generator)
        programs.spin(200_000)
        next(generator)
    assert graph.nodes["programs.numbers"].total_time < graph.nodes["programs.spin"].total_time


def test_exceptions_and_unwinding():
    with trace_scope() as graph:
        for _ in range(4):
            programs.catches()
        with pytest.raises(ValueError):
            programs.fails()
        programs.leaf()
    assert counts(graph, "catches", "passes_on", "fails", "leaf") == [4, 4, 5, 5]
    exceptions = {}
    for _, _, name, values in graph._to_native().contexts():
        exceptions[name] = exceptions.get(name, 0) + values.get("exceptions", 0)
    assert (exceptions["fails"], exceptions["passes_on"], exceptions["catches"]) == (5, 4, 0)
    # What came after the exceptions was called by who really called it.
    assert ("programs.catches", "programs.leaf") in graph.edges


def test_a_raising_block_keeps_its_graph():
    with pytest.raises(ValueError), trace_scope() as graph:
        programs.middle(2)
        programs.fails()
    assert counts(graph, "leaf", "fails") == [2, 1]


def test_callbacks_from_c():
    with trace_scope() as graph:
        assert programs.sorts(50)[0] == 49
    assert counts(graph, "sorts", "key") == [1, 50]
    assert graph.edges[("programs.sorts", "programs.key")].call_count == 50


def test_c_functions_when_asked_for():
    with trace_scope(c_functions=True) as graph:
        programs.sorts(5)
    builtins = {node.qualname: node.call_count for node in graph.nodes.values() if node.kind == "builtin"}
    assert builtins["sorted"] == 1
    assert graph.edges[("builtins.sorted", "programs.key")].call_count == 5
    with trace_scope() as graph:
        programs.sorts(5)
    assert not [node for node in graph.nodes.values() if node.kind == "builtin"]


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_started_inside(threads):
    with trace_scope() as graph:
        workers = [threading.Thread(target=programs.middle, args=(20,)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert counts(graph, "middle", "leaf") == [threads, 20 * threads]


def test_pools_and_threads_that_ran_before():
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(programs.middle, [1] * 8)) == [1] * 8
        with trace_scope() as graph:
            assert list(pool.map(programs.middle, [3] * 10)) == [3] * 10
        pool.submit(programs.middle, 100).result()
    assert counts(graph, "middle", "leaf") == [10, 30]


def test_only_the_current_thread():
    with trace_scope(threads="current") as graph:
        worker = threading.Thread(target=programs.middle, args=(20,))
        worker.start()
        worker.join()
        programs.middle(1)
    assert counts(graph, "middle", "leaf") == [1, 1]


def test_many_short_threads_lose_nothing():
    with trace_scope() as graph:
        for _ in range(100):
            worker = threading.Thread(target=programs.leaf)
            worker.start()
            worker.join()
    assert counts(graph, "leaf") == [100]


def test_code_that_dies_meanwhile():
    with trace_scope() as graph:
        for i in range(200):
            namespace = {"__name__": "made"}
            exec(compile(f"def made_{i % 4}():\n    return {i}\nmade_{i % 4}()", "<made>", "exec"), namespace)
    made = [node for node in graph.nodes.values() if node.module == "made" and node.qualname != "<module>"]
    assert sum(node.call_count for node in made) == 200
    assert {node.qualname for node in made} == {f"made_{i}" for i in range(4)}


def test_self_times_add_up_to_the_scope():
    with trace_scope() as graph:
        programs.outer_spin(100_000)
        programs.fib(14)
        programs.spin(200_000)
    meta = graph._to_native().metadata()
    everything = sum(values["self_ns"] for *_, values in graph._to_native().contexts()) + meta["overhead_ns"]
    assert everything == pytest.approx(meta["duration_ns"], rel=0.01)
    spin = graph.nodes["programs.spin"]
    assert spin.self_time == pytest.approx(spin.total_time)
    outer = graph.nodes["programs.outer_spin"]
    assert outer.total_time >= graph.edges[("programs.outer_spin", "programs.spin")].total_time
