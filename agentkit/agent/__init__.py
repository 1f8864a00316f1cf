"""Agents: any callable of one task, and one that asks a chat model.

`agent`: `Agent` and `ChatAgent`. `chat`: both APIs on the wire. `reply`: answers and their usage.
"""

from __future__ import annotations

from agentkit.agent.agent import Agent, ChatAgent
from agentkit.agent.chat import PerLoop
from agentkit.agent.reply import BrokenAnswer, Reply, Usage

__all__ = [
    "Agent",
    "BrokenAnswer",
    "ChatAgent",
    "PerLoop",
    "Reply",
    "Usage",
]
