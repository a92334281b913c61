"""Dead code objects stay until they are released, and then die as they would have: each program in its own process,
under the debug allocator, which overwrites what is freed."""

from __future__ import annotations

import sysconfig
import textwrap
from typing import Any

import pytest

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
DEBUG = {"PYTHONMALLOC": "debug"}

PRELUDE = """
import gc, json, os, sys, sysconfig, threading, weakref

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

def make(name, body="pass"):
    space = {}
    exec(compile(f"def {name}():\\n    {body}", f"<{name}>", "exec"), space)
    return space[name]

def die(count, prefix="f"):
    # The module code dies too: at least two objects each. Free-threaded builds free code when they collect.
    for number in range(count):
        make(f"{prefix}{number}")
    gc.collect()

def take_all():
    # The objects that died last have aged only after another event.
    die(1, "later")
    codes = probe.take()
    probe.release()
    return codes

# What start-up left behind is none of the tests' business.
gc.collect()
"""


@pytest.fixture
def run(run_with_probe: Any) -> Any:
    """Runs a program; gives the JSON of its last line."""

    def run(source: str, **options: Any) -> Any:
        return run_with_probe(PRELUDE + textwrap.dedent(source), env=DEBUG, **options).json

    return run


def test_dead_code_can_be_read_until_released(run: Any) -> None:
    """The point of it all: names and lines of code that no longer exists."""
    result = run("""
        probe.install()
        # A copy, because the code it was nested in keeps the first one alive.
        code = make("ephemeral", "x = 1; y = 2").__code__.replace(co_name="copy")
        address = id(code)
        name = probe.read(address, [0])[:2]
        del code
        gc.collect()
        assert probe.counts()[0] > 0, "nothing was deferred"
        taken = probe.take()
        # Free-threaded builds collect many at once, so that others may have died after it; they need no ageing.
        assert address not in taken or FREE_THREADED, "a frame that is being popped may still show it"
        die(1)
        assert address in taken + probe.take()
        die(300)
        assert probe.read(address, [0])[:2] == name, "the memory was used again"
        deferred, freed, kept = probe.counts()
        assert freed == 0 and kept == deferred > 300
        probe.release()
        die(1)
        assert probe.counts()[1] > 0, "nothing was freed after the release"
        try:
            again = probe.read(address, [0])[:2]
        except ValueError:
            again = None
        assert again != name, "still there"
        probe.uninstall()
        print(json.dumps(probe.counts()))
    """)
    deferred, freed, kept = result
    assert deferred == freed > 300
    assert kept == 0


def test_everything_is_freed(run: Any) -> None:
    """Nested functions, classes, weak references: all freed once, all callbacks called once."""
    deferred, freed, kept, called, made = run("""
        probe.install()
        called, references = [], []

        def callback(number):
            # Runs code, makes and kills code, while limbo is freeing.
            die(1, f"in_callback{number}_")
            called.append(number)

        source = "class C:\\n  def m(self):\\n    return [lambda: 1 for _ in 'abc']\\n  def n(self): return lambda: lambda: 2"
        for number in range(200):
            code = compile(source, f"<{number}>", "exec")
            references.append(weakref.ref(code, lambda _, number=number: callback(number)))
            exec(code, {})
            del code
            if number % 10 == 0:
                gc.collect()
                probe.take()
                probe.release()
        gc.collect()
        while len(called) < 200 and probe.counts()[2]:
            take_all()
        probe.uninstall()
        gc.collect()
        print(json.dumps([*probe.counts(), sorted(called), [r() is None for r in references].count(True)]))
    """)
    assert deferred == freed > 200
    assert kept == 0
    assert called == list(range(200))
    assert made == 200


def test_nudge_empties_limbo_when_nothing_dies_any_more(run: Any) -> None:
    deferred, freed, kept = run("""
        probe.install()
        die(500)
        gc.disable()
        while probe.counts()[2]:
            probe.nudge()
            probe.take()
            probe.release()
        print(json.dumps(probe.counts()))
        probe.uninstall()
    """)
    assert deferred == freed > 500
    assert kept == 0


def test_start_and_stop_many_times(run: Any) -> None:
    """Each stop frees everything and leaves the type as it was."""
    deferred, freed, _ = run("""
        before = probe.dealloc_slot()
        for cycle in range(300):
            probe.install()
            assert cycle % 2 or probe.install() is None, "installing twice is harmless"
            make("f")
            if cycle % 30 == 0:
                gc.collect()
                probe.take()
                probe.release()
            probe.uninstall()
            assert probe.counts()[2] == 0
            assert probe.dealloc_slot() == before
        print(json.dumps(probe.counts()))
    """)
    assert deferred == freed > 0


@pytest.mark.skipif(FREE_THREADED, reason="free-threaded builds use a watcher, not the slot")
def test_a_later_hook_is_respected(run: Any) -> None:
    """Somebody else hooks the slot after us: ours stays below, passes everything on, and never makes a circle."""
    assert run("""
        import ctypes
        from ctypes import c_void_p
        seen = []
        original = probe.dealloc_slot()
        probe.install()
        ours = probe.dealloc_slot()
        assert ours != original
        hook_type = ctypes.PYFUNCTYPE(None, c_void_p)
        pass_on = hook_type(ours)

        @hook_type
        def theirs(code):
            seen.append(code)
            pass_on(code)

        # Where the slot is: the only word of the type with our address in it.
        type_address = id(type(make.__code__))
        slot = next(c_void_p.from_address(type_address + at) for at in range(0, 400, 8)
                    if c_void_p.from_address(type_address + at).value == ours)
        theirs_address = ctypes.cast(theirs, c_void_p).value
        slot.value = theirs_address
        die(10)
        assert seen and probe.counts()[0] >= 10
        probe.uninstall()
        assert probe.dealloc_slot() == theirs_address, "not ours to change"
        assert probe.counts()[2] == 0
        deferred = probe.counts()[0]
        die(10)
        assert probe.counts()[0] == deferred, "closed"
        try:
            probe.install()
        except RuntimeError as error:
            message = str(error)
        slot.value = ours
        probe.install()
        die(10)
        assert probe.counts()[0] > deferred
        probe.uninstall()
        assert probe.dealloc_slot() == original
        print(json.dumps(message))
    """).startswith("another tool has replaced PyCode_Type.tp_dealloc")


def test_threads_churn(run: Any) -> None:
    """Threads make, run and drop code while another takes and releases, and limbo opens and closes."""
    deferred, freed, kept, right = run("""
        sys.setswitchinterval(1e-5)
        probe.install()
        stop = threading.Event()
        right = []

        def churn(thread):
            number = 0
            while not stop.is_set():
                number += 1
                function = make(f"t{thread}_{number}", f"return {number}")
                right.append(function() == number)
                if number % 50 == 0:
                    gc.collect()
                if number == 1500:
                    break

        threads = [threading.Thread(target=churn, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for address in probe.take():
                # Kept: so it must still be a code object with one of our names.
                name, file = probe.read(address, [0])[:2]
                assert name[:1] in b"t<", (name, file)
            probe.release()
            probe.nudge()
            if len(right) % 7 == 0:
                probe.uninstall()
                probe.install()
        for thread in threads:
            thread.join()
        probe.uninstall()
        print(json.dumps([*probe.counts(), right.count(True)]))
    """)
    assert right == 6000
    assert deferred == freed > 1000
    assert kept == 0


@pytest.mark.skipif(FREE_THREADED, reason="a watcher covers the interpreter it was added in")
def test_sub_interpreters(run: Any) -> None:
    """Code that dies in a sub-interpreter is kept and is freed there, also after the end of the session."""
    result = run("""
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        source = 'for n in range(COUNT): exec(compile(f"def f{n}(): pass", f"<sub{n}>", "exec"), {})'
        def run_in(interpreter, count):
            error = interpreters.run_string(interpreter, source.replace("COUNT", str(count)))
            assert error is None, error

        sub = interpreters.create()
        run_in(sub, 1)
        before = probe.dealloc_slot()
        probe.install()
        run_in(sub, 200)
        kept = probe.counts()[2]
        assert kept >= 200
        names = {probe.read(address, [])[1] for address in probe.take()}
        assert b"<sub100>" in names, names
        probe.release()
        freed = probe.counts()[1]
        die(5)
        take_all()
        main_freed = probe.counts()[1] - freed
        assert main_freed < 20, "the sub-interpreter's objects were freed in this one"
        run_in(sub, 5)
        assert probe.counts()[1] >= freed + 64
        probe.uninstall()
        assert probe.counts()[2] > 0, "what is left belongs to the sub-interpreter"
        run_in(sub, 10)
        run_in(sub, 10)
        assert probe.counts()[2] == 0
        probe.install()
        probe.uninstall()
        assert probe.dealloc_slot() == before
        probe.install()
        run_in(sub, 20)
        interpreters.destroy(sub)
        die(20)
        take_all()
        probe.uninstall()
        print(json.dumps(True))
    """)
    assert result is True


@pytest.mark.parametrize("busy", [False, True], ids=["quiet", "busy"])
def test_fork(run: Any, busy: bool) -> None:
    """A child defers nothing, frees what it was left with, and can start anew; the parent does not notice."""
    if busy and FREE_THREADED:
        pytest.skip("a child forked while another thread collects can not collect itself on this Python")
    result = run(f"""
        import warnings
        warnings.simplefilter("ignore")
        busy = {busy}
        sys.setswitchinterval(1e-5)
        probe.install()
        die(50)
        probe.take()
        probe.release()
        stop = threading.Event()

        def churn():
            while not stop.is_set():
                die(3)
                probe.take()
                probe.release()

        threads = [threading.Thread(target=churn) for _ in range(2 * busy)]
        for thread in threads:
            thread.start()
        statuses = []
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                try:
                    probe.after_fork_child()
                    deferred = probe.counts()[0]
                    die(10)
                    assert probe.counts()[0] == deferred
                    probe.uninstall()
                    assert probe.counts()[2] == 0
                    probe.install()
                    die(10)
                    assert probe.counts()[0] > deferred
                    take_all()
                    probe.uninstall()
                    os._exit(0)
                except BaseException:
                    import traceback
                    traceback.print_exc()
                finally:
                    os._exit(1)
            statuses.append(os.waitpid(pid, 0)[1])
        stop.set()
        for thread in threads:
            thread.join()
        take_all()
        probe.uninstall()
        deferred, freed, kept = probe.counts()
        assert deferred == freed > 50 and kept == 0
        assert set(statuses) == {{0}}, statuses
        print(json.dumps(statuses))
    """)
    assert result == [0] * 20


def test_exit_while_installed(run: Any) -> None:
    """An interpreter that ends with our hook in place ends well."""
    assert run("""
        import atexit
        probe.install()
        die(100)
        probe.take()
        atexit.register(die, 10)
        holder = [make(f"g{number}") for number in range(100)]
        sys.holder = holder
        print(json.dumps(probe.counts()[0] >= 100))
    """)
