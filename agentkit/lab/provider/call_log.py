"""What the provider received: one record per call, and the totals.

What it holds: `CallRecord`, `CallLog`, `ProviderStatistics`.
Guarantee: records in order of arrival; a log keeps the latest `log_size` calls, so its memory is bounded.
`arrivals == accepted + refused` and `accepted == completed + abandoned + in_flight + queue_depth`, at every instant.
Opened by notebook 08.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["CallLog", "CallRecord", "ProviderStatistics"]


@dataclass(slots=True)
class CallRecord:
    """One call, filled in as it proceeds. Times are the loop's seconds, None until they are known."""

    number: int
    """1 for the first to arrive; `x-request-id` ends with it."""
    arrived: float
    """When the request had been read."""
    endpoint: str = "chat"
    """`chat` or `responses`."""
    retry: int = 0
    """Number of earlier tries, from the client's `x-stainless-retry-count`."""
    model: str = ""
    """The model requested."""
    stream: bool = False
    """Whether the answer was streamed."""
    status: int = 0
    """HTTP status; 0 while undecided, and also at the end if the connection was cut."""
    outcome: str = "waiting"
    """`ok`, `waiting`, `abandoned` by the client, the name of an error, or the name of a fault."""
    started: float | None = None
    """When it got a slot."""
    first_token: float | None = None
    """When the first byte of the answer left."""
    finished: float | None = None
    """When the last byte left, or the call ended in some other way."""
    in_flight: int = 0
    """Requests in flight when this one started, itself included."""
    prompt_tokens: int = 0
    """Tokens of the prompt."""
    output_tokens: int = 0
    """Tokens of the answer."""
    charged_tokens: int = 0
    """Tokens charged on arrival."""


class CallLog(deque[CallRecord]):
    """The latest calls, oldest first. `to_frame()` converts them to a pandas frame."""

    def to_frame(self) -> Any:
        """One row per call, one column per field of `CallRecord`."""
        import pandas as pd

        return pd.DataFrame([asdict(call) for call in list(self)], columns=list(CallRecord.__slots__))

    def __repr__(self) -> str:
        return f"<CallLog of {len(self)} calls>"


@dataclass(frozen=True, slots=True)
class ProviderStatistics:
    """A provider at one instant; totals count from the start of its clock."""

    arrivals: int
    """Requests received."""
    accepted: int
    """Requests accepted."""
    completed: int
    """Requests answered to the end, damaged answers included."""
    abandoned: int
    """Requests whose client disconnected early; their tokens are charged all the same."""
    refused: Mapping[str, int]
    """Requests rejected, by the name of the error."""
    by_retry: Mapping[int, int]
    """Arrivals by number of earlier tries."""
    in_flight: int
    """Requests in flight now."""
    queue_depth: int
    """Requests waiting for a slot now."""
    peak_in_flight: int
    """The most requests ever in flight at once."""
    tokens_charged: int
    """Tokens charged on arrival of accepted requests, minus refunds."""
    tokens_used: int
    """Tokens that accepted requests cost."""
    requests_left: float
    """Requests that could be accepted now; infinite without a limit."""
    tokens_left: float
    """Tokens that could be accepted now; infinite without a limit."""
