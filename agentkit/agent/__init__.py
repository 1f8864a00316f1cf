"""Agents: any callable of one task, and one that asks a chat model.

`agent`: `Agent` and `ChatAgent`. `chat`: both APIs on the wire. `reply`: replies, and the error for a broken one.
"""

from __future__ import annotations

from agentkit.agent.agent import Agent, ChatAgent
from agentkit.agent.reply import BrokenAnswer, Reply

__all__ = ["Agent", "BrokenAnswer", "ChatAgent", "Reply"]
