"""Retrying failed calls.

`policy`: the rules, and what one run has used of them. `failures`: which errors are worth a retry.
"""

from __future__ import annotations

from agentkit.retry.failures import classify
from agentkit.retry.policy import Attempts, Retries, RetryBudget, RetryPolicy, RetryStatistics

__all__ = ["Attempts", "Retries", "RetryBudget", "RetryPolicy", "RetryStatistics", "classify"]
