"""A counter that several agents add to: read, wait, write loses updates; waiting first and writing after does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

AGENTS = 3


async def model() -> int:
    """Stand in for a call that takes a while."""
    await asyncio.sleep(1)
    return 1


async def broken() -> int:
    """Read before the wait, write after it: whoever wrote in between is overwritten."""
    total = 0

    async def agent() -> None:
        nonlocal total
        read = total
        total = read + await model()

    await asyncio.gather(*(agent() for _ in range(AGENTS)))
    return total


async def broken_in_one_line() -> int:
    """`total += await ...` looks like one step; Python reads `total` before it waits."""
    total = 0

    async def agent() -> None:
        nonlocal total
        total += await model()

    await asyncio.gather(*(agent() for _ in range(AGENTS)))
    return total


async def locked() -> int:
    """Right, but the lock is held across the wait, so the agents take turns."""
    total = 0
    lock = asyncio.Lock()

    async def agent() -> None:
        nonlocal total
        async with lock:
            read = total
            total = read + await model()

    await asyncio.gather(*(agent() for _ in range(AGENTS)))
    return total


async def fixed() -> int:
    """Wait first; read and write in one go, with no await between them."""
    total = 0

    async def agent() -> None:
        nonlocal total
        tokens = await model()
        total += tokens

    await asyncio.gather(*(agent() for _ in range(AGENTS)))
    return total


class Tally:
    """The same for threads. `add_broken` calls a function between read and write, where threads may change over."""

    def __init__(self, lock: Callable[[], object] | None = None) -> None:
        import threading

        self.total, self.lock = 0, threading.Lock()

    def add_broken(self) -> None:
        """Lose updates."""
        read = self.total
        for _ in range(20):  # a loop going back is where this interpreter lets another thread in
            pass
        self.total = read + 1

    def add_fixed(self) -> None:
        """Let one thread at a time in."""
        with self.lock:
            self.add_broken()
