"""Teams of agents on an executor.

`teams`: one after another, or concurrently. `coordinator`: a lead that plans and joins. `pipeline`: stages with queues
between them.
"""

from __future__ import annotations

from agentkit.agent import Agent
from agentkit.orchestration.coordinator import CoordinatorOrchestrator, RoutingError
from agentkit.orchestration.pipeline import Pipeline
from agentkit.orchestration.teams import AgentResult, ParallelOrchestrator, Results, SequentialOrchestrator
from agentkit.state import ConversationState

__all__ = [
    "Agent",
    "AgentResult",
    "ConversationState",
    "CoordinatorOrchestrator",
    "ParallelOrchestrator",
    "Pipeline",
    "Results",
    "RoutingError",
    "SequentialOrchestrator",
]
