"""How much may be used: requests and LLM tokens per minute, and a budget of calls, tokens and money.

Rates: `rate` (the limiter and its queue), `rate_schedule` (when the next call may start), `pacing` (how starts are
spread), `reservation` (what a caller is granted), `token_bucket` (the bucket that providers use).
What a provider says: `headers` (limits and waits read from a response), `pause` (no starts until then).
Budgets: `budget` (the limit, its queue and the claims), `spending` (amounts, prices and bounds).
"""

from __future__ import annotations

from agentkit.limits.budget import Budget, Claim
from agentkit.limits.headers import PATIENCE, go_duration, headers_of, limits_told, number, retry_after
from agentkit.limits.rate import RateLimiter
from agentkit.limits.reservation import NeverFits, RateStatistics, Reservation, estimate_tokens
from agentkit.limits.spending import BudgetExceeded, BudgetStatistics, Spent, most_tokens
from agentkit.limits.token_bucket import BucketStatistics, TokenBucket

__all__ = [
    "PATIENCE",
    "BucketStatistics",
    "Budget",
    "BudgetExceeded",
    "BudgetStatistics",
    "Claim",
    "NeverFits",
    "RateLimiter",
    "RateStatistics",
    "Reservation",
    "Spent",
    "TokenBucket",
    "estimate_tokens",
    "go_duration",
    "headers_of",
    "limits_told",
    "most_tokens",
    "number",
    "retry_after",
]
