"""Runs a notebook in a fresh kernel of the current interpreter and stores its outputs.

What it holds: `execute`, and `Kernel`, a kernel manager that ignores installed kernel specs and the user's IPython
profile.
Guarantee: execution counts are 1…n; timing and widget state are not stored; the first cell that fails raises a
CellError.
Strategy: nbclient runs the cells. The kernel gets this package on its path, so a checkout needs no installation.
Used by `make`, and by `sandbox` for grading.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from agentkit.lab.course.cells import CellError, where

__all__ = ["Kernel", "execute", "kernel_environment"]

CELL_SECONDS = 120


class Kernel(AsyncKernelManager):
    """A kernel manager that starts `module` with this interpreter, whatever kernels are installed."""

    module = "ipykernel_launcher"

    @property
    def kernel_spec(self) -> KernelSpec:
        """The command line of the kernel."""
        argv = [sys.executable, "-m", self.module, "-f", "{connection_file}", "--IPKernelApp.log_level=ERROR"]
        return KernelSpec(argv=argv, display_name="Python 3 (ipykernel)", language="python")


def kernel_environment(profile: str, **extra: str) -> dict[str, str]:
    """Return the environment variables of a kernel: this package on the path, and an empty IPython profile."""
    package = str(Path(__file__).parents[3])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "IPYTHONDIR": profile, **extra}


def execute(notebook: Any, folder: Path) -> None:
    """Run all cells in `folder` and store the outputs in the notebook; raise CellError at the first failure."""
    at = [0]
    options = {"record_timing": False, "store_widget_state": False, "coalesce_streams": True, "timeout": CELL_SECONDS}
    client = NotebookClient(
        notebook, km=Kernel(), on_cell_start=lambda cell, cell_index: at.__setitem__(0, cell_index), **options
    )
    with tempfile.TemporaryDirectory() as profile:
        try:
            client.execute(cwd=str(folder), env=kernel_environment(profile), cleanup_kc=True)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            cell = notebook.cells[at[0]]
            raise CellError(f"{where(cell, at[0])}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Return the reason why a cell failed."""
    if isinstance(error, CellExecutionError):
        return f"{error.ename}: {error.evalue}; the tag raises-exception allows it, else fix the cell"
    if isinstance(error, CellTimeoutError):
        return f"did not end within {CELL_SECONDS} s"
    return "the kernel died"
