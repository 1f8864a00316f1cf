"""What the provider saw: one row per call, and the sums.

What it holds: `CallRecord`, `CallLog`, `ProviderStatistics`, and `ProviderState`, which keeps the books of one run.
Guarantee: rows in the order of arrival; a log keeps the latest `log_size` calls and grows no further.
`arrivals == accepted + refused` and `accepted == completed + abandoned + in_flight + queue_depth`, at every instant.
Opened by notebook 08.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agentkit.lab.provider.quota import Limits, Quota
from agentkit.semaphore import CapacityLimiter

__all__ = ["CallLog", "CallRecord", "ProviderState", "ProviderStatistics"]


_REMEMBERED = 10_000  # distinct requests whose repeats are told apart


@dataclass(slots=True)
class CallRecord:
    """One call, filled in as it goes along. Times are the loop's seconds; None until they come."""

    number: int
    """1 for the first to arrive; `x-request-id` ends with it."""
    arrived: float
    """When the request had been read."""
    endpoint: str = "chat"
    """`chat` or `responses`."""
    retry: int = 0
    """How often the client had tried before, from its `x-stainless-retry-count`."""
    model: str = ""
    """The model asked for."""
    stream: bool = False
    """Whether the answer was streamed."""
    status: int = 0
    """HTTP status; 0 while undecided, and for ever where the connection was cut."""
    outcome: str = "waiting"
    """`ok`, `waiting`, `abandoned` by the client, the name of an error, or the name of a fault."""
    started: float | None = None
    """When a slot was free."""
    first_token: float | None = None
    """When the first byte of the answer left."""
    finished: float | None = None
    """When the last byte left, or the call ended otherwise."""
    in_flight: int = 0
    """Requests at work when this one started, itself included."""
    prompt_tokens: int = 0
    """Tokens of the prompt."""
    output_tokens: int = 0
    """Tokens of the answer."""
    charged_tokens: int = 0
    """Tokens charged on arrival."""


class CallLog(deque[CallRecord]):
    """The latest calls, oldest first. `to_frame()` makes a pandas frame of them."""

    def to_frame(self) -> Any:
        """One row per call, one column per field of `CallRecord`."""
        import pandas as pd

        return pd.DataFrame([asdict(call) for call in list(self)], columns=list(CallRecord.__slots__))

    def __repr__(self) -> str:
        return f"<CallLog of {len(self)} calls>"


@dataclass(frozen=True, slots=True)
class ProviderStatistics:
    """A provider at one instant; sums count from the start of its clock."""

    arrivals: int
    """Requests that came."""
    accepted: int
    """Those it took on."""
    completed: int
    """Those it answered to the end, damaged answers included."""
    abandoned: int
    """Those whose client left before the end; they are paid for all the same."""
    refused: Mapping[str, int]
    """Those it turned away, by the name of the error."""
    by_retry: Mapping[int, int]
    """Arrivals by how often the client had tried before."""
    in_flight: int
    """Requests at work now."""
    queue_depth: int
    """Requests waiting for a slot now."""
    peak_in_flight: int
    """The most requests ever at work at once."""
    tokens_charged: int
    """Tokens charged on arrival of what was accepted, less what was given back."""
    tokens_used: int
    """Tokens that accepted requests cost."""
    requests_left: float
    """Requests that could be accepted now; infinite without a limit."""
    tokens_left: float
    """Tokens that could be accepted now; infinite without a limit."""


class ProviderState:
    """All that begins anew when the provider meets a new clock."""

    def __init__(self, limits: Limits, slots: int | None, log_size: int, now: float) -> None:
        self.began = now
        self.quota, self.slots = Quota(limits, now), CapacityLimiter(slots)
        self.log = CallLog(maxlen=log_size)
        self.seen: OrderedDict[str, list[int]] = OrderedDict()
        self.refused: Counter[str] = Counter()
        self.by_retry: Counter[int] = Counter()
        self.arrivals = self.accepted = self.completed = self.abandoned = self.charged = self.used = 0

    def repeats(self, fingerprint: str) -> list[int]:
        """How often an equal request arrived and was accepted; the longest unseen are forgotten."""
        counts = self.seen.setdefault(fingerprint, [0, 0])
        self.seen.move_to_end(fingerprint)
        if len(self.seen) > _REMEMBERED:
            self.seen.popitem(last=False)
        return counts

    def statistics(self, now: float) -> ProviderStatistics:
        """The sums, and what the buckets and slots hold at `now`."""
        slots = self.slots.statistics()
        requests_left, tokens_left = self.quota.left(now)
        return ProviderStatistics(
            self.arrivals, self.accepted, self.completed, self.abandoned, dict(self.refused), dict(self.by_retry),
            slots.in_flight, slots.queue_depth, slots.peak_in_flight, self.charged, self.used,
            requests_left, tokens_left,
        )  # fmt: skip
