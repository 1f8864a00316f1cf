"""Calling functions that the user supplied, and reading attributes of objects that the user or a library made.

What it holds: `called`, for an estimate, a key, a listener; `read`, for a status, a header, a usage.
Guarantee: what such a function raises names it, and never looks like a cancellation or the end of an iterator to the
code that called it. An attribute that raises counts as missing.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

__all__ = ["called", "read"]

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


def read(source: Any, name: str, default: Any = None) -> Any:
    """Return `source.name`; `default` if there is no such attribute, or if reading it raises an error.

    >>> read(3, "real"), read(3, "status_code")
    (3, None)
    """
    try:
        return getattr(source, name, default)
    except (Exception, CancelledError):  # a property of somebody else's class
        return default
