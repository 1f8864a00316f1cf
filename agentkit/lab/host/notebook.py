"""`setup`, the first cell of every lesson: makes Stop and sliders work while a cell awaits.

What it holds: `setup`. `python -m agentkit.lab.host.notebook doctor` reports what this machine lacks, and `… lab` opens
the course; both are in `doctor.py`.
Guarantees: calling it again, or outside a notebook, is harmless; it reads no API key and no environment variable and
makes no request; it doesn't touch pyplot; its output is the same on every machine.
Strategy: Stop is a signal, and a signal alone does not wake an event loop that waits in its selector. On Unix, the loop
gets a file descriptor that every signal writes to, so it wakes at once; elsewhere, a heartbeat task wakes it ten times
a second. Without either, `await asyncio.sleep(60)` runs its full minute even if you press Stop. A slider sends its next
value only after the kernel has reported idle for the previous one, which ipykernel 7.4 omits while a cell awaits;
`setup` adds that report.
Opened by notebook 00.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import signal
import sys
import threading
from importlib import metadata
from typing import Any

from agentkit import __version__

__all__ = ["setup"]

_HEARTBEAT = "agentkit-heartbeat"
_IPYKERNEL = (7, 4)  # the first version that handles widget messages while a cell awaits


def setup() -> None:
    """Make ■ Stop and sliders work while a cell awaits, and print what the lesson runs against.

    >>> setup()
    agentkit 0.1: embedded provider, no key, no network. Not in a notebook: nothing to set up.

    In a notebook the line ends with `Stop works on waiting cells.` After Stop the awaited call raises
    `CancelledError`, its `finally` blocks run, and the kernel keeps running with all its variables.

    The embedded provider answers every call of the course. `OPENAI_API_KEY` and `OPENAI_BASE_URL` are never read
    here, so a key in your environment is not used and costs nothing. If ipykernel is too old, a second line says how
    to upgrade it.
    """
    loop, kernel = _running_loop(), _kernel()
    if loop is None or kernel is None:
        end = "Not in a notebook: nothing to set up."
    elif _wake_on_stop(loop):
        _acknowledge_widgets(kernel)
        end = "Stop works on waiting cells."
    else:
        end = "Stop does not reach this thread."
    version = ".".join(__version__.split(".")[:2])  # no patch number: outputs stay the same across patch releases
    print(f"agentkit {version}: embedded provider, no key, no network. {end}")
    if advice := _upgrade_advice():
        print(advice)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _kernel() -> Any:
    """Return the kernel if this process is one, without importing IPython."""
    ipython = sys.modules.get("IPython")
    return getattr(ipython.get_ipython(), "kernel", None) if ipython else None


def _upgrade_advice() -> str | None:
    """Return the advice to upgrade if ipykernel is too old, else None."""
    if _kernel() is None:
        return None
    found = metadata.version("ipykernel")
    if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) >= _IPYKERNEL:
        return None
    return (
        f"ipykernel {found} is too old for this course: its sliders and buttons may act only after the cell has ended. "
        "Run `python -m pip install --upgrade 'ipykernel>=7.4'` and restart the kernel."
    )


def _wake_on_stop(loop: asyncio.AbstractEventLoop) -> bool:
    """Make Stop wake `loop` while it waits; return whether signals reach this thread."""
    if threading.current_thread() is not threading.main_thread():
        return False
    try:
        # asyncio installs its wake-up descriptor with the first signal handler, whichever signal that is for. SIGURG
        # is ignored by default and Python never sends it, so a handler that does nothing has no effect of its own.
        # Adding the handler again replaces it: the call is idempotent, and restores a lost descriptor.
        loop.add_signal_handler(signal.SIGURG, _nothing)
    except (AttributeError, NotImplementedError):  # Windows has neither the signal nor the method
        _start_heartbeat(loop)
    return True


def _nothing() -> None:
    pass


def _start_heartbeat(loop: asyncio.AbstractEventLoop) -> None:
    """Start a task that wakes `loop` ten times a second, unless it is already running."""
    if not any(task.get_name() == _HEARTBEAT for task in asyncio.all_tasks(loop)):
        loop.create_task(_heartbeat(), name=_HEARTBEAT)


async def _heartbeat() -> None:
    while True:  # noqa: ASYNC110  (its purpose is to wake the loop)
        await asyncio.sleep(0.1)


def _acknowledge_widgets(kernel: Any) -> None:
    """Make `kernel` report idle after each widget message, also for those it handles while a cell awaits.

    The browser sends one change of a slider at a time and holds the next until the kernel reports idle. Without that
    report, only the first change of a slider arrives, and the picture no longer matches the slider.
    """
    if "dispatch_shell" in vars(kernel):  # already patched
        return
    dispatch = kernel.dispatch_shell
    if "concurrent" not in inspect.signature(dispatch).parameters:
        return

    async def dispatch_and_acknowledge(message: Any, /, *args: Any, concurrent: bool = False, **kwargs: Any) -> None:
        if not concurrent:
            await dispatch(message, *args, **kwargs)
            return
        cell = kernel.get_parent("shell")
        try:
            await dispatch(message, *args, concurrent=True, **kwargs)
        finally:
            publish = kernel._publish_status  # noqa: SLF001  (ipykernel has no public method for it)
            publish("idle", "shell")  # for the widget message, which is the parent here
            publish("busy", "shell", parent=cell)  # the cell is still running

    kernel.dispatch_shell = dispatch_and_acknowledge


if __name__ == "__main__":
    from agentkit.lab.host.doctor import main

    sys.exit(main(sys.argv[1:]))
