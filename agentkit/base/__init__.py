"""Helpers that every other room may use; they import the standard library only.

`redact`: strings without credentials.
"""

__all__: list[str] = []
