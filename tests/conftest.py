"""What all tests share: hypothesis gives the same examples on every run, and time is no reason to fail."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest
from hypothesis import settings

from agentkit.report.stalls import monitor_thread

settings.register_profile("agentkit", derandomize=True, deadline=None, database=None)
settings.load_profile("agentkit")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so do shells start what is to run in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
monitor_thread.start()  # it stays, so tests that count threads should find it from the start


@pytest.fixture
def strays() -> Callable[[], list[str]]:
    """Return a function that lists the names of all tasks on the running loop but the one that asks."""

    def names() -> list[str]:
        return sorted(task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task())

    return names
