"""Locks for asyncio: one per key, and a way to force an order in a test.

What it holds: `KeyedLock` and `Sequencer`.
Guarantees: first come, first served; safe under cancellation; a `KeyedLock` forgets a key as soon as nobody needs it.
One event loop at a time; not for threads.
A lock binds only those who take it, and one held across a call to a model makes the agents take turns: what to do
instead is the subject of notebook 05, which opens this file.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agentkit.locks.order import LockOrder
from agentkit.locks.traced import LockSpan, TracedLock

__all__ = ["KeyedLock", "KeyedLockStatistics", "Sequencer", "SequencerStatistics"]


@dataclass(frozen=True, slots=True)
class KeyedLockStatistics:
    """A `KeyedLock` at one instant."""

    keys: int
    """Keys in use now; a key nobody holds or waits for takes no memory."""
    queue_depth: int
    """Tasks waiting now, all keys together."""
    peak_keys: int
    """The most keys ever in use at once."""
    acquisitions: int
    """How often a key was taken."""
    contended: int
    """How often a task had to wait, because another had the same key."""


class KeyedLock:
    """One lock per key: tasks with the same key take turns, others do not meet.

    >>> async def main():
    ...     locks = KeyedLock("documents")
    ...     async with locks.hold("a.txt"), locks.hold("b.txt"):
    ...         return list(locks), locks
    >>> asyncio.run(main())
    (['a.txt', 'b.txt'], <KeyedLock 'documents' 0 keys in use, 0 waiting, taken 2 times>)

    Each key's lock is a `TracedLock` that exists only while somebody holds it or waits for it. To hold two keys at
    once, take them in one order everywhere (sorted, say), or hand in a `LockOrder` that finds where you did not.
    """

    def __init__(self, name: str = "keys", *, order: LockOrder | None = None, keep: int = 10_000) -> None:
        self.name = name
        self._order = order
        self._locks: dict[Hashable, TracedLock] = {}
        self._users: dict[Hashable, int] = {}  # holders and waiters of each lock; the lock goes with the last one
        self._done: deque[LockSpan] = deque(maxlen=keep)
        self._peak = self._acquisitions = self._contended = 0

    @asynccontextmanager
    async def hold(self, key: Hashable) -> AsyncIterator[None]:
        """Hold `key` for the length of an `async with` block."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = TracedLock(f"{self.name}[{key!r}]", order=self._order)
            self._peak = max(self._peak, len(self._locks))
        self._users[key] = self._users.get(key, 0) + 1
        try:
            self._contended += lock.locked()
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
        return key in self._locks and self._locks[key].locked()

    @property
    def spans(self) -> list[LockSpan]:
        """Every stay at any of the keys so far, those still waiting or holding included."""
        live = [span for lock in self._locks.values() for span in lock.spans]
        return sorted([*self._done, *live], key=lambda span: span.requested)

    def statistics(self) -> KeyedLockStatistics:
        """Return how many keys are in use and how many tasks wait now, and the totals so far."""
        waiting = sum(lock.statistics().queue_depth for lock in self._locks.values())
        return KeyedLockStatistics(len(self._locks), waiting, self._peak, self._acquisitions, self._contended)

    def __len__(self) -> int:
        return len(self._locks)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(list(self._locks))

    def __repr__(self) -> str:
        now = self.statistics()
        use = f"{now.keys} keys in use, {now.queue_depth} waiting, taken {now.acquisitions} times"
        return f"<KeyedLock {self.name!r} {use}>"


@dataclass(frozen=True, slots=True)
class SequencerStatistics:
    """A `Sequencer` at one instant."""

    position: int
    """The position whose turn it is."""
    waiting: tuple[int, ...]
    """Positions that wait for their turn, in order."""
    broken: bool
    """Whether a position was cancelled while it waited, which no later one can make up for."""


class Sequencer:
    """A forced order for a test: the block at position n runs after the block at position n - 1 has ended.

    >>> async def main():
    ...     sequence, said = Sequencer(), []
    ...     async def late():
    ...         async with sequence(1):
    ...             said.append("late")
    ...     async def early():
    ...         async with sequence(0):
    ...             said.append("early")
    ...     await asyncio.gather(late(), early())
    ...     return said
    >>> asyncio.run(main())
    ['early', 'late']

    Each position is used once. If a waiting block is cancelled the order cannot be kept: the others get
    a `RuntimeError`. (After the `Sequencer` of trio's testing module.)
    """

    def __init__(self) -> None:
        self._position = 0
        self._used: set[int] = set()
        self._waiters: dict[int, asyncio.Future[None]] = {}
        self._broken = False

    @asynccontextmanager
    async def __call__(self, position: int) -> AsyncIterator[None]:
        """Wait for the turn of `position`, then run the block."""
        if position < 0 or position in self._used:
            why = "was used already" if position in self._used else "is negative"
            raise RuntimeError(f"position {position} {why}; count 0, 1, 2, ..., each once")
        self._used.add(position)
        if self._broken or position != self._position:
            await self._turn(position)
        try:
            yield
        finally:
            self._position = position + 1
            if self._position in self._waiters:
                self._waiters.pop(self._position).set_result(None)

    async def _turn(self, position: int) -> None:
        turn = self._waiters[position] = asyncio.get_running_loop().create_future()
        try:
            if not self._broken:
                await turn
        except asyncio.CancelledError:
            self._broken = True
            for waiter in self._waiters.values():
                if not waiter.done():
                    waiter.set_result(None)
            raise
        finally:
            self._waiters.pop(position, None)
        if self._broken:
            raise RuntimeError(f"position {position} can never come: an earlier one was cancelled; use a new Sequencer")

    def statistics(self) -> SequencerStatistics:
        """Return whose turn it is and who waits."""
        return SequencerStatistics(self._position, tuple(sorted(self._waiters)), self._broken)

    def __repr__(self) -> str:
        waiting = ", ".join(map(str, sorted(self._waiters))) or "nobody"
        return f"<Sequencer at {self._position}, waiting: {waiting}{', broken' * self._broken}>"
