"""A budget of 100 tokens and three agents that need 40 each, checked before the call and charged after it."""

from __future__ import annotations

import asyncio

LIMIT, COST = 100, 40


async def broken() -> int:
    """Everyone sees money in the purse before anyone has paid."""
    spent = 0

    async def agent() -> None:
        nonlocal spent
        if spent + COST <= LIMIT:
            await asyncio.sleep(1)
            spent += COST

    await asyncio.gather(agent(), agent(), agent())
    return spent


async def fixed() -> int:
    """Reserve before the call, in the same step as the check; hand back what was not used."""
    reserved = 0

    async def agent() -> None:
        nonlocal reserved
        if reserved + COST > LIMIT:
            return
        reserved += COST
        try:
            await asyncio.sleep(1)
        except BaseException:
            reserved -= COST
            raise

    await asyncio.gather(agent(), agent(), agent())
    return reserved


def within(spent: int) -> bool:
    """No more was spent than there was."""
    return spent <= LIMIT
