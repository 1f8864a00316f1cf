"""Two agents need two locks: taken in opposite orders, each can hold what the other waits for, for ever."""

from __future__ import annotations

import asyncio

from agentkit.locks import LockOrder, TracedLock


async def broken() -> str:
    """Works in asyncio's own order, and hangs when one answer comes at the wrong moment."""
    history, budget = asyncio.Lock(), asyncio.Lock()

    async def writer() -> None:
        async with history:
            await asyncio.sleep(0)
            async with budget:
                pass

    async def auditor() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        async with budget, history:
            pass

    await asyncio.gather(writer(), auditor())
    return "done"


async def fixed() -> str:
    """One order for everybody: history before budget."""
    history, budget = asyncio.Lock(), asyncio.Lock()

    async def writer() -> None:
        async with history:
            await asyncio.sleep(0)
            async with budget:
                pass

    async def auditor() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        async with history, budget:
            pass

    await asyncio.gather(writer(), auditor())
    return "done"


async def watched() -> str:
    """The broken one with a watcher: an error in the very first run, in an order in which nothing hangs."""
    order = LockOrder()
    history, budget = TracedLock("history", order=order), TracedLock("budget", order=order)

    async def writer() -> None:
        async with history:
            await asyncio.sleep(0)
            async with budget:
                pass

    async def auditor() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        async with budget, history:
            pass

    await asyncio.gather(writer(), auditor())
    return "done"
