"""One asyncio lock per key.

What it holds: `KeyedLock` and `KeyedLockStatistics`.
Guarantees: first come, first served; safe under cancellation; a key takes no memory while no task holds it or waits
for it. One event loop at a time; not thread-safe. Opened by notebook 05.
A lock protects only against tasks that take it too, and a lock held across a model call makes agents run one at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agentkit.base.arguments import hashable, instance, text, whole
from agentkit.locks.order import LockOrder
from agentkit.locks.traced import KEEP, LockSpan, TracedLock

__all__ = ["KeyedLock", "KeyedLockStatistics"]


@dataclass(frozen=True, slots=True)
class KeyedLockStatistics:
    """A `KeyedLock` at one instant."""

    keys: int
    """Keys in use now: those that a task holds or waits for."""
    queue_depth: int
    """Tasks waiting now, all keys together."""
    acquisitions: int
    """How often a key was taken."""


class KeyedLock:
    """One lock per key: tasks with the same key run one at a time, tasks with different keys do not wait.

    >>> import asyncio
    >>> async def main():
    ...     locks = KeyedLock("documents")
    ...     async with locks.hold("a.txt"), locks.hold("b.txt"):
    ...         return list(locks), locks
    >>> asyncio.run(main())
    (['a.txt', 'b.txt'], <KeyedLock 'documents' 0 keys in use, 0 waiting, taken 2 times>)

    Each key has a `TracedLock` that exists only while a task holds it or waits for it. To hold two keys at once, take
    them in the same order everywhere, for example sorted, or pass a `LockOrder`, which detects where you did not.
    """

    def __init__(self, name: str = "keys", *, order: LockOrder | None = None, keep: int = 10_000) -> None:
        self.name = text("name", name)
        self._order = instance("order", order, LockOrder, none=True)
        self._locks: dict[Hashable, TracedLock] = {}
        self._users: dict[Hashable, int] = {}  # holders and waiters of each lock; the last one deletes it
        self._done: deque[LockSpan] = deque(maxlen=whole("keep", keep, KEEP, least=0))
        self._acquisitions = 0

    @asynccontextmanager
    async def hold(self, key: Hashable) -> AsyncIterator[None]:
        """Hold `key` for the duration of an `async with` block."""
        lock = self._locks.get(hashable("key", key))
        if lock is None:
            lock = self._locks[key] = TracedLock(f"{self.name}[{key!r}]", order=self._order)
        self._users[key] = self._users.get(key, 0) + 1
        try:
            async with lock:
                self._acquisitions += 1
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]
                self._done.extend(lock.spans)

    def locked(self, key: Hashable) -> bool:
        """Whether a task holds `key`."""
        return hashable("key", key) in self._locks and self._locks[key].locked()

    @property
    def spans(self) -> list[LockSpan]:
        """The waits and holds of all keys so far, including those that have not ended."""
        live = [span for lock in self._locks.values() for span in lock.spans]
        return sorted([*self._done, *live], key=lambda span: span.requested)

    def statistics(self) -> KeyedLockStatistics:
        """Return how many keys are in use and how many tasks wait now, and totals."""
        waiting = sum(lock.statistics().queue_depth for lock in self._locks.values())
        return KeyedLockStatistics(len(self._locks), waiting, self._acquisitions)

    def __len__(self) -> int:
        return len(self._locks)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(list(self._locks))

    def __repr__(self) -> str:
        now = self.statistics()
        use = f"{now.keys} keys in use, {now.queue_depth} waiting, taken {now.acquisitions} times"
        return f"<KeyedLock {self.name!r} {use}>"
