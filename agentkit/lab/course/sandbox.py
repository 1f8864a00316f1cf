"""Runs an untrusted notebook with limits on time and memory, and reports how each cell ended.

What it holds: `run`, `ResourceLimits` and `RunErrors`.
Guarantee: `run` returns whatever the cells do (endless loops, sys.exit, os._exit, memory, floods of output), and by
then the kernel and all its child processes have ended.
Strategy: interrupt a cell at its timeout, as the Stop button does; if that fails, kill the kernel.
It is not a security sandbox: cells can read your files and use the network. Grade strangers' work in a disposable
container.
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

from agentkit.base.arguments import number, whole
from agentkit.lab.course.bounded_kernel import MEMORY
from agentkit.lab.course.cells import tags
from agentkit.lab.course.checks import RECORD
from agentkit.lab.course.execute import Kernel, kernel_environment

__all__ = ["ResourceLimits", "RunErrors", "run"]

GRACE = 1.0  # seconds between interrupting a kernel and killing it


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """The time and memory that a submission may use."""

    seconds: float = 3.0
    """Timeout of one exercise cell, in real seconds; lesson cells get ten times that, below the first answer twice."""
    memory: int = 1024
    """Memory of the kernel in MB; enforced on Unix only."""

    def __post_init__(self) -> None:
        number("seconds", self.seconds, "3 is enough for an exercise cell", above=0)
        whole("memory", self.memory, "the kernel itself needs that many MB", least=512)


@dataclass(frozen=True, slots=True)
class RunErrors:
    """The errors of one notebook run."""

    errors: dict[int, str]
    """The error of each failed cell, by index; `time` for a cell that was interrupted."""
    stopped: int | None
    """The index of the cell that ended the kernel; None if all cells ran."""


class _BoundedKernel(Kernel):
    """The kernel manager for submissions."""

    module = "agentkit.lab.course.bounded_kernel"


@contextlib.asynccontextmanager
async def _started(client: NotebookClient, folder: Path, limits: ResourceLimits, record: Path) -> AsyncIterator[None]:
    """Start the kernel; on exit, kill it and its child processes."""
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
    """Interrupt the running cell after `seconds`; if it keeps running, kill the kernel."""
    await asyncio.sleep(seconds)
    overrun.append("time")
    await manager.interrupt_kernel()
    await asyncio.sleep(GRACE)
    await manager.shutdown_kernel(now=True)


def _failure(cell: Any) -> str:
    """Return the error of a cell as a string, empty if it succeeded."""
    for output in cell.get("outputs", []):
        if output.output_type == "error" and "raises-exception" not in tags(cell):
            value = re.sub(
                r"\([\w<>./-]+\.py, line", "(line", output.evalue
            )  # a SyntaxError names the cell's temporary file
            return f"{output.ename}: {value}".strip().removesuffix(":")
    return ""


class _Watched(NotebookClient):
    """A client that detects quit(): the kernel still replies to the cell and exits a moment later."""

    left = False

    async def _check_raise_for_error(self, cell: Any, cell_index: int, exec_reply: Any) -> None:
        payload = (exec_reply or {}).get("content", {}).get("payload", [])
        self.left = any(each.get("source") == "ask_exit" for each in payload)
        await super()._check_raise_for_error(cell, cell_index, exec_reply)


async def run(notebook: Any, folder: Path, record: Path, limits: ResourceLimits, own: frozenset[int]) -> RunErrors:
    """Run the cells in order; `own` holds the indices of the submission's cells, which have the shortest timeout."""
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
                return RunErrors(errors, index)
            finally:
                watch.cancel()
                await asyncio.wait([watch])
            if failure := (overrun or [_failure(cell)])[0]:
                errors[index] = failure
            if client.left:
                return RunErrors({**errors, index: "SystemExit: the cell ends the kernel"}, index)
    return RunErrors(errors, None)
