"""The kernel that runs submissions: it limits its own memory, CPU time and file size before it runs any cell.

What it holds: `limit`. Run as a module, it calls `limit` and becomes an IPython kernel.
Guarantee: on Unix the operating system enforces the limits (setrlimit), so code in the cells can't raise them. Windows
has no such limits; there, only the grader's own timeouts apply.
Strategy: a program of its own, started by `sandbox`, so that the kernel doesn't load the grader. Opened by no notebook.
"""

from __future__ import annotations

import os

__all__ = ["limit"]

MEMORY = "AGENTKIT_MEMORY_MB"
CPU_SECONDS = 120
FILE_MB = 64


def limit() -> None:
    """Limit this process: memory (MB, from the environment), CPU seconds, file size; no core dumps."""
    try:
        import resource
    except ImportError:  # Windows
        return
    megabyte = 2**20
    bounds = {resource.RLIMIT_CPU: CPU_SECONDS, resource.RLIMIT_FSIZE: FILE_MB * megabyte, resource.RLIMIT_CORE: 0}
    if memory := os.environ.get(MEMORY):
        bounds[resource.RLIMIT_AS] = int(memory) * megabyte
    for kind, value in bounds.items():
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):  # a lower limit is already set, or this system has no such limit
            continue


if __name__ == "__main__":
    limit()
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()
