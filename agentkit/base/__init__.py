"""Helpers that every other room may use; they import the standard library only.

`arguments`: checks of arguments, and calls of functions that the user supplied. `clock`: which clock an event loop has.
`redact`: strings without credentials. `threads`: plain functions called from asyncio.
"""
