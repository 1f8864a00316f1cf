"""Helpers that every other room may use; they import the standard library only.

`arguments`: checks of arguments. `clock`: which clock an event loop has. `hooks`: calling a function that the user
supplied. `redact`: strings without
credentials. `threads`: plain functions called from asyncio.
"""

__all__: list[str] = []
