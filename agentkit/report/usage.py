"""Requests and tokens that calls used.

A frozen record, independent of clients and endpoints, that replies carry and reports add up. Opened by notebook 01.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentkit.base.arguments import check_fields, whole

__all__ = ["Usage", "usage_of"]

_ENDLESS = 2**53  # tokens; no count is that large, and floats lose whole numbers from here on


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

    def __post_init__(self) -> None:
        check_fields(self, whole, "requests", "input_tokens", "output_tokens", least=0)

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        read, written = self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens
        return Usage(self.requests + other.requests, read, written)


def usage_of(result: object) -> Usage | None:
    """Return what a call used, read from its result, or from the usage itself; None if it does not say. Never raises.

    >>> usage_of({"usage": {"prompt_tokens": 900, "completion_tokens": 100}})
    Usage(requests=1, input_tokens=900, output_tokens=100)

    A figure that is missing, negative, infinite or not a number counts as not said.
    """
    try:
        usage = _read(result, "usage")
        usage = result if usage is None else usage
        read = _tokens(usage, "input_tokens", "prompt_tokens")
        written = _tokens(usage, "output_tokens", "completion_tokens")
        if read is None or written is None:
            return None
        requests = _read(usage, "requests")
        return Usage(requests if type(requests) is int and requests > 0 else 1, read, written)
    except (Exception, CancelledError):  # a property of the result's own
        return None


def _read(source: object, name: str) -> Any:
    return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)


def _tokens(usage: object, *names: str) -> int | None:
    for name in names:
        value = _read(usage, name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _ENDLESS:
            return int(value)
    return None
