"""Helpers that every other room may use; they import the standard library only.

`arguments`: what the user supplies, checked and called. `redact`: strings without credentials. `threads`: plain
functions called from asyncio.
"""

__all__: list[str] = []
