"""Teams of agents on an executor.

`teams`: one after another, or concurrently. `coordinator`: a lead that plans and joins; `routing` checks the plans.
`pipeline`: stages with queues between them; `stage` runs one of them. `turns`: what teams and coordinators share.
"""

from __future__ import annotations

from agentkit.agent import Agent
from agentkit.orchestration.coordinator import CoordinatorOrchestrator
from agentkit.orchestration.pipeline import Pipeline
from agentkit.orchestration.routing import RoutingError
from agentkit.orchestration.teams import ParallelOrchestrator, SequentialOrchestrator
from agentkit.orchestration.turns import AgentResult, Results
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
