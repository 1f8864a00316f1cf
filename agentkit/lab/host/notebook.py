"""The notebook made ready: Stop and sliders work while a cell waits, and one line says what the lesson runs against.

What it holds: `setup`, the first cell of every lesson. `python -m agentkit.lab.host.notebook doctor` says what this
machine lacks, and `… lab` opens the course; both live in `doctor.py`.
Guarantees: calling it again, or outside a notebook, is harmless; it reads no key, no environment variable and no
network; it leaves pyplot alone; what it prints is the same on every machine.
Strategy: Stop is a signal, and a signal alone does not wake an event loop that sleeps in its selector. On Unix the
loop is given a descriptor that every signal writes to, so it wakes at once; elsewhere a heartbeat wakes it ten times
a second. Without either, `await asyncio.sleep(60)` runs its full minute whatever you press. A slider, in turn, sends
its next value only when the kernel has said that it is done with the last one, which ipykernel 7.4 forgets to say while
a cell waits; `setup` makes it say so.
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
_IPYKERNEL = (7, 4)  # the first that lets a slider act while a cell waits


def setup() -> None:
    """Make ■ Stop and sliders work while a cell awaits, and say what the lesson runs against.

    >>> setup()
    agentkit 0.1: embedded provider, no key, no network. Not in a notebook: nothing to set up.

    In a notebook the line ends with `Stop works on waiting cells.` After Stop the awaited call raises
    `CancelledError`, its `finally` blocks run, and the kernel lives on with all its variables.

    The embedded provider answers every call of the course. `OPENAI_API_KEY` and `OPENAI_BASE_URL` are never read
    here, so a key in your environment is not used and costs nothing. An ipykernel that is too old gets a second
    line: what to upgrade, and how.
    """
    loop, kernel = _running_loop(), _kernel()
    if loop is None or kernel is None:
        end = "Not in a notebook: nothing to set up."
    elif _wake_on_stop(loop):
        _acknowledge_widgets(kernel)
        end = "Stop works on waiting cells."
    else:
        end = "Stop does not reach this thread."
    version = ".".join(__version__.split(".")[:2])  # a patch release changes no lesson's output
    print(f"agentkit {version}: embedded provider, no key, no network. {end}")
    if advice := _upgrade_advice():
        print(advice)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _kernel() -> Any:
    """Return the notebook's kernel, if this process is one; IPython is not imported to find out."""
    ipython = sys.modules.get("IPython")
    return getattr(ipython.get_ipython(), "kernel", None) if ipython else None


def _upgrade_advice() -> str | None:
    """Return the line for those whose ipykernel is too old, None for the others."""
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
    """See to it that Stop wakes `loop` where it waits; return whether this thread is one that signals reach."""
    if threading.current_thread() is not threading.main_thread():
        return False
    try:
        # asyncio installs its wake-up descriptor along with a first signal handler, whichever signal it is for.
        # SIGURG is ignored unless asked for, and nothing in Python sends it, so a handler that does nothing changes
        # nothing. To add it again replaces it: the whole call is idempotent, and renews a descriptor that was lost.
        loop.add_signal_handler(signal.SIGURG, _nothing)
    except (AttributeError, NotImplementedError):  # Windows has neither the signal nor the method
        _start_heartbeat(loop)
    return True


def _nothing() -> None:
    pass


def _start_heartbeat(loop: asyncio.AbstractEventLoop) -> None:
    """Wake `loop` ten times a second from now on, by one task however often this is called."""
    if not any(task.get_name() == _HEARTBEAT for task in asyncio.all_tasks(loop)):
        loop.create_task(_heartbeat(), name=_HEARTBEAT)


async def _heartbeat() -> None:
    while True:  # noqa: ASYNC110  the waking is the point
        await asyncio.sleep(0.1)


def _acknowledge_widgets(kernel: Any) -> None:
    """Have `kernel` report each widget message done, also one that it handles while a cell waits.

    The browser keeps one change of a slider on its way, and holds the next until the kernel says idle for it. Without
    that word the first move arrives, the second never does, and picture and slider disagree from then on.
    """
    if "dispatch_shell" in vars(kernel):  # done before
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
            kernel._publish_status("idle", "shell")  # for the widget message, which is the parent here
            kernel._publish_status("busy", "shell", parent=cell)  # the cell itself goes on

    kernel.dispatch_shell = dispatch_and_acknowledge


if __name__ == "__main__":
    from agentkit.lab.host.doctor import main

    sys.exit(main(sys.argv[1:]))
