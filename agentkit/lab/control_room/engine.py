"""Runs one coroutine on an event loop in its own thread, in real time or in virtual time at a chosen speed.

What it holds: `Engine`.
Guarantees: callbacks passed to `post` run on the coroutine's loop, in order; the `beat` callback runs on that loop too,
at most ten times a second; after `close` no thread and no task is left. An exception, including one raised by a
callback, ends the run and is stored in `error`.
Strategy: virtual time advances in slices. A timer of the virtual loop fires at the end of each slice and blocks the
thread until the real clock has caught up; `post` ends that wait immediately. Events within a slice keep their order and
their virtual times, so the speed doesn't change what happens in a run.
Opened by notebook 08.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from agentkit.base.arguments import number
from agentkit.lab.loops.virtual import VirtualLoop

__all__ = ["Engine"]

SLICE = 0.02  # real seconds per slice of virtual time
BEAT = 0.1  # least number of real seconds between two beats


class Engine:
    """Runs `await main()` in a thread at `speed` virtual seconds per real second; `speed=None` means real time.

    >>> async def nap():
    ...     await asyncio.sleep(100)
    ...     return asyncio.get_running_loop().time()
    >>> engine = Engine(nap, speed=10_000)
    >>> engine.start()
    >>> engine.join(), engine.result
    (True, 100.0)

    `beat` is called on the loop while `main` runs, `done` in the thread once it has ended. With `previous`, the engine
    waits until that one has ended before it starts.
    """

    def __init__(
        self,
        main: Callable[[], Awaitable[Any]],
        *,
        speed: float | None = 5.0,
        beat: Callable[[], None] = lambda: None,
        done: Callable[[], None] = lambda: None,
        previous: Engine | None = None,
    ) -> None:
        self.speed = number("speed", speed, "use None for real time", above=0, none=True)
        """Virtual seconds per real second; can be changed during a run, unless it is None."""
        self.result: Any = None
        """What `main` returned."""
        self.error: BaseException | None = None
        """The exception that ended the run, if any."""
        self.busy = 0.0
        """Total seconds that the `beat` callbacks took."""
        self._main, self._beat, self._done, self._previous = main, beat, done, previous
        self._wake, self._lock = threading.Event(), threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: list[Callable[[], object]] = []  # callbacks posted before the loop existed
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._run, name="agentkit-control-room", daemon=True)

    # -- for any thread -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; `main` runs once the previous engine has ended."""
        self._thread.start()

    def post(self, call: Callable[[], object]) -> None:
        """Run `call()` on the loop; does nothing once the engine has ended."""
        with self._lock:
            if self._closed:
                return
            if self._loop is None:
                self._pending.append(call)
            else:
                self._loop.call_soon_threadsafe(self._guarded, call)
        self._wake.set()

    def cancel(self) -> None:
        """Cancel `main`, which runs its cleanup."""
        self.post(lambda: self._task.cancel())

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread to end; return whether it has."""
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Cancel `main` and wait for the thread to end."""
        self.cancel()
        self.join()

    # -- in the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        if self._previous is not None:
            self._previous.join()
            self._previous = None  # without this, the engines of all earlier runs stay in memory
        try:
            with asyncio.Runner(loop_factory=None if self.speed is None else VirtualLoop) as runner:
                self.result = runner.run(self._main_task())
        except BaseException as error:  # no caller above this thread would see it
            self.error = self.error or error
        finally:
            self._closed = True
            self._done()

    async def _main_task(self) -> Any:
        self._task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        with self._lock:
            self._loop = asyncio.get_running_loop()
            pending, self._pending = self._pending, []
        self._slice_end = self._last_beat = time.monotonic()
        for call in pending:
            self._loop.call_soon(self._guarded, call)
        self._loop.call_soon(self._guarded, self._tick)
        try:
            return await self._main()
        finally:
            with self._lock:
                self._closed = True
            if self._timer is not None:
                self._timer.cancel()

    def _guarded(self, call: Callable[[], object]) -> None:
        """Run a callback; an exception, which asyncio would only log, is stored and cancels `main`."""
        try:
            call()
        except Exception as error:
            self.error = self.error or error
            self._task.cancel()

    def _tick(self) -> None:
        """End of a slice: call `beat` if it is due, wait for the real clock, and schedule the end of the next slice."""
        assert self._loop is not None
        now = time.monotonic()  # the only place that reads the real clock during a run
        if now - self._last_beat >= BEAT:
            self._last_beat = now
            self._beat()
            self.busy += time.monotonic() - now
        if self.speed is None:
            self._timer = self._loop.call_later(BEAT, self._guarded, self._tick)
            return
        self._slice_end = max(self._slice_end + SLICE, now - SLICE)  # time lost by slow slices is not made up for
        if (rest := self._slice_end - time.monotonic()) > 0:
            self._wake.wait(rest)
        self._wake.clear()
        self._timer = self._loop.call_later(SLICE * self.speed, self._guarded, self._tick)

    def __repr__(self) -> str:
        state = "running" if self._thread.is_alive() else "ended" if self._thread.ident else "not started"
        return f"<Engine {'real time' if self.speed is None else f'{self.speed:g}x virtual time'}, {state}>"
