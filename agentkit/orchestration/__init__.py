"""Teams of agents on an executor.

`teams`: one after another, or side by side. `coordinator`: a lead who plans and joins; `routing` checks the plans.
`pipeline`: stages with queues between; `station` is one. `turns` and `turnlog`: what is common to all.
"""

from __future__ import annotations

from agentkit.agent import Agent
from agentkit.orchestration.coordinator import CoordinatorOrchestrator
from agentkit.orchestration.pipeline import Pipeline
from agentkit.orchestration.routing import RoutingError
from agentkit.orchestration.teams import OrchestratorStatistics, ParallelOrchestrator, SequentialOrchestrator
from agentkit.orchestration.turns import AgentResult, Results
from agentkit.state import ConversationState

__all__ = [
    "Agent",
    "AgentResult",
    "ConversationState",
    "CoordinatorOrchestrator",
    "OrchestratorStatistics",
    "ParallelOrchestrator",
    "Pipeline",
    "Results",
    "RoutingError",
    "SequentialOrchestrator",
]
