"""What a provider says about its limits.

`headers`: limits and waits, read from an answer. `pause`: nobody starts until then, and then not all at once.
"""

from __future__ import annotations

from agentkit.hints.headers import PATIENCE, go_duration, headers_of, limits_told, number, retry_after

__all__ = [
    "PATIENCE",
    "go_duration",
    "headers_of",
    "limits_told",
    "number",
    "retry_after",
]
