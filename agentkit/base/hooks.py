"""The one way to call a function that the user supplied: an estimate, a key, a listener.

What it holds: `called`.
Guarantee: what such a function raises names it, and never looks like a cancellation or the end of an iterator to the
code that called it.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["called"]

P = ParamSpec("P")
T = TypeVar("T")


def called(name: str, hook: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return `hook(*args)`; what it raises gets a note that says whose it is.

    >>> try:
    ...     called("estimate of the budget", int, "many")
    ... except ValueError as error:
    ...     print(error.__notes__)
    ['raised by the estimate of the budget']
    """
    try:
        return hook(*args, **kwargs)
    except (CancelledError, StopIteration, StopAsyncIteration) as error:
        raise RuntimeError(f"the {name} raised {type(error).__name__}") from error
    except BaseException as error:
        try:
            error.add_note(f"raised by the {name}")
        except Exception:  # an exception that cannot be changed is raised as it is
            pass
        raise
