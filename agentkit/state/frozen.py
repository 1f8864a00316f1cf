"""Immutable values: what state is made of.

A frozen value is deeply immutable, hashable, equal by value, and safe to read from any thread or task without a lock.
Lists become tuples, sets become frozensets, mappings become `FrozenDict`; a value that is already frozen is returned
unchanged, so freezing twice costs little. Opened by notebook 05.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import itertools
import operator
import pathlib
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn, Self, overload

__all__ = ["FrozenDict", "MessageLog", "freeze", "thaw"]

_ATOMS = (
    type(None), bool, int, float, complex, str, bytes, enum.Enum, type, datetime.date, datetime.time,
    datetime.timedelta, datetime.tzinfo, decimal.Decimal, fractions.Fraction, pathlib.PurePath, uuid.UUID,
)  # fmt: skip


def freeze(value: Any, name: str = "value") -> Any:
    """Return a deeply immutable value equal to `value`; `name` is its name in error messages.

    >>> freeze({"tags": ["a", "b"], "seen": {1, 2}})
    FrozenDict({'tags': ('a', 'b'), 'seen': frozenset({1, 2})})

    Frozen dataclasses pass if all their fields are immutable too. Raises `TypeError` for anything else, since an
    instance of your own class could be changed while other code is reading it.
    """
    try:
        return _freeze(value)
    except _CannotFreezeError as refused:
        raise TypeError(
            f"{name}{refused.path} must be immutable, got {refused.what}; "
            "store plain values (text, numbers, lists, dicts, sets) or a frozen dataclass of them"
        ) from None
    except RecursionError:
        raise ValueError(f"{name} must not contain itself, or be nested this deep; flatten it") from None


def thaw(value: Any) -> Any:
    """Return a deep, mutable copy: `FrozenDict` to dict, tuple and `MessageLog` to list, frozenset to set.

    >>> thaw(freeze({"tags": ["a", "b"]}))
    {'tags': ['a', 'b']}
    """
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return value  # a named tuple is a record, not a list
    if isinstance(value, tuple | MessageLog):
        return [thaw(item) for item in value]
    return set(value) if isinstance(value, frozenset) else value


class _CannotFreezeError(Exception):
    """Carries the way to the culprit, built from the inside out."""

    def __init__(self, what: str) -> None:
        self.what, self.path = what, ""


def _freeze(value: Any) -> Any:
    if type(value) is str or isinstance(value, (_ATOMS, FrozenDict, MessageLog)):
        return value
    if isinstance(value, Mapping):
        return FrozenDict.of_frozen({_freeze_at(key, key): _freeze_at(value[key], key) for key in value})
    if isinstance(value, list | tuple):
        items = [_freeze_at(item, i) for i, item in enumerate(value)]
        if isinstance(value, tuple) and all(map(operator.is_, items, value)):
            return value
        return value._make(items) if hasattr(value, "_make") else tuple(items)  # a named tuple keeps its names
    if isinstance(value, set | frozenset):
        return frozenset(_freeze(item) for item in value)
    if isinstance(value, bytearray):
        return bytes(value)
    if is_dataclass(value) and not isinstance(value, type):
        return _checked(value)
    raise _CannotFreezeError(f"an object of type {type(value).__name__}")


def _checked(record: Any) -> Any:
    name = type(record).__name__
    if not record.__dataclass_params__.frozen:
        raise _CannotFreezeError(f"{name}, a dataclass without frozen=True")
    for each in fields(record):
        value = getattr(record, each.name)
        if _freeze_at(value, each.name) is not value:
            raise _CannotFreezeError(f"{name}, whose field {each.name!r} holds a {type(value).__name__}")
    return record


def _freeze_at(value: Any, key: Any) -> Any:
    try:
        return _freeze(value)
    except _CannotFreezeError as refused:
        refused.path = f"[{key!r}]{refused.path}"
        raise


def _itself(value: Any, memo: Any = None) -> Any:
    """Copy an immutable value: there is no need for a second one."""
    return value


class FrozenDict(dict[Any, Any]):
    """An immutable dict: hashable, equal to the dict it was made from, and accepted wherever a dict is.

    >>> settings = FrozenDict(model="small", stop=["END"])
    >>> settings["model"] = "large"
    Traceback (most recent call last):
    TypeError: a FrozenDict cannot be changed; make a new one: {**old, key: value}

    A subclass of dict, so `json.dumps` and the openai client accept it.
    """

    __slots__ = ("_hash",)
    _hash: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__({_freeze(key): freeze(value, f"[{key!r}]") for key, value in dict(*args, **kwargs).items()})

    @classmethod
    def of_frozen(cls, frozen: dict[Any, Any]) -> Self:
        """Wrap a dict whose keys and values are already frozen."""
        new = cls.__new__(cls)
        dict.__init__(new, frozen)
        return new

    def __hash__(self) -> int:  # type: ignore[override]
        try:
            return self._hash
        except AttributeError:
            self._hash = hash(frozenset(self.items()))
            return self._hash

    def __repr__(self) -> str:
        return f"{type(self).__name__}({super().__repr__()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).of_frozen, (dict(self),)

    __copy__ = __deepcopy__ = _itself

    def __or__(self, other: Any) -> Self:
        return type(self)({**self, **other})

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be changed; make a new one: {{**old, key: value}}")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse


class MessageLog(Sequence[Any]):
    """An immutable sequence with appends in constant time; compares and hashes like a tuple.

    >>> one = MessageLog(["hello"])
    >>> two = one.append("world")
    >>> one, two, two[-1]
    (('hello',), ('hello', 'world'), 'world')

    Versions share one list and remember how much of it is theirs: appending to the newest version extends the list,
    appending to an older one copies it first (the method of Go's slices, made safe). So an old version keeps the items
    of its successors in memory.
    """

    __slots__ = ("_items", "_length", "_lock")

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self._items = [self._item(item, i) for i, item in enumerate(items)]  # shared by versions; it only grows
        self._lock = threading.Lock()  # two threads may extend the same newest version; one of them must copy
        self._length = len(self._items)

    @staticmethod
    def _item(item: Any, index: int) -> Any:
        """Return the immutable form of an item; a subclass may give its items a type of their own."""
        return freeze(item, f"item {index}")

    def append(self, item: Any) -> Self:
        """Return a version with one more item; this one does not change."""
        return self.__add__((item,))

    def __add__(self, other: Iterable[Any]) -> Self:
        frozen, new = [self._item(item, i) for i, item in enumerate(other, self._length)], type(self)()
        with self._lock:
            if len(self._items) == self._length:  # this is the newest version
                self._items.extend(frozen)
                new._items, new._lock = self._items, self._lock
            else:
                new._items = self._items[: self._length] + frozen
        new._length = self._length + len(frozen)
        return new

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return tuple(self._items[i] for i in range(*index.indices(self._length)))
        if not -self._length <= index < self._length:
            raise IndexError(f"index {index} is outside a log of {self._length}")
        return self._items[index % self._length]

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self._items, self._length)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, MessageLog) and other._items is self._items:
            return other._length == self._length
        return tuple(self) == tuple(other) if isinstance(other, MessageLog | tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (tuple(self),)

    __copy__ = __deepcopy__ = _itself
