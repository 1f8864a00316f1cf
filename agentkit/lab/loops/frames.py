"""Stack frames: which of them run the reader's own code, and where a suspended coroutine is.

What it holds: `is_yours`, `in_your_file`, `awaited_frames` and `callers`.
Guarantee: the standard library, installed packages and agentkit itself never count as the reader's code.
Used by `virtual`, `recorder`, `task_state` and `agentkit.lab.tracer.loop`.
"""

from __future__ import annotations

import asyncio
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CoroutineType, FrameType

__all__ = ["awaited_frames", "callers", "in_your_file", "is_yours"]

_FOLDERS = (Path(asyncio.__file__).parents[1], sysconfig.get_path("purelib"), Path(__file__).parents[2])
_NOT_YOURS = ("<frozen", *(f"{folder}{os.sep}" for folder in _FOLDERS))
_INLINED = ("<listcomp>", "<setcomp>", "<dictcomp>")  # separate frames up to 3.11, inlined from 3.12 on


def in_your_file(frame: FrameType) -> bool:
    """Whether a frame's file is the reader's: not the standard library, an installed package or agentkit."""
    file = frame.f_code.co_filename
    return not file.startswith(_NOT_YOURS) and "site-packages" not in file


def is_yours(frame: FrameType) -> bool:
    """Whether a frame runs a function of the reader's: neither a generated method nor an inlined comprehension."""
    code = frame.f_code
    return code.co_name not in _INLINED and code.co_filename != "<string>" and in_your_file(frame)


def awaited_frames(coro: object) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine and of those it awaits, outermost first."""
    while isinstance(coro, CoroutineType) and coro.cr_frame is not None:
        yield coro.cr_frame
        coro = coro.cr_await


def callers(frame: FrameType) -> list[FrameType]:
    """Return the frames that called this one, innermost first."""
    found = []
    while frame.f_back is not None:
        frame = frame.f_back
        found.append(frame)
    return found
