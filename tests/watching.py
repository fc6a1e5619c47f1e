"""What is watched while tests run, and when.

Types are checked in the first calls of each function in each test, then in one of 64: in every call they take half of
the time; with the checks made at import, the first test has to wait. Coverage is measured while steelman's modules are
imported and in tests: pytest's own work and other libraries' imports take twice as long under a tracer.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, ModuleType
from typing import Any

import jaxtyping
from coverage import Coverage

FIRST, EVERY = 2, 64  # calls of a function in a test
INNER = 4  # functions made by the same lines inside of another function

_checked_always = jaxtyping.jaxtyped
_test = 0  # how many tests have begun
_inner: Counter[CodeType] = Counter()  # how many functions were made by these lines
_tracer: Coverage | None = None
_tracing = False
_types = True


def begin_test() -> None:
    """Each function's next calls count as its first."""
    global _test
    _test += 1


def jaxtyped(fn: Any = None, *, typechecker: Callable[..., Any] | None) -> Any:
    """In place of `jaxtyping.jaxtyped`, as its import hook uses it: around plain functions and classes.

    The check is made of the annotations when the function is first called. That takes milliseconds: of functions that
    are made again and again inside of others only the first few are checked.
    """
    if fn is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if isinstance(fn, type):
        init = vars(fn).get("__init__")
        if dataclasses.is_dataclass(fn) and not hasattr(init, "__wrapped__") and init is not None:
            fn.__init__ = jaxtyped(init, typechecker=typechecker)
        return fn
    if "<locals>" in fn.__qualname__:
        _inner[fn.__code__] += 1
        if _inner[fn.__code__] > INNER:
            return fn
    checked: Callable[..., Any] | None = None
    seen = calls = 0

    @functools.wraps(fn)
    def sometimes(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked, seen, calls
        if seen != _test:
            seen, calls = _test, 0
        calls += 1
        if (calls > FIRST and calls % EVERY) or not _types:
            return fn(*args, **kwargs)
        if checked is None:
            checked = _checked_always(fn, typechecker=typechecker)
        return checked(*args, **kwargs)

    return sometimes


def take_over_coverage() -> None:
    """Coverage begun by pytest-cov is measured from now on only where this module says so."""
    global _tracer
    _tracer = Coverage.current()
    if _tracer:
        _tracer.stop()


@contextmanager
def traced() -> Iterator[None]:
    """Coverage is measured until the end of the outermost."""
    global _tracing
    if _tracer is None or _tracing:
        yield
        return
    _tracing = True
    _tracer.start()
    try:
        yield
    finally:
        _tracer.stop()
        _tracing = False


@contextmanager
def types_unchecked() -> Iterator[None]:
    """No types are checked until the end."""
    global _types
    _types = False
    try:
        yield
    finally:
        _types = True


def with_coverage(exec_module: Callable[[Any, ModuleType], None]) -> Callable[[Any, ModuleType], None]:
    """A loader's method, with coverage measured."""

    @functools.wraps(exec_module)
    def traced_exec(loader: Any, module: ModuleType) -> None:
        with traced():
            exec_module(loader, module)

    return traced_exec
