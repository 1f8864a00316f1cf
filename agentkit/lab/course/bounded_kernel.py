"""The kernel that runs submissions: an ordinary one that first bounds its own memory, time and disk use.

What it holds: `limit`; run as a module it bounds itself and becomes an IPython kernel.
Guarantee: on Unix the bounds are the kernel's (setrlimit), so the code in the cells cannot lift the memory bound of the
process it runs in; on Windows there are none, and the grader's own time bounds are what is left.
Strategy: bounds first, heavy imports after. Started by `sandbox`, opened by no notebook.
"""

from __future__ import annotations

import os

__all__ = ["limit"]

MEMORY = "AGENTKIT_MEMORY_MB"
CPU_SECONDS = 120
FILE_MB = 64


def limit() -> None:
    """Bound this process: memory (MB, from the environment), CPU seconds, size of a file; no core dumps."""
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
        except (ValueError, OSError):  # a lower bound is in force already, or this system has no such bound
            continue


if __name__ == "__main__":
    limit()
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()
