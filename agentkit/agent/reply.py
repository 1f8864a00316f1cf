"""A model's reply, and the error for a reply that arrived incomplete.

Both are independent of clients and endpoints. Opened by notebook 01.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agentkit.base.arguments import check_fields, instance, text
from agentkit.report.usage import Usage

__all__ = ["BrokenAnswer", "Reply"]


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's reply; `str(reply)` is its text."""

    text: str
    """What the model wrote."""
    usage: Usage | None = None
    """Requests and tokens it used; None if the endpoint did not report them."""
    model: str = ""
    """The model that answered."""
    finish_reason: str = "stop"
    """`stop`; `length` if `max_tokens` truncated the answer; `cut` if the connection was lost."""
    request_id: str | None = field(default=None, compare=False)
    """The endpoint's id for the request, for looking it up in a log."""

    def __post_init__(self) -> None:
        check_fields(self, text, "text", "model", "finish_reason")
        check_fields(self, instance, "usage", kind=Usage, none=True)
        check_fields(self, text, "request_id", none=True)

    def __str__(self) -> str:
        return self.text


class BrokenAnswer(ConnectionError):
    """A response with status 200 that cannot be parsed, or a stream that ended before the answer was complete.

    >>> BrokenAnswer("the stream ended early", Reply("Once upon", finish_reason="cut")).partial.text
    'Once upon'

    It keeps the part that arrived, so output you paid for is not lost. A subclass of `ConnectionError`, because
    retrying may help; `RetryPolicy` treats it as transient.
    """

    partial: Reply
    """The part that arrived."""

    def __init__(self, message: str, partial: Reply) -> None:
        super().__init__(text("message", message))
        self.partial = instance("partial", partial, Reply)

    def __reduce__(self) -> tuple[type[BrokenAnswer], tuple[str, Reply]]:
        return type(self), (str(self), self.partial)
