"""What the user supplies: arguments are checked, functions called, and attributes read.

One function per kind of argument returns the value or raises a `TypeError` for a wrong type, a `ValueError` for a wrong
value, with parameter, rule, value and remedy. A bool is not a number; NumPy's numbers are, and become Python's.
What a function raises in `called` never looks like a cancellation or the end of an iterator to the code that called it.
"""

from __future__ import annotations

import inspect
import math
import sys
from asyncio import CancelledError
from collections.abc import Callable, Collection, Iterable
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

__all__ = [
    "attribute", "called", "check_fields", "choice", "function", "hashable", "instance", "items", "number", "read",
    "refusal", "seconds", "shown", "switch", "text", "whole",
]  # fmt: skip

P = ParamSpec("P")
T = TypeVar("T")
LARGEST = 1e100  # beyond it, and below its inverse, sums and quotients overflow


def shown(value: object) -> str:
    """Return a repr for a message: at most 80 characters, and never an error."""
    try:
        said = repr(value)
    except Exception:  # also Python's own for a whole number of more than 4,300 digits
        return f"an object of type {type(value).__name__} that has no repr"
    return said if len(said) <= 80 else said[:79] + "…"


def refusal(name: str, rule: str, value: object, remedy: str = "", kind: type[Exception] = ValueError) -> Exception:
    """Return the error for an argument.

    >>> refusal("limit", "must be 0 or more", -1, "use None for no limit")
    ValueError('limit must be 0 or more, got -1; use None for no limit')
    """
    return kind(f"{name} {rule}, got {shown(value)}" + (f"; {remedy}" if remedy else ""))


def number(
    name: str,
    value: Any,
    remedy: str = "",
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    none: bool = False,
) -> Any:
    """Return a finite number; `none` allows None.

    >>> number("timeout", 0, "use None for no limit", above=0)
    Traceback (most recent call last):
    ValueError: timeout must be above 0, got 0; use None for no limit
    """
    if value is None and none:
        return None
    figure = value
    if type(value) is not int and type(value) is not float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise refusal(name, "must be a number", value, remedy, TypeError)
        try:
            figure = int(value) if isinstance(value, Integral) else float(value)
        except OverflowError:  # a fraction beyond any float
            figure = math.inf
    if not -math.inf < figure < math.inf:
        raise refusal(name, "must be a finite number", value, remedy)
    return _in_range(name, figure, remedy, above, least, most)


def whole(
    name: str, value: Any, remedy: str = "", *, least: int | None = 1, most: int | None = None, none: bool = False
) -> Any:
    """Return a whole number; `none` allows None, and `least=None` any size, as for a seed.

    >>> whole("threads", 2.5, "leave it out for 4")
    Traceback (most recent call last):
    TypeError: threads must be a whole number, got 2.5; leave it out for 4
    """
    if value is None and none:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise refusal(name, "must be a whole number", value, remedy, TypeError)
    return int(value) if least is None else _in_range(name, int(value), remedy, None, least, most or sys.maxsize)


def seconds(name: str, value: Any) -> Any:
    """Return a time limit: seconds above 0; None or infinity for no limit."""
    if isinstance(value, float) and value == math.inf:
        return value
    return number(name, value, "give seconds, or None for no limit", above=0, none=True)


def _in_range(
    name: str, value: float, remedy: str, above: float | None, least: float | None, most: float | None
) -> float:
    most = LARGEST if most is None else most
    below = value <= above if above is not None else least is not None and value < least
    if not below and value <= most and abs(value) <= LARGEST and (above != 0 or value >= 1 / LARGEST):
        return value
    bounded = most < min(sys.maxsize, LARGEST)
    if above is not None and (below or bounded):
        rule = f"must be above {above:g}" + (f" and at most {_figure(most)}" if bounded else "")
    elif least is not None and below and not bounded:
        rule = f"must be {_figure(least)} or more"
    elif least is not None:
        rule = f"must be from {_figure(least)} to {_figure(most)}"
    else:
        rule = f"must be from {1 / LARGEST if above == 0 else -LARGEST:g} to {_figure(most)}"
    raise refusal(name, rule, value, remedy)


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def switch(name: str, value: Any) -> bool:
    """Return a bool; a string such as "False" would count as true."""
    if not isinstance(value, bool):
        raise refusal(name, "must be True or False", value, kind=TypeError)
    return value


def function(name: str, value: Any, remedy: str = "", *, none: bool = False, may_be_async: bool = False) -> Any:
    """Return a callable; `none` allows None."""
    if value is None and none:
        return None
    if not callable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise refusal(name, "must be a function", value, remedy, TypeError)
    if not may_be_async and (inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value)):
        raise refusal(name, "must be a plain function, not an async one", value, remedy, TypeError)
    return value


def choice(name: str, value: Any, choices: Collection[str], remedy: str = "") -> Any:
    """Return one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise refusal(name, f"must be one of {', '.join(choices)}", value, remedy)
    return value


def text(name: str, value: Any, remedy: str = "", *, empty: bool = True, none: bool = False) -> Any:
    """Return a string; `empty=False` refuses the empty one, `none` allows None."""
    if value is None and none:
        return None
    if not isinstance(value, str):
        raise refusal(name, "must be a string", value, remedy, TypeError)
    if not value and not empty:
        raise refusal(name, "must be a string that is not empty", value, remedy)
    return value


def instance(name: str, value: Any, kind: type[Any], remedy: str = "", *, none: bool = False) -> Any:
    """Return an object of type `kind`; `none` allows None."""
    if not (isinstance(value, kind) or (value is None and none)):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        remedy = remedy or f"make one with {kind.__name__}(...)"
        raise refusal(name, f"must be {article} {kind.__name__}", value, remedy, TypeError)
    return value


def items(name: str, value: Any, remedy: str = "") -> list[Any]:
    """Return the items of an iterable; a string is refused, since its letters are rarely meant."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise refusal(name, "must be a list or another iterable", value, remedy, TypeError)
    return list(value)


def hashable(name: str, value: Any) -> Any:
    """Return a value that can be a key."""
    try:
        hash(value)
    except TypeError:
        raise refusal(name, "must be hashable", value, "use a string, a number or a tuple", TypeError) from None
    return value


class _Checked:
    """A descriptor that checks what is assigned; without `__get__`, reading costs what any attribute costs."""

    def __init__(self, check: Callable[..., Any], rule: dict[str, Any]) -> None:
        self._check, self._rule = check, rule

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._name = name

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self._name] = self._check(self._name, value, **self._rule)


def attribute(check: Callable[..., Any], **rule: Any) -> Any:
    """An attribute that is checked each time it is assigned.

    >>> class Pool:
    ...     size: int = attribute(whole, least=1)
    >>> pool = Pool()
    >>> pool.size = 0
    Traceback (most recent call last):
    ValueError: size must be 1 or more, got 0
    """
    return _Checked(check, rule)


def check_fields(record: Any, check: Callable[..., Any], *names: str, **rule: Any) -> None:
    """Check fields of a frozen dataclass, in its `__post_init__`."""
    for name in names:
        object.__setattr__(record, name, check(name, getattr(record, name), **rule))


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
