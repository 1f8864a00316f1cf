"""How many files a reader passes through from `execute` to one task's outcome: `python tests/benchmarks/moves.py`.

Counts the Python calls inside agentkit during a run of one plain task, and how often control moves from one of its
files to another.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

from agentkit import ParallelAgentExecutor

PACKAGE = str(Path(sys.modules["agentkit"].__file__ or "").parent)


async def agent(task: str) -> str:
    """Answer at once."""
    return task.upper()


def trace() -> list[tuple[str, str]]:
    """Every call inside agentkit for one task: file and function, in order."""
    calls: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            calls.append((frame.f_code.co_filename[len(PACKAGE) + 1 :], frame.f_code.co_qualname))

    async def main() -> None:
        executor = ParallelAgentExecutor(2)
        await executor.execute(["warm up"], agent)
        sys.setprofile(note)
        await executor.execute(["a task"], agent)
        sys.setprofile(None)

    asyncio.run(main())
    return calls


def moves(calls: list[tuple[str, str]]) -> int:
    """How often the next call is in another file."""
    return sum(one[0] != other[0] for one, other in pairwise(calls))


if __name__ == "__main__":
    found = trace()
    for file, function in found:
        print(f"{file:34} {function}")
    print(f"{len(found)} calls in {len({file for file, _ in found})} files, {moves(found)} moves between files")
