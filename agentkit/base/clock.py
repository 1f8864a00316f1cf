"""Which clock an event loop has. What it holds: `is_real`."""

from __future__ import annotations

import asyncio
import time

__all__ = ["is_real"]


def is_real(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop uses the machine's clock, as those of asyncio and uvloop do; a virtual clock is its own.

    >>> async def main():
    ...     return is_real(asyncio.get_running_loop())
    >>> asyncio.run(main())
    True
    """
    return abs(loop.time() - time.monotonic()) < 1
