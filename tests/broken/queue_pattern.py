"""A queue between a producer and two workers: two ways to end that do not, and one that does."""

from __future__ import annotations

import asyncio

ITEMS = (1, 2, 3)


async def broken_empty() -> list[int]:
    """Workers go home when the queue is empty; it is also empty when the producer is late."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    done: list[int] = []

    async def producer() -> None:
        for item in ITEMS:
            queue.put_nowait(item)
            await asyncio.sleep(0)

    async def worker() -> None:
        await asyncio.sleep(0)
        while not queue.empty():
            done.append(await queue.get())
            await asyncio.sleep(0)

    await asyncio.gather(producer(), worker(), worker())
    return sorted(done)


async def broken_join() -> list[int]:
    """A worker that fails never says task_done, and the one who waits for join waits for ever."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    done: list[int] = []

    async def worker() -> None:
        while True:
            item = await queue.get()
            done.append(10 // (item - 1))  # item 1 fails
            queue.task_done()

    workers = [asyncio.create_task(worker()) for _ in range(2)]
    for item in ITEMS:
        queue.put_nowait(item)
    await queue.join()
    for each in workers:
        each.cancel()
    return sorted(done)


async def fixed() -> list[int]:
    """The producer says when it is over, once per worker; a failed item is noted and the worker lives on."""
    queue: asyncio.Queue[int | None] = asyncio.Queue(maxsize=2)
    done: list[int] = []

    async def producer() -> None:
        for item in ITEMS:
            await queue.put(item)
        for _ in range(2):
            await queue.put(None)

    async def worker() -> None:
        while (item := await queue.get()) is not None:
            try:
                done.append(10 // (item - 1) and item)
            except ZeroDivisionError:
                done.append(item)

    await asyncio.gather(producer(), worker(), worker())
    return sorted(done)
