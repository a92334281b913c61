"""`@trace`: functions that a program marks itself.

In a scope they are traced as everything is. Outside of any they go into a graph of the process, which holds the marked
functions alone: their calls, times and which marked function called which. Its size is that of the marked contexts.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import types
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, Callable, Optional, TypeVar, Union, cast, overload

from . import _native
from ._trace_args import Capture, Redact, renamed, shortened
from .callgraph import CallGraph

Function = TypeVar("Function", bound=Callable[..., Any])

_lock = threading.Lock()
_marks: Optional[_native.TraceScope] = None
_used = False
_args = Capture()


@overload
def trace(function: Function) -> Function: ...
@overload
def trace(
    function: None = None, *, name: Optional[str] = None, include_args: bool = False, redact: Optional[Redact] = None
) -> Callable[[Function], Function]: ...
def trace(
    function: Optional[Function] = None,
    *,
    name: Optional[str] = None,
    include_args: bool = False,
    redact: Optional[Redact] = None,
) -> Union[Function, Callable[[Function], Function]]:
    """Marks a function, coroutine function, generator function or method; of a class, all functions defined in it.

    Args:
        function: the function or class.
        name: its name in graphs, in place of the qualified name.
        include_args: keep the arguments of its last calls outside of scopes (`CallNode.args`).
        redact: `redact(name, value)` gives what is shown in place of an argument's value.

    Raises:
        TypeError: it is nothing that can be traced.
    """
    if function is None:
        return lambda function: cast(Function, _marked(function, name, include_args, redact))
    return cast(Function, _marked(function, name, include_args, redact))


def _marked(thing: Any, name: Optional[str], include_args: bool, redact: Optional[Redact]) -> Any:
    if isinstance(thing, type):
        if name is not None:
            raise TypeError("a name can be given to a function, not to a class")
        for key, value in list(vars(thing).items()):
            if isinstance(value, (types.FunctionType, staticmethod, classmethod)):
                setattr(thing, key, _marked(value, None, include_args, redact))
        return thing
    if isinstance(thing, (staticmethod, classmethod)):
        return type(thing)(_marked(thing.__func__, name, include_args, redact))
    if not isinstance(thing, types.FunctionType):
        raise TypeError(f"@trace is for functions, methods and classes written in Python, not for {thing!r}")
    if name is not None:
        renamed[thing.__code__] = name
    return _wrapped(thing, _Marked(thing, name, include_args, redact))


class _Marked:
    """The mark of a function."""

    def __init__(self, function: types.FunctionType, name: Optional[str], include_args: bool, redact: Optional[Redact]) -> None:
        self.name = name or function.__qualname__
        self.mark = _native.Mark(function.__code__, function.__module__ or "", self.name)
        self.full_name = f"{function.__module__}.{self.name}"
        self.signature = inspect.signature(function) if include_args else None
        self.redact = redact

    def call(self, args: tuple[Any, ...], options: dict[str, Any]) -> _native.Mark:
        """A call begins outside of any scope."""
        global _used
        if not _used:
            _begin()
        if self.signature is not None:
            self._keep(self.signature, args, options)
        return self.mark

    def _keep(self, signature: inspect.Signature, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        try:
            bound = signature.bind(*args, **options)
        except TypeError:
            # The call will fail by itself.
            return
        capture = Capture(self.redact)
        text = ", ".join(f"{name}={capture._text(name, value)}" for name, value in bound.arguments.items())
        _args.keep(self.full_name, shortened(text))


def _begin() -> None:
    global _marks, _used
    with _lock:
        if _marks is None:
            _marks = _native._trace_marks()
        _used = True


def marked_graph() -> Optional[CallGraph]:
    """What the marked functions did outside of scopes; None when none was called."""
    return CallGraph(source=_marks.profile, args=_args) if _marks is not None and _used else None


def clear_marks() -> None:
    global _used
    with _lock:
        if _marks is not None:
            _marks.restart()
        _args.clear()
        _used = False


def _wrapped(function: Callable[..., Any], marked: _Marked) -> Callable[..., Any]:
    armed = _native._trace_is_armed
    wrapper: Callable[..., Any]
    if inspect.iscoroutinefunction(function):

        async def of_coroutine(*args: Any, **options: Any) -> Any:
            if armed():
                return await function(*args, **options)
            return await Steps(function(*args, **options), marked.call(args, options))

        wrapper = of_coroutine
    elif inspect.isasyncgenfunction(function):

        async def of_async_generator(*args: Any, **options: Any) -> AsyncGenerator[Any, Any]:
            mark = None if armed() else marked.call(args, options)
            generator: AsyncGenerator[Any, Any] = function(*args, **options)
            try:
                step: Any = generator.__anext__()
                resumed = False
                while True:
                    try:
                        item = await (step if mark is None else Steps(step, mark, resumed))
                    except StopAsyncIteration:
                        return
                    resumed = True
                    try:
                        step = generator.asend((yield item))
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        step = generator.athrow(error)
            finally:
                await generator.aclose()

        wrapper = of_async_generator
    elif inspect.isgeneratorfunction(function):

        def of_generator(*args: Any, **options: Any) -> Generator[Any, Any, Any]:
            if armed():
                return (yield from function(*args, **options))
            return (yield from steps(function(*args, **options), marked.call(args, options)))

        wrapper = of_generator
    else:

        def of_function(*args: Any, **options: Any) -> Any:
            if armed():
                return function(*args, **options)
            mark = marked.call(args, options)
            mark.enter(False)
            try:
                result = function(*args, **options)
            except BaseException as error:
                mark.leave(_how(error))
                raise
            mark.leave("return")
            return result

        wrapper = of_function
    return functools.wraps(function)(wrapper)


def _how(error: BaseException) -> str:
    exceptions = sys.modules.get("asyncio.exceptions")
    return "cancelled" if exceptions is not None and isinstance(error, exceptions.CancelledError) else "raised"


class Steps:
    """A coroutine whose steps are marked."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], mark: _native.Mark, resumed: bool = False) -> None:
        self._coroutine = coroutine
        self._mark = mark
        self._resumed = resumed

    def __await__(self) -> Generator[Any, Any, Any]:
        return steps(self._coroutine, self._mark, self._resumed)


def steps(inner: Any, mark: _native.Mark, resumed: bool = False) -> Generator[Any, Any, Any]:
    """A generator, or a coroutine's awaiting, with every step marked."""
    step: Callable[[], Any] = functools.partial(inner.send, None)
    while True:
        mark.enter(resumed)
        resumed = True
        try:
            item = step()
        except StopIteration as stop:
            mark.leave("return")
            return stop.value
        except StopAsyncIteration:
            mark.leave("return")
            raise
        except BaseException as error:
            mark.leave(_how(error))
            raise
        mark.leave("yield")
        try:
            step = functools.partial(inner.send, (yield item))
        except GeneratorExit:
            mark.enter(True)
            try:
                inner.close()
            finally:
                mark.leave("return")
            raise
        except BaseException as error:
            step = functools.partial(inner.throw, error)
