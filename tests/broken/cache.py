"""A cache in front of a model: looking, waiting and storing are three steps, so two agents pay for one answer."""

from __future__ import annotations

import asyncio

from agentkit.locks import KeyedLock

QUESTIONS = ("why", "why", "how")


class Model:
    """Counts what is billed."""

    def __init__(self) -> None:
        self.billed: list[str] = []

    async def ask(self, question: str) -> str:
        """Answer after a while, for money."""
        self.billed.append(question)
        await asyncio.sleep(1)
        return f"because of {question}"


async def broken() -> list[str]:
    """Check, then act, with a wait in between."""
    model, cache = Model(), {}

    async def agent(question: str) -> str:
        if question not in cache:
            cache[question] = await model.ask(question)
        return cache[question]

    await asyncio.gather(*map(agent, QUESTIONS))
    return sorted(model.billed)


async def fixed() -> list[str]:
    """Look again once you hold the lock of that question; other questions are not held up."""
    model, cache, locks = Model(), {}, KeyedLock("questions")

    async def agent(question: str) -> str:
        async with locks.hold(question):
            if question not in cache:
                cache[question] = await model.ask(question)
        return cache[question]

    await asyncio.gather(*map(agent, QUESTIONS))
    return sorted(model.billed)


async def fixed_without_lock() -> list[str]:
    """Store the promise instead of the answer: looking and storing are then one step."""
    model, cache = Model(), {}

    async def agent(question: str) -> str:
        if question not in cache:
            cache[question] = asyncio.create_task(model.ask(question))
        return await cache[question]

    await asyncio.gather(*map(agent, QUESTIONS))
    return sorted(model.billed)


def paid_once(billed: list[str]) -> bool:
    """No question was billed twice."""
    return billed == sorted(set(QUESTIONS))
