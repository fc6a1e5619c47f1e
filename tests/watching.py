"""Types are checked in the first calls of each function in each test, then in one of 64.

Checked in every call, types take half of the time; with the checks made at import, the first test has to wait.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jaxtyping

FIRST, EVERY = 4, 64  # calls of a function in a test

_checked_always = jaxtyping.jaxtyped
_test = 0  # how many tests have begun


def begin_test() -> None:
    """Each function's next calls count as its first."""
    global _test
    _test += 1


def jaxtyped(fn: Any = None, *, typechecker: Callable[..., Any] | None) -> Any:
    """In place of `jaxtyping.jaxtyped`, as its import hook uses it: around plain functions and classes.

    The check is made of the annotations when the function is first called.
    """
    if fn is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if isinstance(fn, type):
        init = vars(fn).get("__init__")
        if dataclasses.is_dataclass(fn) and not hasattr(init, "__wrapped__") and init is not None:
            fn.__init__ = jaxtyped(init, typechecker=typechecker)
        return fn
    checked: Callable[..., Any] | None = None
    seen = calls = 0

    @functools.wraps(fn)
    def sometimes(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked, seen, calls
        if seen != _test:
            seen, calls = _test, 0
        calls += 1
        if calls > FIRST and calls % EVERY:
            return fn(*args, **kwargs)
        if checked is None:
            checked = _checked_always(fn, typechecker=typechecker)
        return checked(*args, **kwargs)

    return sometimes
