"""Running many agents at once: two mistakes of hand-made executors, and what to write instead."""

from __future__ import annotations

import asyncio

TASKS = ("a", "b", "c")


async def agent(task: str) -> str:
    """Answer after a while."""
    await asyncio.sleep(1)
    return task.upper()


async def broken_order() -> list[str]:
    """Append each result as it comes: results stand in the order of finishing and belong to other tasks."""
    results: list[str] = []

    async def run(task: str) -> None:
        results.append(await agent(task))

    await asyncio.gather(*map(run, TASKS))
    return results


async def fixed_order() -> list[str]:
    """Each result has a place of its own."""
    results = [""] * len(TASKS)

    async def run(i: int, task: str) -> None:
        results[i] = await agent(task)

    await asyncio.gather(*(run(i, task) for i, task in enumerate(TASKS)))
    return results


async def broken_stop() -> list[str]:
    """Stop at the first error with gather: the error comes out, the other agents run on, and are billed."""
    return await _stopped(use_group=False)


async def fixed_stop() -> list[str]:
    """Stop at the first error with a TaskGroup: the others are cancelled before the error comes out."""
    return await _stopped(use_group=True)


async def _stopped(*, use_group: bool) -> list[str]:
    """Return what was billed after the error came out."""
    billed: list[str] = []

    async def good(task: str) -> None:
        await asyncio.sleep(2)
        billed.append(task)

    async def bad() -> None:
        await asyncio.sleep(1)
        raise ValueError("no answer")

    before = 0
    try:
        if use_group:
            async with asyncio.TaskGroup() as group:
                for coro in (good("a"), bad(), good("c")):
                    group.create_task(coro)
        else:
            await asyncio.gather(good("a"), bad(), good("c"))
    except* ValueError:
        before = len(billed)
    await asyncio.sleep(10)  # the program goes on
    return billed[before:]
