"""Whether, when and how often to try again.

`policy`: the rules. `retries`: what one run has used of them. `failures`: which errors may pass.
"""

from __future__ import annotations

from agentkit.retry.failures import classify
from agentkit.retry.policy import Attempts, RetryPolicy
from agentkit.retry.retries import Retries, RetryBudget, RetryStatistics

__all__ = [
    "Attempts",
    "Retries",
    "RetryBudget",
    "RetryPolicy",
    "RetryStatistics",
    "classify",
]
