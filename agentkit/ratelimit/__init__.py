"""How many per minute: requests, and LLM tokens.

`limiter`: the queue of those who wait. `allowance`: when the first of them may start; `pacing`: how that is spread.
`reservation`: what a caller gets. `tokenbucket`: the bucket that providers use.
"""

from __future__ import annotations

from agentkit.ratelimit.limiter import RateLimiter
from agentkit.ratelimit.reservation import NeverFits, RateStatistics, Reservation, estimate_tokens
from agentkit.ratelimit.tokenbucket import BucketStatistics, TokenBucket

__all__ = [
    "BucketStatistics",
    "NeverFits",
    "RateLimiter",
    "RateStatistics",
    "Reservation",
    "TokenBucket",
    "estimate_tokens",
]
