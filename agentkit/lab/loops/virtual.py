"""Virtual time: an event loop whose clock jumps to the next timer instead of sleeping.

What it holds: `VirtualLoop`, `simulate` to run a coroutine function on one, and `Deadlock`.
Guarantee: the same program gives the same order, the same times and the same result on every
run and every supported Python, whatever the machine is doing; waiting costs nothing.
Strategy: asyncio's own selector loop, with six sources of chance removed; each is marked
`Trap` where it is dealt with, and has a test of that name in `tests/test_virtual.py`.
Not for: subprocesses, `anyio.to_thread`, and code that reads `time.time()`; those see real time.
Opened by notebook 01; taken apart in notebook 02.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import inspect
import itertools
import linecache
import math
import random
import selectors
import sysconfig
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from types import CoroutineType, FrameType
from typing import Any, TypeVar

from agentkit.lab.loops.beside import beside

__all__ = ["Deadlock", "VirtualLoop", "simulate"]

T = TypeVar("T")

_NOT_YOURS = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), str(Path(__file__).parents[2]))


class Deadlock(RuntimeError):
    """Nothing can ever run again: every task waits and no timer is set.

    `waiting` lists `(task name, place)`, the place being the line of your code that waits.

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


def awaited_frames(coro: object) -> Iterator[FrameType]:
    """Frames of a suspended coroutine, outermost first, following what each one awaits."""
    while isinstance(coro, CoroutineType) and coro.cr_frame is not None:
        yield coro.cr_frame
        coro = coro.cr_await


def _place(task: asyncio.Task[Any]) -> str:
    """Say in which of the reader's own lines a task waits."""
    frames = list(awaited_frames(task.get_coro()))
    own = [f for f in frames if not f.f_code.co_filename.startswith(_NOT_YOURS)]
    if not frames:
        return "has not begun"
    frame = (own or frames)[-1]
    text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return f"in {frame.f_code.co_name}, line {frame.f_lineno}" + (f": {text}" if text else "")


class OrderedTimer(asyncio.TimerHandle):
    """Trap: timers due at the same instant. asyncio's heap is not first-in first-out; this order is."""

    __slots__ = ("_seq",)
    _when: float
    _seq: int

    def __lt__(self, other: Any) -> bool:
        return (self._when, self._seq) < (other._when, other._seq)


class _NumberedTask(asyncio.Task[Any]):
    """Trap: sets of tasks. `TaskGroup` and `wait` walk sets, ordered by address; by number, they repeat."""

    _seq: int

    def __hash__(self) -> int:
        return self._seq


class _NumberedFuture(asyncio.Future[Any]):
    """The same for the futures of `run_in_executor`, which people hand to `wait` in numbers."""

    _seq: int

    def __hash__(self) -> int:
        return self._seq


class _Selector(selectors.DefaultSelector):
    """Instead of sleeping until the next timer, move the clock there."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        loop = self.loop
        if loop._threads:  # a real thread is at work: time stands still until it reports back
            return super().select(None)
        if loop._scheduled and loop._scheduled[0]._when < math.inf:
            # Trap: rounding. Jump to the timer's own instant; adding `timeout` would give 0.09999999999999999.
            loop._now = max(loop._now, loop._scheduled[0]._when)
            return events
        waiting = sorted((t for t in asyncio.all_tasks(loop)), key=hash)
        raise Deadlock(loop._now, [(t.get_name(), _place(t)) for t in waiting])


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on which an hour of waiting takes no time and always ends alike.

    >>> async def nap():
    ...     await asyncio.sleep(3600)
    ...     return asyncio.get_running_loop().time()
    >>> with asyncio.Runner(loop_factory=VirtualLoop) as runner:
    ...     runner.run(nap())
    3600.0

    Times are seconds since the loop was made. In a notebook cell use `simulate`, which also finds a thread for it.
    """

    _scheduled: list[OrderedTimer]  # asyncio's own heap of timers, named here because the selector reads it

    def __init__(self) -> None:
        self._now = 0.0
        self._threads = 0
        self._sequence = itertools.count()
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    @property
    def _clock_resolution(self) -> float:
        """Trap: asyncio fires timers that are due within the clock's resolution. Here that is the next float."""
        return math.ulp(self._now)

    @_clock_resolution.setter
    def _clock_resolution(self, value: float) -> None:
        """Ignore what asyncio measured of the machine's clock."""

    def time(self) -> float:
        """Return the virtual time, in seconds since the loop was made."""
        return self._now

    def create_task(self, coro: Coroutine[Any, Any, T], **kwargs: Any) -> asyncio.Task[T]:  # type: ignore[override]
        """Create a task that knows its number."""
        kwargs.pop("eager_start", None)  # 3.14: eager tasks would run before their creator goes on
        seq = next(self._sequence)
        if kwargs.get("name") is None:  # Trap: default names. They come from a counter of the whole process.
            kwargs["name"] = f"task-{seq}"
        task = _NumberedTask.__new__(_NumberedTask)
        task._seq = seq  # before __init__, which puts the task in a set
        task.__init__(coro, loop=self, **kwargs)  # type: ignore[misc]
        return task

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """Schedule `callback` at the instant `when`; equal instants run in the order they were set."""
        self._check_closed()  # type: ignore[attr-defined]
        timer = OrderedTimer(when, callback, args, self, context)
        timer._seq = next(self._sequence)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]
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

        Trap: worker threads. They finish when the machine likes, so they run in line here, `asyncio.to_thread` too.
        They take real time and no virtual time.
        """
        future = _NumberedFuture(loop=self)
        future._seq = next(self._sequence)

        def work() -> None:
            if future.cancelled():
                return
            try:
                result = func(*args)
            except BaseException as error:  # as a pool does: the caller gets it, the loop lives on
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_soon(work)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Trap: the shutdown thread. Without the mark it looks like a deadlock, or its time limit is jumped to."""
        self._threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._threads -= 1


def _run(main: Callable[..., Awaitable[T]], args: tuple[Any, ...], seed: int, began: Callable[[], None]) -> T:
    """Run to the end on a fresh loop in this thread, with the module-level random numbers fixed and put back."""

    async def body() -> T:
        began()
        return await main(*args)

    state = random.getstate()
    random.seed(seed)  # Trap: module-level random. The openai client's own back-off draws from it.
    try:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(body())
    finally:
        random.setstate(state)


def _not_a_function(main: object) -> TypeError:
    if inspect.iscoroutine(main):
        main.close()
    return TypeError(
        f"main must be a coroutine function, got {type(main).__name__}; "
        "write simulate(main, argument), not simulate(main(argument))"
    )


def simulate(main: Callable[..., Awaitable[T]], *args: Any, seed: int = 0) -> T:
    """Run `main(*args)` in virtual time and return its value: exact, instant, the same every time.

    >>> async def three_naps():
    ...     await asyncio.gather(*(asyncio.sleep(s) for s in (2, 5, 3)))
    ...     return asyncio.get_running_loop().time()
    >>> simulate(three_naps)
    5.0

    Works in a script and in a notebook cell alike (without `await`): where a loop is already running, the virtual one
    gets a thread of its own and the caller waits for it. `seed` fixes the module `random` for the time of the run.
    Stop (a KeyboardInterrupt) cancels `main`, whose `finally` blocks run. Raises `Deadlock` when nothing can go on.
    """
    if not callable(main):
        raise _not_a_function(main)
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
