"""Two agents improve one summary: each starts from what it read, so one improvement disappears without a word."""

from __future__ import annotations

import asyncio

from agentkit.state import Conflict, VersionedState


async def improve(text: str, name: str) -> str:
    """Stand in for a call to a model."""
    await asyncio.sleep(1)
    return f"{text}+{name}"


async def broken() -> str:
    """Write whatever came out, over whatever is there by now."""
    notes = {"summary": "draft"}

    async def agent(name: str) -> None:
        old = notes["summary"]
        notes["summary"] = await improve(old, name)

    await asyncio.gather(agent("A"), agent("B"))
    return notes["summary"]


async def noticed() -> str:
    """Write only over the version that was read: the loser gets a `Conflict`, and nothing is lost in silence."""
    notes = VersionedState(summary="draft")
    refused = []

    async def agent(name: str) -> None:
        old, version = notes.get("summary")
        new = await improve(old, name)
        try:
            notes.set("summary", new, expected=version)
        except Conflict:
            refused.append(name)

    await asyncio.gather(agent("A"), agent("B"))
    return f"{notes.get('summary')[0]}, refused: {''.join(refused)}"


async def fixed() -> str:
    """Let the loser read again and redo its improvement."""
    notes = VersionedState(summary="draft")

    async def agent(name: str) -> None:
        async def change(old: str) -> str:
            return await improve(old, name)

        await notes.update_async("summary", change)

    await asyncio.gather(agent("A"), agent("B"))
    return str(notes.get("summary")[0])


def both(summary: str) -> bool:
    """Both improvements are in it."""
    return summary in ("draft+A+B", "draft+B+A")
