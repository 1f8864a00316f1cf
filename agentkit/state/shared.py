"""Mutable state that several agents share: behind one lock, or versioned.

What you read is frozen, so no other task or thread can change it. That prevents edits, not lost updates: if two writers
rebind one name, one update is lost. So a new value must be computed from the old one in one step (`SharedState`), or
be checked against it (`VersionedState`), or be merged by one owner (`ConversationState.merge`). Both are safe to use
from threads and tasks; no lock is ever held across an await. Opened by notebook 05.
"""

from __future__ import annotations

import inspect
import itertools
import math
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Generic, TypeVar

from agentkit.base.arguments import function, hashable, whole
from agentkit.state.conversation import Conflict
from agentkit.state.frozen import FrozenDict, freeze

__all__ = ["SharedState", "VersionedState"]

T = TypeVar("T")
_VERSION = "it is the version that get(key) returned, 0 for a key never written"


def _now(fn: Callable[[Any], Any], value: Any) -> Any:
    """Call a plain function; refuse one that returns an awaitable."""
    function("fn", fn, "write lambda old: ...", may_be_async=True)  # an async one has an error of its own below
    result = None if inspect.iscoroutinefunction(fn) else fn(value)
    if inspect.iscoroutinefunction(fn) or inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(
            f"fn must be a plain function, got the async {getattr(fn, '__name__', fn)!r}; no lock is held across an "
            "await, or one slow agent would stop all others: await first, then update(fn) with the answer"
        )
    return result


def _changed(fn: Callable[[Any], Any], old: Any) -> Any:
    """Return the new value, frozen; refuse a `fn` that edits in place and returns nothing."""
    new = _now(fn, old)
    if new is None and old is not None:
        raise TypeError("fn must return the new value, got None; write lambda old: {**old, ...}, not an edit in place")
    return freeze(new)


def _tries(attempts: int | None) -> Iterator[float]:
    """Return an iterator over the number of attempts left after each one."""
    attempts = whole("attempts", attempts, "use None to try until it works", none=True)
    return itertools.repeat(math.inf) if attempts is None else iter(range(attempts - 1, -1, -1))


class SharedState(Generic[T]):
    """One value behind one lock: change it with `update(fn)`, read it with `read()`.

    >>> tally = SharedState({"calls": 0})
    >>> for _ in range(3):
    ...     _ = tally.update(lambda old: {**old, "calls": old["calls"] + 1})
    >>> tally.read()["calls"]
    3

    `fn` is a plain function from the old value to the new one. It runs while the lock is held, so keep it short. Values
    are frozen: what you read never changes, and an edit in place raises an error. An async `fn` raises `TypeError`.
    """

    def __init__(self, value: T) -> None:
        self._value: T = freeze(value)
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._updates = self._contended = 0

    def read(self, fn: Callable[[T], Any] | None = None) -> Any:
        """Return the value, or `fn(value)`. Never waits: reading a frozen value needs no lock."""
        return self._value if fn is None else _now(fn, self._value)

    def update(self, fn: Callable[[T], T]) -> T:
        """Atomically replace the value by `fn(value)` and return it. If `fn` raises, nothing changes."""
        if self._owner == threading.get_ident():
            raise RuntimeError("update(fn) called inside an update(fn) of the same SharedState; do both in one fn")
        waited = not self._lock.acquire(blocking=False)
        if waited:
            self._lock.acquire()
        try:
            self._owner = threading.get_ident()
            self._contended += waited
            self._value = _changed(fn, self._value)
            self._updates += 1
            return self._value
        finally:
            self._owner = None
            self._lock.release()

    def __repr__(self) -> str:
        return f"<SharedState {self._value!r:.60}, {self._updates} updates, {self._contended} waited>"


class VersionedState:
    """A table with a version number per key; a write must name the version it read (compare-and-set).

    >>> notes = VersionedState(summary="draft")
    >>> value, version = notes.get("summary")
    >>> notes.set("summary", value + ", by A", expected=version)
    2
    >>> notes.set("summary", value + ", by B", expected=version)
    Traceback (most recent call last):
    agentkit.state.conversation.Conflict: key 'summary' is at version 2, expected 1; read it again ...

    No task waits: a lost update becomes an error you can see. (Optimistic concurrency control, like If-Match in HTTP.)
    A key that was never written is at version 0 with the value None. Values are frozen.
    """

    def __init__(self, **values: Any) -> None:
        self._table: dict[Any, tuple[Any, int]] = {key: (freeze(value, key), 1) for key, value in values.items()}
        self._lock = threading.Lock()  # held for one comparison and one store
        self._conflicts = 0

    def get(self, key: Any) -> tuple[Any, int]:
        """Return the value and its version; `(None, 0)` for a key that was never written."""
        return self._table.get(hashable("key", key), (None, 0))

    def set(self, key: Any, value: Any, *, expected: int) -> int:
        """Write if `key` is still at version `expected` and return the new version; otherwise raise `Conflict`."""
        value, expected = freeze(value, f"value of {key!r}"), whole("expected", expected, _VERSION, least=0)
        with self._lock:
            actual = self.get(key)[1]
            if actual == expected:
                self._table[key] = (value, actual + 1)
                return actual + 1
            self._conflicts += 1
        raise Conflict(
            f"key {key!r} is at version {actual}, expected {expected}; "
            "read it again and redo the change, or use update(fn)",
            key,
        )

    def update(self, key: Any, fn: Callable[[Any], Any], *, attempts: int | None = None) -> Any:
        """Set `key` to `fn(value)` and return it; after a conflict, read and try again, at most `attempts` times.

        `fn` is a plain function and may be called several times, so it should have no side effects.
        """
        tries = _tries(attempts)
        while True:
            value, version = self.get(key)
            new = _changed(fn, value)
            if self._stored(key, new, version, next(tries)):
                return new

    async def update_async(self, key: Any, fn: Callable[[Any], Awaitable[Any]], *, attempts: int | None = None) -> Any:
        """Like `update`, for an async `fn` such as a model call: it runs, and is billed, once more per conflict."""
        function("fn", fn, "write an async function of the old value", may_be_async=True)
        tries = _tries(attempts)
        while True:
            value, version = self.get(key)
            new = freeze(await fn(value), f"value of {key!r}")
            if self._stored(key, new, version, next(tries)):
                return new

    def snapshot(self) -> FrozenDict:
        """Return all values at one instant."""
        with self._lock:
            return FrozenDict.of_frozen({key: value for key, (value, _) in self._table.items()})

    def _stored(self, key: Any, new: Any, version: int, tries_left: float) -> bool:
        try:
            self.set(key, new, expected=version)
        except Conflict:
            if tries_left <= 0:
                raise
            return False
        return True

    def __repr__(self) -> str:
        keys = ", ".join(f"{key} {value!r:.30} v{version}" for key, (value, version) in [*self._table.items()][:4])
        return f"<VersionedState {keys or 'no keys'}{', …' * (len(self._table) > 4)}; {self._conflicts} conflicts>"
