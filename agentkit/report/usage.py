"""Requests and tokens that calls used.

What it holds: `Usage`, which replies carry and reports add up.
Guarantee: the sum of usages is the usage of all their calls.
Strategy: a frozen record that is independent of clients and endpoints.
Opened by notebook 01.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Requests and tokens that calls used; add two of them with `+`.

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
