"""Three agents add their answers to one history: a copy that is changed and stored back forgets the others."""

from __future__ import annotations

import asyncio

from agentkit.state import ConversationState, SharedState

NAMES = ("researcher", "critic", "writer")


async def answer(name: str) -> str:
    """Stand in for a call to a model."""
    await asyncio.sleep(1)
    return f"{name} has answered"


async def broken() -> list[str]:
    """Take the history, wait for the answer, store the longer history: the last one to store wins."""
    history: list[str] = []

    async def agent(name: str) -> None:
        nonlocal history
        so_far = list(history)
        so_far.append(await answer(name))
        history = so_far

    await asyncio.gather(*map(agent, NAMES))
    return sorted(history)


async def broken_though_immutable() -> list[str]:
    """An immutable state prevents edits, not lost updates: three writers still bind one name."""
    state = ConversationState()

    async def agent(name: str) -> None:
        nonlocal state
        state = state.add_message("assistant", await answer(name))

    await asyncio.gather(*map(agent, NAMES))
    return sorted(message["content"] for message in state.messages)


async def fixed() -> list[str]:
    """Wait first, then change the one shared value in one step."""
    shared = SharedState(ConversationState())

    async def agent(name: str) -> None:
        text = await answer(name)
        shared.update(lambda state: state.add_message("assistant", text, name=name))

    await asyncio.gather(*map(agent, NAMES))
    return sorted(message["content"] for message in shared.read().messages)


async def merged() -> list[str]:
    """Give each agent a branch of its own, and let one owner join them in the order of the input."""
    start = ConversationState().add_message("user", "Discuss.")

    async def agent(name: str) -> ConversationState:
        return start.add_message("assistant", await answer(name), name=name)

    state = start
    for branch in await asyncio.gather(*map(agent, NAMES)):
        state = state.merge(branch)
    return [message["content"] for message in state.messages[1:]]


def complete(history: list[str]) -> bool:
    """Nobody's answer is missing, and none is there twice."""
    return sorted(history) == sorted(f"{name} has answered" for name in NAMES)
