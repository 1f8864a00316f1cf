"""Where workers wait until they are let on.

What it holds: `Gate`, first come, first served; like an event that wakes a chosen number of waiters.
"""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Gate"]


class Gate:
    """Coroutines wait here; somebody lets some, or all, of them on."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Wait to be let on."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def let_on(self, count: int | None = None) -> None:
        """Let the first `count` on; None for all."""
        left = len(self._waiting) if count is None else count
        while left and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # a cancelled one does not count
                turn.set_result(None)
                left -= 1

    def __repr__(self) -> str:
        return f"<Gate: {len(self._waiting)} waiting>"
