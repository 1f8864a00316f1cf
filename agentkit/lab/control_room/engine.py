"""One coroutine in a thread of its own, in virtual time at a chosen speed or in real time, with a beat for a panel.

What it holds: `Engine`.
Guarantees: what is posted runs on the coroutine's loop, in order; the beat comes at most ten times a second, on that
loop too; after `close` there is no thread and no task. An error, also one of the beat, ends it and is kept.
Strategy: virtual time is let on in slices. A timer of the virtual loop fires at the end of each slice and holds the
thread until the machine's clock has come as far; a post ends the wait at once. Events inside a slice keep their order
and their instants, so a run at any speed is the same run.
Opened by notebook 08.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from agentkit.lab.loops.virtual import VirtualLoop

__all__ = ["Engine"]

SLICE = 0.02  # real seconds
BEAT = 0.1  # real seconds between two beats, at least


class Engine:
    """Runs `await main()` in a thread; `speed` virtual seconds pass in one real second, None is real time itself.

    >>> async def nap():
    ...     await asyncio.sleep(100)
    ...     return asyncio.get_running_loop().time()
    >>> engine = Engine(nap, speed=10_000)
    >>> engine.start()
    >>> engine.join(), engine.result
    (True, 100.0)
    """

    def __init__(
        self,
        main: Callable[[], Awaitable[Any]],
        *,
        speed: float | None = 5.0,
        beat: Callable[[], None] = lambda: None,
        done: Callable[[], None] = lambda: None,
        after: Engine | None = None,
    ) -> None:
        if speed is not None and not speed > 0:
            raise ValueError(f"speed must be above 0, got {speed!r}; use None for real time")
        self.speed = speed
        """Virtual seconds per real second; may be assigned while it runs, unless it is None."""
        self.result: Any = None
        """What `main` returned."""
        self.error: BaseException | None = None
        """What ended it instead."""
        self.busy = 0.0
        """Seconds of this thread that beats took, to be set against all of its life."""
        self._main, self._beat, self._done, self._after = main, beat, done, after
        self._wake, self._lock = threading.Event(), threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._early: list[Callable[[], object]] = []  # posted before there was a loop
        self._over = False
        self._timer: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._work, name="agentkit-control-room", daemon=True)

    # -- for any thread -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, as soon as the engine it comes after has ended."""
        self._thread.start()

    def post(self, call: Callable[[], object]) -> None:
        """Have `call()` run on the loop; without effect once the engine has ended."""
        with self._lock:
            if self._over:
                return
            if self._loop is None:
                self._early.append(call)
            else:
                self._loop.call_soon_threadsafe(self._guarded, call)
        self._wake.set()

    def cancel(self) -> None:
        """Cancel `main`, which cleans up behind itself."""
        self.post(lambda: self._task.cancel())

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread to end; return whether it has."""
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Cancel, and wait for the end."""
        self.cancel()
        self.join()

    # -- in the thread --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        if self._after is not None:
            self._after.join()
            self._after = None  # or the engines of all earlier runs would stay in memory
        try:
            with asyncio.Runner(loop_factory=None if self.speed is None else VirtualLoop) as runner:
                self.result = runner.run(self._body())
        except BaseException as error:  # whatever it is, nobody above this thread would see it
            self.error = self.error or error
        finally:
            self._over = True
            self._done()

    async def _body(self) -> Any:
        self._task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        with self._lock:
            self._loop = asyncio.get_running_loop()
            early, self._early = self._early, []
        self._due = self._beaten = time.monotonic()
        for call in early:
            self._loop.call_soon(self._guarded, call)
        self._loop.call_soon(self._guarded, self._tick)
        try:
            return await self._main()
        finally:
            with self._lock:
                self._over = True
            if self._timer is not None:
                self._timer.cancel()

    def _guarded(self, call: Callable[[], object]) -> None:
        """An error in a callback would only be logged: it ends the engine, which keeps it."""
        try:
            call()
        except Exception as error:
            self.error = self.error or error
            self._task.cancel()

    def _tick(self) -> None:
        """The end of a slice: beat if it is time, wait for the machine's clock, and set the next end."""
        assert self._loop is not None
        now = time.monotonic()  # the one place where both clocks meet
        if now - self._beaten >= BEAT:
            self._beaten = now
            self._beat()
            self.busy += time.monotonic() - now
        if self.speed is None:
            self._timer = self._loop.call_later(BEAT, self._guarded, self._tick)
            return
        self._due = max(self._due + SLICE, now - SLICE)  # what was lost on the way is not caught up with
        if (rest := self._due - time.monotonic()) > 0:
            self._wake.wait(rest)
        self._wake.clear()
        self._timer = self._loop.call_later(SLICE * self.speed, self._guarded, self._tick)

    def __repr__(self) -> str:
        state = "running" if self._thread.is_alive() else "ended" if self._thread.ident else "not started"
        return f"<Engine {'real time' if self.speed is None else f'{self.speed:g}x virtual time'}, {state}>"
