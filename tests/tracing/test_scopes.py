"""Scopes: in each other, beside each other, read while open, limited; marked functions; other tools."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading

import programs
import pytest
from spprof import _native
from spprof.callgraph import load_graph
from spprof.tracing import CallTracer, clear_trace, get_current_graph, trace, trace_scope


def counts(graph, *names):
    found = {node.qualname: node.call_count for node in graph.nodes.values() if node.module == "programs"}
    return [found.get(name, 0) for name in names]


def test_a_scope_in_a_scope():
    with trace_scope() as outer:
        programs.middle(2)
        with trace_scope() as inner:
            programs.middle(3)
            assert get_current_graph() is inner
        assert get_current_graph() is outer
        programs.leaf()
    assert counts(inner, "middle", "leaf") == [1, 3]
    assert counts(outer, "middle", "leaf") == [2, 6]
    assert inner.duration <= outer.duration
    assert get_current_graph() is None


def test_scopes_side_by_side_in_threads():
    meet = threading.Barrier(2)
    graphs = {}

    def work(times):
        with trace_scope(threads="current") as graph:
            meet.wait()
            programs.middle(times)
            meet.wait()
        graphs[times] = graph

    workers = [threading.Thread(target=work, args=(times,)) for times in (3, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [counts(graphs[times], "leaf") for times in (3, 5)] == [[3], [5]]


def test_the_graph_is_read_while_it_fills():
    with trace_scope() as graph:
        programs.leaf()
        assert counts(graph, "leaf") == [1]
        programs.leaf()
        assert counts(graph, "leaf") == [2]
        duration = graph.duration
        assert graph.nodes[f"{__name__}.test_the_graph_is_read_while_it_fills"].call_count == 0
    assert graph.duration >= duration
    frozen = graph.duration
    programs.leaf()
    assert counts(graph, "leaf") == [2] and graph.duration == frozen


def test_another_thread_reads():
    seen = []
    with trace_scope():
        programs.middle(4)
        reader = threading.Thread(target=lambda: seen.append(counts(get_current_graph(), "leaf")))
        reader.start()
        reader.join()
    assert seen == [[4]]


def test_a_scope_opened_deep_down_shows_what_is_below():
    def deep(n):
        if n:
            return deep(n - 1)
        with trace_scope() as graph:
            programs.leaf()
        return graph

    graph = deep(20)
    roots = graph.call_tree().children
    assert [root.node.qualname.rpartition(".")[2] for root in roots] == ["deep"]
    assert [child.name for child in roots[0].children] == ["programs.leaf"]


def test_start_and_stop_in_other_functions():
    tracer = CallTracer()

    def begin():
        tracer.start()
        tracer.start()

    def end():
        tracer.stop()
        tracer.stop()

    begin()
    programs.middle(3)
    end()
    graph = tracer.get_graph()
    assert counts(graph, "middle", "leaf") == [1, 3]
    callers = {edge.caller for edge in graph.edges if edge.callee == "programs.middle"}
    assert callers == {f"{__name__}.test_start_and_stop_in_other_functions"}
    statistics = tracer.get_statistics()
    assert statistics["total_calls"] >= 4 and statistics["wall_time"] > 0 and statistics["threads"] == 1
    assert statistics["top_total"][0][1] >= statistics["top_total"][-1][1]
    tree = {node.name: node for _, node in tracer.get_call_tree().walk()}
    assert tree["programs.leaf"].call_count == 3


def test_a_tracer_that_is_off():
    tracer = CallTracer(enabled=False)
    with tracer:
        assert not _native._trace_is_armed()
        programs.leaf()
    assert not tracer.get_graph().nodes


def test_include_and_exclude():
    with trace_scope(include_modules="programs") as graph:
        programs.middle(2)
        inspect.signature(programs.middle)
    assert counts(graph, "leaf") == [2]
    assert {node.module for node in graph.nodes.values()} == {"programs", __name__}
    with trace_scope(exclude_modules=["*/programs.py"]) as graph:
        programs.middle(2)
        inspect.signature(programs.middle)
    assert counts(graph, "leaf", "middle") == [0, 0]
    assert any(node.module == "inspect" for node in graph.nodes.values())


def test_excluded_time_is_the_callers():
    with trace_scope(exclude_modules="programs") as graph:
        programs.spin(300_000)
    (node,) = graph.nodes.values()
    assert node.self_time == pytest.approx(graph.duration, rel=0.05)


def test_filters_of_scopes_in_each_other():
    with trace_scope(include_modules="inspect") as outer:
        programs.leaf()
        with trace_scope() as inner:
            programs.middle(3)
        programs.leaf()
    assert counts(inner, "leaf") == [3]
    assert counts(outer, "leaf") == [0]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="before 3.12 events cannot be switched off for a function")
def test_filtered_code_is_switched_off():
    with trace_scope(include_modules="nothing.at.all"):
        programs.leaf()
        heard = []
        monitoring = sys.monitoring
        slot = next(slot for slot in range(6) if monitoring.get_tool(slot) == "spprof")
        mine = monitoring.register_callback(slot, monitoring.events.PY_START, lambda code, _: heard.append(code))
        programs.leaf()
        monitoring.register_callback(slot, monitoring.events.PY_START, mine)
    assert programs.leaf.__code__ not in heard


def test_depth_limit():
    with trace_scope(max_depth=3) as graph:
        programs.passes_twice = lambda: programs.middle(5)
        programs.even(20)
    depths = [depth for depth, _ in graph.call_tree().walk()]
    # The root of the tree, the test's own function, and three calls.
    assert max(depths) == 4
    assert sum(counts(graph, "even", "odd")) == 3
    with trace_scope(max_depth=1) as graph:
        programs.middle(3)
    assert counts(graph, "middle", "leaf") == [1, 0]


def test_minimum_duration():
    with trace_scope(min_duration_ms=10_000) as graph:
        programs.middle(5)
    assert counts(graph, "middle", "leaf") == [0, 0]
    assert graph.metadata["losses"]["short_calls"] >= 6
    assert graph.total_time == pytest.approx(graph.duration, rel=0.2)


def test_scopes_that_are_not_sampled():
    with trace_scope(sampling_rate=0.0) as graph:
        programs.leaf()
        assert not _native._trace_is_armed()
    assert not graph.nodes


def test_a_full_tree_is_counted_and_keeps_its_time():
    with trace_scope(memory_limit_mb=0.001) as graph:
        namespace = {"__name__": "many"}
        source = (
            "\n".join(f"def f{i}(): pass" for i in range(300))
            + "\nfor f in [f for n, f in globals().items() if n[0] == 'f']: f()"
        )
        exec(compile(source, "<many>", "exec"), namespace)
    assert graph.metadata["losses"]["tree_full"] > 100
    assert len(graph.nodes) < 200


def test_clear_keeps_tracing():
    with trace_scope() as graph:
        programs.middle(5)
        clear_trace()
        programs.middle(2)
    assert counts(graph, "middle", "leaf") == [1, 2]


def test_arguments_are_kept_when_asked_for():
    with trace_scope() as graph:
        programs.middle(1)
    assert graph.nodes["programs.middle"].args == []
    with trace_scope(include_args=True) as graph:
        for times in range(7):
            programs.middle(times)
        programs.A().run()
    assert graph.nodes["programs.middle"].args == [f"times={times}" for times in range(2, 7)]
    assert graph.nodes["programs.A.run"].args[0].startswith("self=<programs.A object")
    hidden = trace_scope(include_args=True, redact=lambda name, value: "***" if name == "times" else value)
    with hidden as graph:
        programs.middle(12345)
    assert graph.nodes["programs.middle"].args == ["times='***'"]


def test_arguments_that_cannot_be_shown():
    class Sulks:
        def __repr__(self):
            raise RuntimeError("no")

    def takes(thing, *more, **others):
        return thing

    with trace_scope(include_args=True) as graph:
        takes(Sulks(), "x" * 1000, y=1)
    (node,) = [node for node in graph.nodes.values() if node.name == "takes"]
    assert node.args[0].startswith("thing=<Sulks: RuntimeError>, more=('xxx") and len(node.args[0]) <= 100


@pytest.mark.parametrize(
    "options",
    [
        {"threads": "some"},
        {"sampling_rate": 2},
        {"max_depth": 0},
        {"min_duration_ms": -1},
        {"memory_limit_mb": 0},
        {"output_file": "graph.unknown"},
    ],
)
def test_bad_options_before_anything_runs(options):
    with pytest.raises(ValueError):
        trace_scope(**options)


def test_unknown_options():
    with pytest.raises(TypeError):
        trace_scope(no_such_option=1)
    with pytest.raises(TypeError):
        CallTracer(include_modules=[1])


def test_entering_the_same_scope_twice():
    scope = trace_scope()
    with scope, pytest.raises(RuntimeError, match="open already"):
        scope.__enter__()
    with scope as graph:
        programs.leaf()
    assert counts(graph, "leaf") == [1]


def test_a_file_at_the_end(tmp_path):
    with pytest.raises(ValueError, match="planned"), trace_scope(tmp_path / "graph.json"):
        programs.middle(2)
        programs.fails()
    assert counts(load_graph(tmp_path / "graph.json"), "leaf", "fails") == [2, 1]
    with trace_scope(str(tmp_path / "trace.spprof")) as graph:
        programs.middle(2)
    assert load_graph(tmp_path / "trace.spprof").nodes.keys() == graph.nodes.keys()


# --- marks ---


@trace
def marked(n):
    return inner_mark(n) + 1


@trace(name="renamed")
def inner_mark(n):
    if n < 0:
        raise ValueError("negative")
    return n


@trace
class Marked:
    def method(self):
        return marked(1)

    @staticmethod
    def static():
        return 2

    @classmethod
    def of_class(cls):
        return cls


@trace
def marked_numbers(n):
    for i in range(n):
        yield marked(i)


@pytest.fixture
def no_marks():
    clear_trace()
    yield
    clear_trace()


def mark_counts(graph):
    return {node.qualname: node.call_count for node in graph.nodes.values()}


def test_marks_outside_of_scopes(no_marks):
    assert get_current_graph() is None
    assert marked(1) == 2
    with pytest.raises(ValueError):
        marked(-1)
    assert Marked().method() == 2 and Marked.static() == 2 and Marked.of_class() is Marked
    assert list(marked_numbers(3)) == [1, 2, 3]
    graph = get_current_graph()
    assert mark_counts(graph) == {
        "marked": 6,
        "renamed": 6,
        "Marked.method": 1,
        "Marked.static": 1,
        "Marked.of_class": 1,
        "marked_numbers": 1,
    }
    assert graph.edges[(f"{__name__}.Marked.method", f"{__name__}.marked")].call_count == 1
    assert not _native._trace_is_armed()
    clear_trace()
    assert get_current_graph() is None


def test_marks_of_threads(no_marks):
    workers = [threading.Thread(target=marked, args=(1,)) for _ in range(5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert mark_counts(get_current_graph()) == {"marked": 5, "renamed": 5}


def test_marks_in_a_scope_are_traced_once(no_marks):
    with trace_scope() as graph:
        marked(1)
    found = mark_counts(graph)
    assert found["marked"] == 1 and found["renamed"] == 1
    assert get_current_graph() is None


def test_marks_keep_the_function_as_it_is():
    assert marked.__name__ == "marked" and marked.__wrapped__.__name__ == "marked"
    assert inspect.isgeneratorfunction(marked_numbers)
    for thing in (3, len, [].append):
        with pytest.raises(TypeError):
            trace(thing)


# --- others ---


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring")
def test_all_slots_taken():
    monitoring = sys.monitoring
    taken = [slot for slot in range(6) if monitoring.get_tool(slot) is None]
    for slot in taken:
        monitoring.use_tool_id(slot, f"tool-{slot}")
    try:
        with pytest.raises(RuntimeError, match="tool-2"), trace_scope():
            pass
    finally:
        for slot in taken:
            monitoring.free_tool_id(slot)
    with trace_scope() as graph:
        programs.leaf()
    assert counts(graph, "leaf") == [1]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring")
def test_other_tools_keep_working():
    monitoring = sys.monitoring
    heard = []
    monitoring.use_tool_id(2, "another")
    try:
        monitoring.register_callback(2, monitoring.events.PY_START, lambda code, _: heard.append(code))
        monitoring.set_events(2, monitoring.events.PY_START)
        with trace_scope() as graph:
            programs.middle(3)
        programs.leaf()
    finally:
        monitoring.set_events(2, 0)
        monitoring.free_tool_id(2)
    assert heard.count(programs.leaf.__code__) == 4
    assert counts(graph, "leaf") == [3]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the profile hook")
def test_the_hook_is_taken():
    sys.setprofile(lambda *_: None)
    try:
        with pytest.raises(RuntimeError, match="another tool"), trace_scope():
            pass
    finally:
        sys.setprofile(None)


def test_a_fork_ends_the_trace_in_the_child(run_program):
    result = run_program(
        """
        import os, sys, json
        from spprof import _native
        from spprof.tracing import trace_scope

        def leaf(): pass

        with trace_scope() as graph:
            leaf()
            child = os.fork()
            leaf()
            if not child:
                assert not _native._trace_is_armed()
                assert sys.getprofile() is None
                with trace_scope() as own:
                    leaf()
                assert own.nodes["__main__.leaf"].call_count == 1
                os._exit(7)
            _, status = os.waitpid(child, 0)
        print(json.dumps([os.WEXITSTATUS(status), graph.nodes["__main__.leaf"].call_count]))
        """
    )
    assert result.json == [7, 2]


def test_the_interpreter_ends_inside_a_scope(run_program):
    run_program(
        """
        import sys, threading, time
        from spprof.tracing import CallTracer

        def busy():
            while True:
                sum(range(10))

        threading.Thread(target=busy, daemon=True).start()
        tracer = CallTracer()
        tracer.start()
        sys.exit(5)
        """,
        expect_rc=5,
    )


def test_importing_the_tracer_is_light():
    program = "import sys, spprof.tracing; print(sorted({'asyncio', 'networkx', 'numpy', 'scipy', 'click'} & set(sys.modules)))"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.check_output([sys.executable, "-c", program], env=environment, text=True).strip() == "[]"
