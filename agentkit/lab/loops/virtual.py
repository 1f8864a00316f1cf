"""Virtual time: an event loop whose clock jumps to the next timer instead of sleeping.

What it holds: `VirtualLoop`, `simulate` to run a coroutine function on one, and `Deadlock`.
Guarantee: the same program gives the same order, the same times and the same result on every run and every supported
Python, whatever else the machine is doing; waiting costs nothing.
Strategy: asyncio's own selector loop without its six sources of nondeterminism. Each is marked `Trap` where it is
handled, and has a test of that name in `tests/test_virtual.py`.
Not for: subprocesses, `anyio.to_thread`, and code that reads `time.time()`; those see real time.
Opened by notebooks 01 and 02.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import linecache
import math
import random
import selectors
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from agentkit.base.arguments import function, whole
from agentkit.lab.loops.beside import beside
from agentkit.lab.loops.frames import awaited_frames, in_your_file

__all__ = ["Deadlock", "OrderedTimer", "VirtualLoop", "simulate"]

T = TypeVar("T")


class Deadlock(RuntimeError):
    """Nothing can run any more: every task is waiting and no timer is set.

    `waiting` lists `(task name, place)`; the place is the line of your code that is waiting.

    >>> async def forever():
    ...     await asyncio.Event().wait()
    >>> simulate(forever)
    Traceback (most recent call last):
        ...
    agentkit.lab.loops.virtual.Deadlock: at 0 s every task waits for something that can never come:
      task-0 in forever, line 2: await asyncio.Event().wait()
    """

    def __init__(self, now: float, waiting: list[tuple[str, str]]) -> None:
        self.now, self.waiting = now, waiting
        lines = "".join(f"\n  {name} {place}" for name, place in waiting) or "\n  (no task is left at all)"
        super().__init__(f"at {now:g} s every task waits for something that can never come:{lines}")

    def __reduce__(self) -> tuple[type[Deadlock], tuple[float, list[tuple[str, str]]]]:
        return type(self), (self.now, self.waiting)


def _place(task: asyncio.Task[Any]) -> str:
    """Return the line of the reader's code that a task is waiting on, in words."""
    frames = list(awaited_frames(task.get_coro()))
    own = [frame for frame in frames if in_your_file(frame)]
    if not frames:
        return "has not begun"
    frame = (own or frames)[-1]
    text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return f"in {frame.f_code.co_name}, line {frame.f_lineno}" + (f": {text}" if text else "")


class OrderedTimer(asyncio.TimerHandle):
    """Trap: timers due at the same instant. asyncio's heap is not first in, first out; this order is."""

    __slots__ = ("number",)
    _when: float
    number: int

    def __lt__(self, other: Any) -> bool:
        return (self._when, self.number) < (other._when, other.number)


class _NumberedTask(asyncio.Task[Any]):
    """Trap: sets of tasks. `TaskGroup` and `wait` iterate over sets, ordered by address; by number, they repeat."""

    number: int

    def __hash__(self) -> int:
        return self.number


class _NumberedFuture(asyncio.Future[Any]):
    """The same for the futures of `run_in_executor`, which are often passed to `wait` as a set."""

    number: int

    def __hash__(self) -> int:
        return self.number


class _Selector(selectors.DefaultSelector):
    """Instead of sleeping until the next timer, moves the loop's clock there."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if self.loop.threads:  # a real thread is running: virtual time stops until it reports back
            return super().select(None)
        self.loop.jump()
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock that jumps to the next timer, so waiting takes no time and every run is the same.

    >>> async def nap():
    ...     await asyncio.sleep(3600)
    ...     return asyncio.get_running_loop().time()
    >>> with asyncio.Runner(loop_factory=VirtualLoop) as runner:
    ...     runner.run(nap())
    3600.0

    Times are seconds since the loop was made. In a notebook cell, use `simulate`, which runs it in a thread.
    """

    _scheduled: list[OrderedTimer]  # asyncio's own heap of timers

    def __init__(self) -> None:
        self._now = 0.0
        self.threads = 0  # real threads that the loop is waiting for
        self._sequence = itertools.count()
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    @property
    def _clock_resolution(self) -> float:
        """Trap: asyncio fires timers that are due within the clock's resolution; here, up to the next float."""
        return math.ulp(self._now)

    @_clock_resolution.setter
    def _clock_resolution(self, value: float) -> None:
        """Ignore the resolution that asyncio measured on the machine's clock."""

    def time(self) -> float:
        """Return the virtual time, in seconds since the loop was made."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock on while the running task keeps the loop, as a blocking call does."""
        self._now += seconds

    def jump(self) -> None:
        """Move the clock to the next timer; raise `Deadlock` if there is none."""
        if self._scheduled and self._scheduled[0].when() < math.inf:
            # Trap: rounding. Jump to the timer's own instant; adding seconds would give 0.09999999999999999.
            self._now = max(self._now, self._scheduled[0].when())
        else:
            waiting = sorted(asyncio.all_tasks(self), key=hash)
            raise Deadlock(self._now, [(task.get_name(), _place(task)) for task in waiting])

    def create_task(self, coro: Coroutine[Any, Any, T], **kwargs: Any) -> asyncio.Task[T]:  # type: ignore[override]
        """Create a task with a number, counted by this loop."""
        kwargs.pop("eager_start", None)  # 3.14: an eager task would run before its creator continues
        seq = next(self._sequence)
        if kwargs.get("name") is None:  # Trap: default names. asyncio counts them per process.
            kwargs["name"] = f"task-{seq}"
        task = _NumberedTask.__new__(_NumberedTask)
        task.number = seq  # before __init__, which puts the task in a set
        task.__init__(coro, loop=self, **kwargs)  # type: ignore[misc]
        return task

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """Schedule `callback` at the instant `when`; equal instants run in the order of the calls."""
        self._check_closed()  # type: ignore[attr-defined]
        timer = OrderedTimer(when, callback, args, self, context)
        timer.number = next(self._sequence)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]  # noqa: SLF001  (as in asyncio's own call_at)
        return timer

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """Schedule `callback` after `delay` seconds."""
        return self.call_at(self._now + max(delay, 0), callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run `func` on the loop's next turn, in the loop's own thread.

        Trap: worker threads. When they finish depends on the machine, so here the call runs inline, also that of
        `asyncio.to_thread`. It takes real time and no virtual time.
        """
        future = _NumberedFuture(loop=self)
        future.number = next(self._sequence)

        def work() -> None:
            if future.cancelled():
                return
            try:
                result = func(*args)
            except BaseException as error:  # as in a pool: the caller gets it, and the loop keeps running
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_soon(work)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Trap: the shutdown thread. Uncounted, it would look like a deadlock, or the clock would jump."""
        self.threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self.threads -= 1


def _run(main: Callable[..., Awaitable[T]], args: tuple[Any, ...], seed: int, began: Callable[[], None]) -> T:
    """Run `main` on a fresh loop in this thread; seed the module `random` for the run and restore its state."""

    async def body() -> T:
        began()
        return await main(*args)

    state = random.getstate()
    random.seed(seed)  # Trap: module-level random. The openai client's own backoff uses it.
    try:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(body())
    finally:
        random.setstate(state)


def simulate(main: Callable[..., Awaitable[T]], *args: Any, seed: int = 0) -> T:
    """Run `main(*args)` in virtual time and return its value: exact, instant, the same every time.

    >>> async def three_naps():
    ...     await asyncio.gather(*(asyncio.sleep(s) for s in (2, 5, 3)))
    ...     return asyncio.get_running_loop().time()
    >>> simulate(three_naps)
    5.0

    Works the same in a script and in a notebook cell (without `await`): if a loop is already running, the virtual one
    gets its own thread and the caller waits for it. `seed` seeds the module `random` during the run. Stop (a
    KeyboardInterrupt) cancels `main`, whose `finally` blocks run. Raises `Deadlock` when no task can run any more.
    """
    function("main", main, "write simulate(main, argument), not simulate(main(argument))", may_be_async=True)
    seed = whole("seed", seed, least=None)
    started, stopped = list[Any](), threading.Event()

    def began() -> None:
        started.append((asyncio.get_running_loop(), asyncio.current_task()))
        if stopped.is_set():
            raise asyncio.CancelledError  # `stop` came before there was a task to cancel

    def stop() -> None:
        stopped.set()
        for loop, task in started:
            with contextlib.suppress(RuntimeError):  # the loop has just closed
                loop.call_soon_threadsafe(task.cancel)

    return beside(lambda: _run(main, args, seed, began), stop)
