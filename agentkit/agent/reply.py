"""What an agent brings back from a model.

What it holds: `Reply`, `Usage`, and `BrokenAnswer`, for an answer that did not arrive whole.
Guarantees: usages add up; a broken answer keeps what did arrive, so that nothing paid for is lost.
Strategy: frozen records that know nothing of clients or endpoints.
Opened by notebook 01.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["BrokenAnswer", "Reply", "Usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What calls cost, in the provider's units. Usages add up.

    >>> (Usage(1, 900, 100) + Usage(1, 500, 60)).total_tokens
    1560
    """

    requests: int = 0
    """Requests the provider answered."""
    input_tokens: int = 0
    """Tokens of the prompts."""
    output_tokens: int = 0
    """Tokens of the answers."""

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer; `str(reply)` is its text."""

    text: str
    """What the model wrote."""
    usage: Usage | None = None
    """What it cost; None where the endpoint did not say."""
    model: str = ""
    """The model that answered."""
    finish_reason: str = "stop"
    """`stop`; `length` where `max_tokens` cut the answer off; `cut` where the connection did."""
    request_id: str | None = field(default=None, compare=False)
    """The endpoint's own id of the request, to find it in a log."""

    def __str__(self) -> str:
        return self.text


class BrokenAnswer(ConnectionError):
    """An answer with status 200 that cannot be read, or a stream that ended before its end.

    >>> BrokenAnswer("the stream ended early", Reply("Once upon", finish_reason="cut")).partial.text
    'Once upon'

    A `ConnectionError`, because it is one in all but name: trying again may help, and a `RetryPolicy` does.
    """

    partial: Reply
    """What had arrived."""

    def __init__(self, message: str, partial: Reply) -> None:
        super().__init__(message)
        self.partial = partial

    def __reduce__(self) -> tuple[type[BrokenAnswer], tuple[str, Reply]]:
        return type(self), (str(self), self.partial)
