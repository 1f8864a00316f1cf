"""How much may be used: requests and LLM tokens per minute, and a budget of calls, tokens and money.

Rates: `rate` (the limiter, its queue, and permission for one call), `pacing` (when the next call may start),
`token_bucket` (the bucket that providers use).
What a provider says: `headers` (limits and waits read from a response), `pause` (no starts until a given time).
Budgets: `budget` (the limit, its queue and the claims), `spending` (amounts, prices and bounds).
"""

from __future__ import annotations

from agentkit.limits.budget import Budget, Claim
from agentkit.limits.headers import MAX_RETRY_AFTER, go_duration, headers_of, parse_rate_limits, retry_after
from agentkit.limits.pacing import NeverFits
from agentkit.limits.rate import RateLimiter, RateStatistics, Reservation, estimate_tokens
from agentkit.limits.spending import BudgetExceeded, BudgetStatistics, Spent, most_tokens
from agentkit.limits.token_bucket import TokenBucket

__all__ = [
    "MAX_RETRY_AFTER",
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
    "most_tokens",
    "parse_rate_limits",
    "retry_after",
]
