"""State that agents share.

`conversation`: immutable. `frozen`: all the way down. `shared`: behind a lock, or versioned.
"""

from __future__ import annotations

from agentkit.state.conversation import Conflict, ConversationState
from agentkit.state.frozen import freeze
from agentkit.state.shared import SharedState, SharedStatistics, VersionedState, VersionedStatistics

__all__ = [
    "Conflict",
    "ConversationState",
    "SharedState",
    "SharedStatistics",
    "VersionedState",
    "VersionedStatistics",
    "freeze",
]
