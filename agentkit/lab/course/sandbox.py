"""Running a notebook that may do anything: bounded in time and memory, every end of a cell a word.

What it holds: `ResourceLimits`, `Ends` and `run`. Guarantee: `run` comes back, whatever the cells do (endless loops, sys.exit,
os._exit, memory, floods of output), and the kernel with all its children is gone by then.
Strategy: interrupt a cell at its bound as the Stop button does; if that does not help, kill the kernel.
Not a jail: cells may read files and reach the network as you may. Grade strangers' work in a throw-away container.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

from agentkit.lab.course.bounded_kernel import MEMORY
from agentkit.lab.course.checks import RECORD
from agentkit.lab.course.execute import Kernel, kernel_environment
from agentkit.lab.course.notebooks import tags

__all__ = ["Ends", "ResourceLimits", "run"]

GRACE = 1.0  # seconds between the interrupt and the end of the kernel


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """What a submission may use."""

    seconds: float = 3.0
    """Real time of one exercise cell; other cells of the lesson have ten times as much, below it twice."""
    memory: int = 1024
    """Memory of the kernel in MB; bounded on Unix only."""

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ValueError(f"seconds must be more than 0, got {self.seconds}; 3 is enough for an exercise cell")
        if self.memory < 512:
            raise ValueError(f"memory must be 512 MB or more, got {self.memory}; the kernel itself needs that much")


@dataclass(frozen=True, slots=True)
class Ends:
    """How a notebook's run ended."""

    errors: dict[int, str]
    """For each cell that did not end well, by index: the error in words; `time` where it was interrupted."""
    stopped: int | None
    """The index of the cell at which the kernel was lost; None if the last cell was reached."""


class _BoundedKernel(Kernel):
    """The kernel of a submission."""

    module = "agentkit.lab.course.bounded_kernel"


@contextlib.asynccontextmanager
async def _started(client: NotebookClient, folder: Path, limits: ResourceLimits, record: Path) -> AsyncIterator[None]:
    """Start the kernel, and kill it with its children at the end."""
    manager: Any = client.km
    assert manager is not None
    with tempfile.TemporaryDirectory() as profile:
        extra = {RECORD: str(record), MEMORY: str(limits.memory), "OPENBLAS_NUM_THREADS": "1"}
        environment = kernel_environment(profile, **extra)
        try:
            async with client.async_setup_kernel(cwd=str(folder), env=environment, cleanup_kc=True):
                yield
        finally:
            await manager.shutdown_kernel(now=True)


async def _stop_after(seconds: float, manager: Any, overrun: list[str]) -> None:
    """Interrupt the running cell at its bound, and kill the kernel if that does not help."""
    await asyncio.sleep(seconds)
    overrun.append("time")
    await manager.interrupt_kernel()
    await asyncio.sleep(GRACE)
    await manager.shutdown_kernel(now=True)


def _failure(cell: Any) -> str:
    """Return the error of a cell in words, empty if it ended well."""
    for output in cell.get("outputs", []):
        if output.output_type == "error" and "raises-exception" not in tags(cell):
            value = re.sub(
                r"\([\w<>./-]+\.py, line", "(line", output.evalue
            )  # a SyntaxError names the cell's scratch file
            return f"{output.ename}: {value}".strip().removesuffix(":")
    return ""


class _Watched(NotebookClient):
    """A client that notices quit(): the kernel answers politely and is gone a moment later."""

    left = False

    async def _check_raise_for_error(self, cell: Any, cell_index: int, exec_reply: Any) -> None:
        payload = (exec_reply or {}).get("content", {}).get("payload", [])
        self.left = any(each.get("source") == "ask_exit" for each in payload)
        await super()._check_raise_for_error(cell, cell_index, exec_reply)


async def run(notebook: Any, folder: Path, record: Path, limits: ResourceLimits, own: frozenset[int]) -> Ends:
    """Run the cells in order; `own` are the indices of the submission's cells, which have the tighter bound."""
    manager = _BoundedKernel()
    client = _Watched(
        notebook, km=manager, timeout=None, allow_errors=True, record_timing=False, store_widget_state=False
    )
    errors: dict[int, str] = {}
    async with _started(client, folder, limits, record):
        for index, cell in enumerate(notebook.cells):
            overrun: list[str] = []
            factor = 1 if index in own else 2 if own and index > min(own) else 10
            watch = asyncio.create_task(_stop_after(limits.seconds * factor, manager, overrun))
            try:
                await client.async_execute_cell(cell, index)
            except DeadKernelError:
                errors[index] = "time" if overrun else "died"
                return Ends(errors, index)
            finally:
                watch.cancel()
                await asyncio.wait([watch])
            if failure := (overrun or [_failure(cell)])[0]:
                errors[index] = failure
            if client.left:
                return Ends({**errors, index: "SystemExit: the cell ends the kernel"}, index)
    return Ends(errors, None)
