"""State that agents share.

`conversation`: an immutable conversation and its messages. `frozen`: immutable values. `shared`: a value behind a lock,
or versioned.
"""

from __future__ import annotations

from agentkit.state.conversation import Conflict, ConversationState, Message
from agentkit.state.frozen import freeze
from agentkit.state.shared import SharedState, VersionedState

__all__ = ["Conflict", "ConversationState", "Message", "SharedState", "VersionedState", "freeze"]
