"""The queue of waiters, and the checklist that every primitive built on it has to pass."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from agentkit.lab.loops.virtual import Deadlock, VirtualLoop
from agentkit.limits import Budget, RateLimiter
from agentkit.locks import KeyedLock, TracedLock
from agentkit.semaphore import AdaptiveLimiter, CapacityLimiter
from agentkit.semaphore.waiters import Waiters


class Door:
    """The simplest primitive: one task at a time."""

    def __init__(self) -> None:
        self.waiters, self.taken = Waiters[None]("door"), False

    def take(self, _: None = None) -> bool:
        """Take it if it is free."""
        free, self.taken = not self.taken, True
        return free

    async def acquire(self) -> bool:
        """Take it, waiting if necessary."""
        if self.waiters or not self.take():
            await self.waiters.wait(None, self.take, lambda _: self.release())
        return True

    def release(self, _: Any = None) -> None:
        """Let the next one in."""
        self.taken = False
        self.waiters.serve(self.take)


@dataclass
class Kind:
    """How to use a primitive that admits one task at a time."""

    name: str
    make: Callable[[], Any]
    acquire: Callable[[Any], Awaitable[Any]]  # returns what `release` needs
    release: Callable[[Any, Any], object]
    waiting: Callable[[Any], int]
    nowait: Callable[[Any], Any] | None = None  # falsy if it is taken
    enter: Callable[[Any], Any] | None = None  # an async context manager
    twice: type[Exception] = Deadlock  # what a task gets that takes it twice

    def __repr__(self) -> str:
        return self.name


async def _enter_key(locks: KeyedLock) -> Any:
    block = locks.hold("key")
    await block.__aenter__()
    return block


def _leave_key(_: KeyedLock, block: Any) -> None:
    with pytest.raises(StopIteration):
        block.__aexit__(None, None, None).send(None)


def _kind(make: Callable[[], Any], **other: Any) -> Kind:
    return Kind(
        type(make()).__name__,
        make,
        lambda door: door.acquire(),
        lambda door, _: door.release(),
        lambda door: door.statistics().queue_depth,
        **other,
    )


def _granting(make: Callable[[], Any]) -> Kind:
    kind = _kind(make, nowait=lambda door: door.try_acquire())
    kind.release = lambda _, granted: granted.cancel()
    return kind


NOWAIT = {"nowait": lambda door: door.acquire_nowait(), "enter": lambda door: door}
LOCK = _kind(TracedLock, twice=RuntimeError, **NOWAIT)
KEYED = Kind(
    "KeyedLock",
    KeyedLock,
    _enter_key,
    _leave_key,
    lambda locks: locks.statistics().queue_depth,
    enter=lambda locks: locks.hold("key"),
    twice=RuntimeError,
)
DOOR = _kind(Door, nowait=lambda door: not door.waiters and door.take())
DOOR.waiting = lambda door: len(door.waiters)
RATE = _granting(lambda: RateLimiter(1))
UNOWNED = [DOOR, _kind(lambda: CapacityLimiter(1), **NOWAIT), _granting(lambda: Budget(calls=1)), RATE]
KINDS = [*UNOWNED, _kind(lambda: AdaptiveLimiter(1, max_limit=1), **NOWAIT), LOCK, KEYED]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=repr)
with_block = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.enter], ids=repr)
with_nowait = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.nowait], ids=repr)


def loop_at(start: float) -> VirtualLoop:
    """Return a virtual loop whose clock starts at `start`."""
    loop = VirtualLoop()
    loop.advance(start)
    return loop


@pytest.fixture(params=[0.0, 1_000.7], ids=["at-0", "at-1000.7"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run a coroutine function on a virtual loop; what it returns, and how long it took."""

    def on_new_loop(main: Callable[..., Any], *args: Any) -> Any:
        with asyncio.Runner(loop_factory=lambda: loop_at(request.param)) as runner:
            result = runner.run(main(*args))
            return result, round(runner.get_loop().time() - request.param, 6)

    return on_new_loop


async def turns(count: int = 5) -> None:
    """Let every other task run as far as it can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def use(kind: Kind, door: Any, log: list[Any], name: Any, hold: Callable[[], Awaitable[Any]]) -> None:
    """Take it, note that, hold it, release it."""
    token = await kind.acquire(door)
    try:
        log.append(name)
        await hold()
    finally:
        kind.release(door, token)


def user(kind: Kind, door: Any, log: list[Any], name: Any, seconds: float = 1) -> asyncio.Task[None]:
    """Start a task that holds it for some seconds."""
    return asyncio.create_task(use(kind, door, log, name, lambda: asyncio.sleep(seconds)))


# -- the checklist ----------------------------------------------------------------------------------------------------


@with_block
def test_context_manager_releases_also_after_an_error(kind: Kind, run: Callable[..., Any]) -> None:
    """After a block that raised, the next acquire does not wait."""
    assert kind.enter is not None

    async def main() -> bool:
        door = kind.make()
        with pytest.raises(ZeroDivisionError):
            async with kind.enter(door):
                raise ZeroDivisionError
        return await kind.acquire(door) is not None

    assert run(main) == (True, 0)


@each_kind
def test_acquire_and_release_by_hand(kind: Kind, run: Callable[..., Any]) -> None:
    """What was released can be taken again at once."""

    async def main() -> int:
        door = kind.make()
        for _ in range(3):
            kind.release(door, await kind.acquire(door))
        return kind.waiting(door)

    assert run(main) == (0, 0)


@with_nowait
def test_nowait_takes_what_is_free_and_never_waits(kind: Kind, run: Callable[..., Any]) -> None:
    """It succeeds once, and again after a release."""
    assert kind.nowait is not None

    async def main() -> list[bool]:
        door = kind.make()
        token = kind.nowait(door)
        found = [bool(token), bool(kind.nowait(door))]
        kind.release(door, token)
        return [*found, bool(kind.nowait(door))]

    assert run(main) == ([True, False, True], 0)


@each_kind
def test_acquire_waits_for_the_release(kind: Kind, run: Callable[..., Any]) -> None:
    """It returns at the instant of the release; meanwhile `statistics` counts it."""

    async def main() -> int:
        door = kind.make()
        token = await kind.acquire(door)
        waiter = user(kind, door, [], "waiter", seconds=0)
        await asyncio.sleep(4)
        depth = kind.waiting(door)
        kind.release(door, token)
        await waiter
        return depth

    assert run(main) == (1, 4)


@each_kind
def test_taking_it_twice_in_one_task(kind: Kind, run: Callable[..., Any]) -> None:
    """A task that waits for itself deadlocks, or gets an error from a primitive that knows its holder."""

    async def main() -> None:
        door = kind.make()
        await kind.acquire(door)
        await kind.acquire(door)

    if kind is RATE:  # nobody has to give a start back
        assert run(main) == (None, 60)
    else:
        with pytest.raises(kind.twice):
            run(main)


@each_kind
def test_is_first_in_first_out(kind: Kind, run: Callable[..., Any]) -> None:
    """Waiters are served in the order in which they asked."""

    async def main() -> list[int]:
        door, log = kind.make(), []
        await asyncio.gather(*(user(kind, door, log, i) for i in range(8)))
        return log

    assert run(main) == (list(range(8)), 8)


@each_kind
def test_a_newcomer_cannot_overtake(kind: Kind, run: Callable[..., Any]) -> None:
    """What is released while a task waits is that task's at once, before it resumes: no over-subscription."""

    async def main() -> tuple[bool, list[str]]:
        door, log = kind.make(), []
        token = await kind.acquire(door)
        waiter = user(kind, door, log, "waiter")
        await turns()
        kind.release(door, token)
        stolen = bool(kind.nowait and kind.nowait(door))
        await user(kind, door, log, "newcomer")
        await waiter
        return stolen, log

    assert run(main) == ((False, ["waiter", "newcomer"]), 2)


async def _cancelled(kind: Kind, when: str) -> tuple[list[str], int]:
    """A holder and two waiters, of which the first is cancelled."""
    door, log = kind.make(), []
    token = await kind.acquire(door)
    first, second = (user(kind, door, log, name) for name in ("first", "second"))
    if when != "before its first turn":
        await turns()
    if when == "after the hand-over":
        kind.release(door, token)
        first.cancel()
    elif when == "in the step of the release":
        first.cancel()
        kind.release(door, token)
    else:
        first.cancel()
        await turns()
        assert kind.waiting(door) == 1
        kind.release(door, token)
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert not second.exception()
    kind.release(door, await kind.acquire(door))
    return log, kind.waiting(door)


@each_kind
@pytest.mark.parametrize(
    "when", ["before its first turn", "while it waits", "in the step of the release", "after the hand-over"]
)
def test_a_cancelled_waiter_passes_it_on(kind: Kind, when: str, run: Callable[..., Any]) -> None:
    """Whenever a waiter is cancelled, the next one is served, and nothing is lost."""
    assert run(_cancelled, kind, when) == ((["second"], 0), 1)


@each_kind
def test_a_cancelled_holder_gives_it_back(kind: Kind, run: Callable[..., Any]) -> None:
    """Cancelled inside the block: it is free again."""

    async def main() -> list[str]:
        door, log = kind.make(), []
        holder = user(kind, door, log, "holder", seconds=100)
        await asyncio.sleep(1)
        holder.cancel()
        await asyncio.wait([holder])
        await use(kind, door, log, "next", turns)
        return log

    assert run(main) == (["holder", "next"], 1)


@each_kind
def test_cancellation_at_every_await(kind: Kind, run: Callable[..., Any]) -> None:
    """Cancel each of four tasks at each turn of the loop: the others follow in order, one at a time."""

    async def main(victim: int, step: int) -> None:
        door, log, inside = kind.make(), [], 0

        async def hold() -> None:
            nonlocal inside
            inside += 1
            assert inside == 1
            try:
                await turns(2)
            finally:
                inside -= 1

        tasks = [asyncio.create_task(use(kind, door, log, i, hold)) for i in range(4)]
        await turns(step)
        tasks[victim].cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError)
        assert [i for i in log if i != victim] == [i for i in range(4) if i != victim]
        kind.release(door, await kind.acquire(door))
        assert kind.waiting(door) == 0

    for victim in range(4):
        for step in range(16):
            assert run(main, victim, step) == (None, 0)


@each_kind
def test_is_made_outside_a_loop_and_used_on_several(kind: Kind, run: Callable[..., Any]) -> None:
    """It is bound to a loop only while tasks wait."""
    door = kind.make()

    async def main() -> None:
        await asyncio.gather(*(user(kind, door, [], i) for i in range(3)))

    assert run(main) == run(main) == (None, 3)


# -- closed loops, other loops, threads -------------------------------------------------------------------------------


def left_waiting(kind: Kind, door: Any) -> tuple[VirtualLoop, Any]:
    """Return a loop that has stopped with one holder and two waiters, and what releases the holder."""
    loop = loop_at(50)
    loop.set_exception_handler(lambda loop, context: None)  # tasks that are left behind

    async def main() -> Any:
        token = await kind.acquire(door)
        for _ in range(2):
            user(kind, door, [], "left behind")
        await turns()
        return token

    return loop, loop.run_until_complete(main())


@pytest.mark.parametrize("kind", UNOWNED, ids=repr)
def test_waiters_of_a_closed_loop_are_dropped(kind: Kind, run: Callable[..., Any]) -> None:
    """They do not jam the queue for the next loop; the release needs no running loop."""
    door, log = kind.make(), []
    loop, token = left_waiting(kind, door)
    assert kind.waiting(door) == 2
    loop.close()
    assert kind.waiting(door) == 0
    kind.release(door, token)

    async def main() -> None:
        await asyncio.gather(*(user(kind, door, log, i) for i in range(3)))

    assert run(main) == (None, 3)
    gc.collect()  # whatever tasks are left of the closed loop may not change what is free
    assert run(main) == (None, 3)
    assert log == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("kind", [*UNOWNED, LOCK], ids=repr)
def test_waiters_on_two_live_loops_are_refused(kind: Kind, run: Callable[..., Any]) -> None:
    """A second loop gets an error that names the remedy, not a turn that never comes."""
    door = kind.make()
    loop, _ = left_waiting(kind, door)

    async def main() -> None:
        await kind.acquire(door)

    with pytest.raises(RuntimeError, match=r"on another event loop; give each loop a .* of its own"):
        run(main)
    loop.close()


def test_a_waiter_served_on_a_loop_that_closed_gives_its_slot_back() -> None:
    """It got the slot and never resumed; the slot comes back when its task is collected."""
    limiter = CapacityLimiter(1)
    loop = loop_at(0)
    loop.run_until_complete(limiter.acquire())
    waiter = loop.create_task(limiter.acquire())
    loop.run_until_complete(turns())
    loop.call_soon(limiter.release)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert not waiter.done()
    loop.close()
    assert limiter.statistics().in_flight == 1
    del waiter, loop
    gc.collect()
    assert limiter.statistics().in_flight == 0


def test_a_thread_that_outlived_its_loop_serves_the_next_one(run: Callable[..., Any]) -> None:
    """Its release reaches the waiters inside their own loop, which it wakes."""
    limiter = CapacityLimiter(1)
    limiter.acquire_anyway()  # for a thread of an earlier loop

    async def main() -> int:
        asyncio.get_running_loop().set_debug(True)  # refuses calls from other threads that would not wake it
        waiter = asyncio.create_task(limiter.acquire())
        await turns()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(limiter.release).result()
        await waiter
        return limiter.statistics().in_flight

    assert run(main) == (1, 0)


class ReleasedBetween(CapacityLimiter):
    """A thread releases a slot after a task found none and before it waits."""

    __slots__ = ()

    def acquire_nowait(self) -> bool:
        """The first time that there is none, a thread releases one."""
        if super().acquire_nowait():
            return True
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self.release).result()
        return False


def test_a_release_by_a_thread_just_before_the_wait_is_not_missed(run: Callable[..., Any]) -> None:
    """A waiter looks once more when it is in the queue."""
    limiter = ReleasedBetween(1)
    limiter.acquire_anyway()

    async def main() -> int:
        await limiter.acquire()
        return limiter.statistics().in_flight

    assert run(main) == (1, 0)


# -- the queue by itself ----------------------------------------------------------------------------------------------


def test_Waiters_serve_raises_in_the_waiter_that_was_refused(run: Callable[..., Any]) -> None:
    """The error goes to the first, and the others are still served."""

    async def main() -> list[str]:
        waiters = Waiters[int]("door")
        tasks = [asyncio.create_task(waiters.wait(need, lambda _: False)) for need in (0, 2, 3)]
        await turns()
        waiters.serve(lambda need: 6 / need > 2)
        results = await asyncio.wait(tasks[:2])
        assert list(waiters) == [3]
        assert waiters.peak == 3
        tasks[2].cancel()
        return sorted(type(task.exception()).__name__ for task in results[0])

    assert run(main) == (["NoneType", "ZeroDivisionError"], 0)


class Queue(RuleBasedStateMachine):
    """Tasks wait, are served, refused, cancelled and left on closed loops, several of these in one step."""

    kind: type[Waiters[int]] = Waiters

    def __init__(self) -> None:
        super().__init__()
        self.waiters = self.kind("door")
        self.count = 0
        self.begin()

    def begin(self) -> None:
        """Begin a new loop, on which nothing waits."""
        self.loop = loop_at(1_000.7)
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.waiting: list[int] = []  # in the order in which they must be served
        self.cancelled: set[int] = set()  # while they waited
        self.due: list[tuple[int, str]] = []  # how the waits must end
        self.ended: list[tuple[int, str]] = []

    async def wait(self, i: int) -> None:
        """Wait, and note how it ended."""
        self.waiting.append(i)
        try:
            await self.waiters.wait(i, lambda _: False, lambda need: self.ended.append((need, "undone")))
        except asyncio.CancelledError:
            if (i, "served") in self.due:  # too late: what it was given has to be given back
                self.due.remove((i, "served"))
                self.due.append((i, "undone"))
        except LookupError:
            self.ended.append((i, "refused"))
        else:
            self.ended.append((i, "served"))

    def serve(self, most: int, refuse: bool) -> None:
        """Serve up to `most` waiters, and refuse the first if so told."""
        served: list[int] = []
        live = [i for i in self.waiting if i not in self.cancelled]

        def grant(i: int) -> bool:
            if refuse and i == live[0]:
                raise LookupError
            if len(served) < most:
                served.append(i)
                return True
            return False

        self.waiters.serve(grant)
        if refuse and live:
            self.due.append((live[0], "refused"))
        assert served == live[refuse:][:most]
        self.due += [(i, "served") for i in served]
        gone = {*served, *live[:refuse]}
        self.waiting = [i for i in self.waiting if i not in gone]

    def cancel(self, number: int) -> None:
        """Cancel a task that has not ended."""
        if live := [i for i, task in self.tasks.items() if not task.done()]:
            i = live[number % len(live)]
            self.tasks[i].cancel()
            if i in self.waiting:
                self.cancelled.add(i)
            elif (i, "refused") in self.due:
                self.due.remove((i, "refused"))  # the cancellation comes first

    ACTIONS = st.sampled_from(["join", "join", "serve", "refuse", "cancel", "serve then cancel"])

    @rule(actions=st.lists(st.tuples(ACTIONS, st.integers(0, 3)), max_size=4))
    def step(self, actions: list[tuple[str, int]]) -> None:
        """Do all of this in one turn of the loop."""
        errors: list[BaseException] = []

        def act() -> None:
            try:
                for action, number in actions:
                    if action == "join":
                        self.count += 1
                        self.tasks[self.count] = self.loop.create_task(self.wait(self.count))
                    if action in ("serve", "refuse", "serve then cancel"):
                        self.serve(number, action == "refuse")
                    if "cancel" in action:
                        self.cancel(number if action == "cancel" else 0)  # 0: one that was served just now, if any
            except BaseException as error:
                errors.append(error)

        self.loop.call_soon(act)
        self.turn()
        for error in errors:
            raise error

    def turn(self) -> None:
        """Let everything that is ready run once."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    @rule()
    def settle(self) -> None:
        """Let every task run as far as it can; then the queue holds exactly those that still wait."""
        for _ in range(4):
            self.turn()
        self.waiting = [i for i in self.waiting if i not in self.cancelled]
        assert list(self.waiters) == self.waiting
        assert len(self.waiters) == len(self.waiting)
        assert sorted(self.ended) == sorted(self.due)
        assert all(task.done() == (i not in self.waiting) for i, task in self.tasks.items())

    @rule()
    def close(self) -> None:
        """The loop closes although tasks wait; they no longer count."""
        self.settle()
        self.loop.set_exception_handler(lambda loop, context: None)  # tasks that are left behind
        self.loop.close()
        assert len(self.waiters) == 0
        self.begin()

    @invariant()
    def counts_its_peak(self) -> None:
        """The peak is never below what waits now."""
        assert self.waiters.peak >= len(self.waiters)

    def teardown(self) -> None:
        """Leave no task behind."""
        self.settle()
        for task in self.tasks.values():
            task.cancel()
        self.loop.run_until_complete(turns())
        self.loop.close()


QUEUE = settings(max_examples=60, stateful_step_count=30)
TestQueue = Queue.TestCase
TestQueue.settings = QUEUE


class NeverUndone(Waiters[int]):
    """Broken: a waiter cancelled after it was served keeps what it was given."""

    async def wait(self, need: int, grant: Any, undo: Any = None) -> None:
        """Forget `undo`."""
        await super().wait(need, grant)


class LastComeFirstServed(Waiters[int]):
    """Broken: the newest waiter is served first."""

    def serve(self, grant: Callable[[int], bool]) -> None:
        """Turn the queue around."""
        for turn in list(self._turns)[::-1][1:]:
            self._turns.move_to_end(turn)
        super().serve(grant)


class ServesTheCancelled(Waiters[int]):
    """Broken: a turn given to a cancelled waiter is lost."""

    def serve(self, grant: Callable[[int], bool]) -> None:
        """Ask for every waiter, whether or not it still waits."""
        while self._turns and grant(next(iter(self._turns.values()))):
            turn, _ = self._turns.popitem(last=False)
            if not turn.done():
                turn.set_result(None)


class CountsTheDead(Waiters[int]):
    """Broken: the waiters of a closed loop still count."""

    def __len__(self) -> int:
        return len(self._turns)


@pytest.mark.parametrize("broken", [NeverUndone, LastComeFirstServed, ServesTheCancelled, CountsTheDead])
def test_Waiters_broken_ones_are_found_out(broken: type[Waiters[int]]) -> None:
    """The same state machine finds each planted fault."""

    def abandon(machine: Queue) -> None:
        machine.loop.set_exception_handler(lambda loop, context: None)
        if not machine.loop.is_closed():
            machine.turn()
            machine.loop.close()

    machine = type("Broken", (Queue,), {"kind": broken, "teardown": abandon})
    quick = settings(QUEUE, phases=[Phase.generate], print_blob=False)  # to find one is enough: nothing is shrunk
    with pytest.raises((AssertionError, LookupError)):
        run_state_machine_as_test(machine, settings=quick)
