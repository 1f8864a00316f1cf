"""Fault injection: every place where agentkit calls code of the user's, and every way in which that code can raise.

The places are found in the signatures, so a new parameter that takes a function fails the first test until it is
attacked here. `pytest -s` prints the matrix.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import agentkit
from agentkit import (
    Budget,
    CapacityLimiter,
    ConversationState,
    CoordinatorOrchestrator,
    Journal,
    ParallelAgentExecutor,
    RateLimiter,
    Reply,
    Report,
    RetryPolicy,
    SharedState,
    Usage,
    VersionedState,
)
from agentkit.lab import simulate
from agentkit.report.usage import usage_of

Strays = Callable[[], list[str]]
Hook = Callable[[object], None]


class Interrupt(BaseException):
    """Meant to end programs, as KeyboardInterrupt is."""


RAISED: dict[str, Callable[[], BaseException]] = {
    "Exception": lambda: KeyError("planted"),
    "BaseException": Interrupt,
    "CancelledError": asyncio.CancelledError,
    "StopIteration": lambda: StopIteration("planted"),
}
MATRIX: dict[str, dict[str, str]] = {}


@pytest.fixture(scope="module", autouse=True)
def _matrix() -> Iterator[None]:
    yield
    print("\n" + " " * 40 + "".join(f"{kind:18}" for kind in RAISED))
    for place, found in MATRIX.items():
        print(f"{place[:39]:40}" + "".join(f"{found.get(kind, '-'):18}" for kind in RAISED))


# -- the places -------------------------------------------------------------------------------------------------------


def hooks() -> set[str]:
    """Every parameter of a public function, constructor or method of the core that takes a function."""
    found = set()
    for name in agentkit.__all__:
        public = getattr(agentkit, name)
        functions = {name: public.__init__ if isinstance(public, type) else public}
        for base in getattr(public, "__mro__", ()):
            if base.__module__.startswith("agentkit"):
                own = {method: fn for method, fn in vars(base).items() if not method.startswith("_")}
                functions |= {f"{name}.{method}": getattr(fn, "__func__", fn) for method, fn in own.items()}
        for where, function in functions.items():
            if not inspect.isfunction(function):
                continue
            names = vars(sys.modules[function.__module__])
            for parameter in inspect.signature(function).parameters.values():
                annotation = str(parameter.annotation)
                parts = [annotation, *(str(names.get(alias)) for alias in re.findall(r"\w+", annotation))]
                if any("Callable[" in part for part in parts):
                    found.add(f"{where}({parameter.name})")
    return found


class World:
    """Everything that an executor can be given, and five tasks of which one meets the hook under attack."""

    TASKS = ("a", "b", "odd", "c", "d")

    def __init__(self, tmp_path: Any) -> None:
        self.attacked, self.error = True, Exception()
        self.limiter = CapacityLimiter(2)
        self.settings: dict[str, Any] = {}
        self.budget = Budget(calls=1_000, tokens=1e6, estimate=lambda task: 10)
        self.rate = RateLimiter(60_000, 1e6, estimate=lambda task: 10)
        self.retry = RetryPolicy(attempts=2, wait_initial=0.01)
        self.journal: Any = None
        self.tmp_path = tmp_path
        self.runs: dict[str, Any] = {}
        self.tasks: Callable[[], Any] = lambda: list(self.TASKS)
        self.agent: Callable[[Any], Any] = self.usual
        self.executor: ParallelAgentExecutor

    async def usual(self, task: Any) -> Any:
        """An agent that does what it should."""
        await asyncio.sleep(0.01)
        return Reply(f"done {task}", Usage(1, 5, 5))

    def hook(self, met: object) -> None:
        """Raise if this is what the attack is about."""
        if self.attacked and "odd" in str(met):
            raise self.error

    def make(self) -> None:
        """Make the executor."""
        self.executor = ParallelAgentExecutor(
            self.limiter,
            budget=self.budget,
            rate_limiter=self.rate,
            retry=self.retry,
            journal=self.journal,
            **self.settings,
        )

    def check_nothing_held(self) -> None:
        """Every grant is back."""
        slots, spent, rate = self.limiter.statistics(), self.budget.statistics(), self.rate.statistics()
        assert (slots.in_flight, slots.queue_depth) == (0, 0)
        assert (spent.in_flight, spent.queue_depth, spent.held.calls) == (0, 0, 0)
        assert rate.queue_depth == 0
        assert self.limiter._listeners == []
        assert self.limiter.runs == 0

    async def run(self, way: str = "execute") -> Report:
        """One run."""
        if way == "stream":
            async with self.executor.stream(self.tasks(), self.agent) as stream:
                return Report(sorted([outcome async for outcome in stream], key=lambda outcome: outcome.task_id))
        return await self.executor.execute(self.tasks(), self.agent, **self.runs)


Attack = Callable[[World], None]
FAILS: dict[str, tuple[str, Attack]] = {}  # place -> what its note says; the task fails and nothing else
OWN: dict[str, Attack] = {}  # the task fails with its agent's own error
TOLERATED: dict[str, Attack] = {}  # the task succeeds
REFUSED: dict[str, Attack] = {}  # the run does not begin
ENDS_INPUT: dict[str, Attack] = {}  # the source has failed: what it gave is done, and its error is raised


def fails(place: str, says: str) -> Callable[[Attack], Attack]:
    """Register an attack on a hook of a task."""

    def register(attack: Attack) -> Attack:
        FAILS[place] = says, attack
        return attack

    return register


def attack_on(places: dict[str, Attack], *names: str) -> Callable[[Attack], Attack]:
    """Register an attack."""

    def register(attack: Attack) -> Attack:
        places.update(dict.fromkeys(names, attack))
        return attack

    return register


@fails("Budget(estimate)", "estimate of the budget")
def _(world: World) -> None:
    world.budget = Budget(calls=1_000, tokens=1e6, estimate=lambda task: world.hook(task) or 10)


@fails("RateLimiter(estimate)", "estimate of the rate limiter")
def _(world: World) -> None:
    world.rate = RateLimiter(60_000, 1e6, estimate=lambda task: world.hook(task) or 10)


@fails("RetryPolicy(on)", "on of the retry policy")
def _(world: World) -> None:
    async def agent(task: str) -> Any:
        if world.attacked and task == "odd":
            raise ValueError("odd")
        return await world.usual(task)

    world.agent, world.retry = agent, RetryPolicy(on=lambda error: world.hook(error) or False)


@fails("Journal(key)", "key of the journal")
def _(world: World) -> None:
    world.journal = Journal(world.tmp_path / "journal", work="any", key=lambda task: world.hook(task) or task)


@fails("ParallelAgentExecutor(usage)", "usage of the executor")
def _(world: World) -> None:
    world.settings["usage"] = lambda result: world.hook(result) or usage_of(result)


class Odd:
    """A task whose own methods raise."""

    def __init__(self, world: World, method: str) -> None:
        self._world, self._method = world, method

    def _met(self, method: str) -> str:
        if self._method == method:
            self._world.hook("odd")
        return "odd"

    def __str__(self) -> str:
        return self._met("__str__")

    def __repr__(self) -> str:
        return self._met("__repr__")


@fails("task.__str__, read by the budget", "estimate of the budget")
def _(world: World) -> None:
    world.tasks = lambda: ["a", "b", Odd(world, "__str__"), "c", "d"]
    world.budget = Budget(tokens=1e6, reserve=True)

    class Agent:
        max_tokens = 10

        async def __call__(self, task: Any) -> Any:
            return await world.usual("any")

    world.agent = Agent()


@fails("task.__str__, read by the rate limiter", "estimate of the rate limiter")
def _(world: World) -> None:
    world.tasks = lambda: ["a", "b", Odd(world, "__str__"), "c", "d"]
    world.rate = RateLimiter(60_000, 1e6)


@fails("task.__repr__, read by the journal", "key of the journal")
def _(world: World) -> None:
    world.tasks = lambda: ["a", "b", Odd(world, "__repr__"), "c", "d"]
    world.journal = Journal(world.tmp_path / "journal", work="any")


@attack_on(
    OWN,
    "ParallelAgentExecutor.execute(agent_fn)",
    "ParallelAgentExecutor.start(agent_fn)",
    "ParallelAgentExecutor.stream(agent_fn)",
    "ParallelAgentExecutor.map(agent_fn)",
    "ParallelAgentExecutor.call(agent_fn)",
)
def _(world: World) -> None:
    async def agent(task: str) -> Any:
        world.hook(task)
        return await world.usual(task)

    world.agent = agent


@attack_on(OWN, "plain agent, in a thread")
def _(world: World) -> None:
    def agent(task: str) -> Any:
        world.hook(task)
        return Reply("done", Usage(1, 5, 5))

    world.agent = agent


def _error_with(name: str) -> Attack:
    def attack(world: World) -> None:
        class Strange(Exception):
            pass

        setattr(Strange, name, property(lambda error: world.hook("odd")))
        if name.startswith("__"):
            setattr(Strange, name, lambda error: world.hook("odd") or "odd")

        async def agent(task: str) -> Any:
            if world.attacked and task == "odd":
                raise Strange
            return await world.usual(task)

        world.agent = agent

    return attack


for _name in ("__str__", "__repr__", "status_code", "response", "code", "type", "headers", "partial"):
    OWN[f"error.{_name}"] = _error_with(_name)


def _result_with(*names: str) -> Attack:
    def attack(world: World) -> None:
        class Strange:
            pass

        attribute = property(lambda owner: world.hook("odd"))
        figures = {"input_tokens": 5, "output_tokens": 5}
        inner: Any = type("Inner", (), {**figures, names[-1]: attribute})() if len(names) > 1 else attribute
        setattr(Strange, names[0], inner)

        async def agent(task: str) -> Any:
            done = await world.usual(task)
            return Strange() if world.attacked and task == "odd" else done

        world.agent = agent

    return attack


TOLERATED["result.usage"] = _result_with("usage")
TOLERATED["result.usage.input_tokens"] = _result_with("usage", "input_tokens")
TOLERATED["result.usage.requests"] = _result_with("usage", "requests")
TOLERATED["result.model"] = _result_with("model")


@attack_on(TOLERATED, "agent.instructions", "agent.max_tokens", "agent.model")
def _(world: World) -> None:
    class Agent:
        async def __call__(self, task: Any) -> Any:
            return await world.usual(task)

        instructions = max_tokens = model = property(lambda agent: world.hook("odd"))

    world.agent, world.rate = Agent(), RateLimiter(60_000, 1e6)
    world.budget = Budget(calls=1_000, tokens=1e6)


class Tasks:
    """An iterable of tasks; one of its methods raises."""

    def __init__(self, world: World, method: str) -> None:
        self._world, self._method, self._left = world, method, iter(World.TASKS)

    def _met(self, method: str) -> None:
        if method == self._method:
            self._world.hook("odd")

    def __len__(self) -> int:
        self._met("__len__")
        return len(World.TASKS)

    def __iter__(self) -> Iterator[str]:
        self._met("__iter__")
        return self

    def __next__(self) -> str:
        task = next(self._left)
        if task == "odd":
            self._met("__next__")
        return task


class Pages:
    """An async iterable of tasks; one of its methods raises."""

    def __init__(self, world: World, method: str) -> None:
        self._world, self._method, self._left = world, method, iter(World.TASKS)

    def __aiter__(self) -> Pages:
        if self._method == "__aiter__":
            self._world.hook("odd")
        return self

    async def __anext__(self) -> str:
        await asyncio.sleep(0)
        if (task := next(self._left, None)) is None:
            raise StopAsyncIteration
        if self._method == "__anext__":
            self._world.hook(task)
        return task


def _source(make: Callable[[World, str], Any], method: str) -> Attack:
    def attack(world: World) -> None:
        world.tasks = lambda: make(world, method)

    return attack


for _method in ("__len__", "__iter__"):
    REFUSED[f"tasks.{_method}"] = _source(Tasks, _method)
REFUSED["tasks.__aiter__"] = _source(Pages, "__aiter__")
ENDS_INPUT["tasks.__next__"] = _source(Tasks, "__next__")
ENDS_INPUT["tasks.__anext__"] = _source(Pages, "__anext__")


@attack_on(
    REFUSED,
    "ParallelAgentExecutor.execute(cost)",
    "ParallelAgentExecutor.start(cost)",
    "ParallelAgentExecutor.map(cost)",
)
def _(world: World) -> None:
    world.runs["cost"] = lambda task: world.hook(task) or 1


def _limiter_that_refuses(method: str) -> Attack:
    def attack(world: World) -> None:
        class Limiter(CapacityLimiter):
            __slots__ = ()

        usual = getattr(CapacityLimiter, method)
        setattr(Limiter, method, lambda limiter, listener: world.hook("odd") or usual(limiter, listener))
        world.limiter = Limiter(2)

    return attack


REFUSED["limiter.join"] = _limiter_that_refuses("join")
REFUSED["limiter.subscribe"] = _limiter_that_refuses("subscribe")


@attack_on(REFUSED, "journal that cannot be opened")
def _(world: World) -> None:
    world.journal = Journal(world.tmp_path / "journal", work="any")
    opened = world.journal._index.open
    world.journal._index.open = lambda work: world.hook("odd") or opened(work)


def _create_task(call: int) -> Attack:
    def attack(world: World) -> None:
        calls = iter(range(1, 100))
        world.runs["on_create_task"] = lambda: world.hook("odd" if next(calls) == call else "")

    return attack


REFUSED["loop.create_task, first call"] = _create_task(1)
REFUSED["loop.create_task, of an async source"] = _create_task(2)
ENDS_INPUT["loop.create_task, of an attempt"] = _create_task(4)


ALONE = {  # called by the caller itself, where it is: what they raise is raised there
    "ConversationState.merge(resolve)",
    "SharedState.read(fn)",
    "SharedState.update(fn)",
    "VersionedState.update(fn)",
    "VersionedState.update_async(fn)",
}
ELSEWHERE = {
    "AdaptiveLimiter.join(listener)": "test_waiters",
    "AdaptiveLimiter.subscribe(listener)": "test_waiters",
    "CapacityLimiter.join(listener)": "test_waiters",
    "CapacityLimiter.subscribe(listener)": "test_waiters",
    "ChatAgent(client)": "inside the agent, so the agent raises",
    "ChatAgent(stream)": "inside the agent, so the agent raises",
    "ChatAgent.ask(stream)": "inside the agent, so the agent raises",
    "CoordinatorOrchestrator(done)": "a test of its own below",
    "ParallelAgentExecutor.execute(aggregator)": "a test of its own below",
    "Run.wait_until_over(waiting)": "agentkit's own",
}


def test_every_hook_is_attacked():
    """What the signatures show is what is attacked here."""
    assert hooks() == {
        place for place in {*FAILS, *OWN, *TOLERATED, *REFUSED, *ENDS_INPUT, *ALONE, *ELSEWHERE} if "(" in place
    }


# -- the attacks ------------------------------------------------------------------------------------------------------


def attack(world: World, prepare: Attack, kind: str, strays: Strays, check: Callable[[Any, Any], str], way: str) -> str:
    """Run under attack, then once more without; `check(report, error)` says in a word what came of it."""
    prepare(world)
    world.make()
    world.error = RAISED[kind]()

    async def main() -> str:
        loop, report, error = asyncio.get_running_loop(), None, None
        create_task, on_create_task = loop.create_task, world.runs.pop("on_create_task", lambda: None)
        loop.create_task = lambda *args, **kwargs: on_create_task() or create_task(*args, **kwargs)  # type: ignore
        try:
            report = await world.run(way)
        except BaseException as raised:
            error = raised
        loop.create_task = create_task  # type: ignore[method-assign]
        await asyncio.sleep(0)
        found = check(report, error)
        report = error = None
        assert strays() == []
        world.check_nothing_held()
        world.limiter.limit = 3
        await asyncio.sleep(1)
        assert strays() == []
        world.attacked = False
        again = await world.run(way)
        assert [outcome.status for outcome in again] == ["success"] * 5
        world.check_nothing_held()
        return found

    return simulate(main)


def statuses(report: Any) -> list[str]:
    """The status of each task."""
    return [outcome.status for outcome in report]


def stopped_by(error: Any) -> str:
    """The check for what is meant to end programs: it reaches the caller, with the report."""
    assert type(error) is Interrupt
    assert len(error.report) == 5
    assert "success" not in statuses(error.report)[2:3]
    return "raised, report"


WAYS = pytest.mark.parametrize("way", ["execute", "stream"])
KINDS = pytest.mark.parametrize("kind", RAISED)


@WAYS
@KINDS
@pytest.mark.parametrize("place", FAILS)
def test_hook_of_a_task_fails_that_task(place: str, kind: str, way: str, tmp_path: Any, strays: Strays):
    """The error names the hook, the other tasks are done, and nothing is held."""
    says, prepare = FAILS[place]

    def check(report: Any, error: Any) -> str:
        if kind == "BaseException":
            assert type(error) is Interrupt
            return "raised" if way == "stream" else stopped_by(error)
        assert error is None, repr(error)
        assert statuses(report) == ["success", "success", "failed", "success", "success"]
        odd = report.individual_results[2].error
        named = f"raised by the {says}" if kind == "Exception" else f"the {says} raised {kind}"
        assert named in (odd.__notes__ if kind == "Exception" else [str(odd)])
        return "task failed"

    MATRIX.setdefault(place, {})[kind] = attack(World(tmp_path), prepare, kind, strays, check, way)


@WAYS
@KINDS
@pytest.mark.parametrize("place", OWN)
def test_agent_and_its_errors_fail_that_task(place: str, kind: str, way: str, tmp_path: Any, strays: Strays):
    """Whatever the agent raises, and whatever that error raises when it is looked at."""

    def check(report: Any, error: Any) -> str:
        if kind == "BaseException" and error is not None:
            assert type(error) is Interrupt
            return "raised" if way == "stream" else stopped_by(error)
        assert error is None, repr(error)
        odd = report.individual_results[2]
        assert statuses(report) == ["success", "success", odd.status, "success", "success"]
        assert odd.status == ("cancelled" if isinstance(odd.error, asyncio.CancelledError) else "failed")
        if place.startswith("error."):
            assert type(odd.error).__name__ == "Strange"
        return "task failed"

    MATRIX.setdefault(place, {})[kind] = attack(World(tmp_path), OWN[place], kind, strays, check, way)


@WAYS
@KINDS
@pytest.mark.parametrize("place", TOLERATED)
def test_attribute_that_raises_counts_as_missing(place: str, kind: str, way: str, tmp_path: Any, strays: Strays):
    """A good answer stays one, though its usage cannot be read."""

    def check(report: Any, error: Any) -> str:
        if kind == "BaseException":
            assert type(error) is Interrupt
            return "raised" if way == "stream" else "raised, report"
        assert error is None, repr(error)
        assert statuses(report) == ["success"] * 5
        return "success"

    MATRIX.setdefault(place, {})[kind] = attack(World(tmp_path), TOLERATED[place], kind, strays, check, way)


@WAYS
@KINDS
@pytest.mark.parametrize("place", REFUSED)
def test_run_that_cannot_begin_does_not_begin(place: str, kind: str, way: str, tmp_path: Any, strays: Strays):
    """All or nothing: the caller gets the error, and no task runs, not even after the limit has changed."""
    if way == "stream" and "(cost)" in place:
        pytest.skip("a stream takes no cost")
    world, begun = World(tmp_path), []
    usual = world.usual

    async def agent(task: Any) -> Any:
        if world.attacked:
            begun.append(task)
        return await usual(task)

    def prepare(world: World) -> None:
        REFUSED[place](world)
        if place.endswith("of an async source"):
            world.tasks = lambda: Pages(world, "")
        world.agent = agent

    def check(report: Any, error: Any) -> str:
        assert report is None
        assert isinstance(error, type(world.error) | RuntimeError), repr(error)
        return "refused"

    MATRIX.setdefault(place, {})[kind] = attack(world, prepare, kind, strays, check, way)
    assert begun == []


@WAYS
@KINDS
@pytest.mark.parametrize("place", ENDS_INPUT)
def test_source_that_fails_ends_the_input(place: str, kind: str, way: str, tmp_path: Any, strays: Strays):
    """What it gave before is done, and its error is raised with the report."""
    world = World(tmp_path)
    if place.startswith("loop") and kind in ("CancelledError", "StopIteration"):
        pytest.skip("a loop raises neither")

    def check(report: Any, error: Any) -> str:
        if kind == "StopIteration" and place == "tasks.__next__":
            assert statuses(report) == ["success", "success"]
            return "end of input"
        if place.startswith("loop"):
            assert isinstance(error, type(world.error) | RuntimeError)
            assert way == "stream" or len(error.report) == 5
            return "raised, report"
        assert isinstance(error, Interrupt if kind == "BaseException" else KeyError | RuntimeError), repr(error)
        if way == "execute" and kind != "BaseException":
            assert statuses(error.report) == ["success", "success"]
        return "raised, report"

    MATRIX.setdefault(place, {})[kind] = attack(world, ENDS_INPUT[place], kind, strays, check, way)


@KINDS
@pytest.mark.parametrize("is_async", [False, True])
def test_aggregator_that_raises_has_the_report(kind: str, is_async: bool, tmp_path: Any, strays: Strays):
    """All tasks are done by then; the caller gets the error with them."""

    def prepare(world: World) -> None:
        async def later(outcomes: Any) -> None:
            world.hook("odd")

        world.runs["aggregator"] = later if is_async else lambda outcomes: world.hook("odd")

    def check(report: Any, error: Any) -> str:
        assert is_async or not isinstance(error, asyncio.CancelledError)
        assert statuses(error.report) == ["success"] * 5
        assert "the aggregator" in "".join([str(error), *error.__notes__])
        return "raised, report"

    place = "ParallelAgentExecutor.execute(aggregator)"
    MATRIX.setdefault(place, {})[kind] = attack(World(tmp_path), prepare, kind, strays, check, "execute")


@KINDS
def test_functions_of_states_raise_where_they_are_called(kind: str):
    """The state keeps its value, and is not locked."""

    def bad(*values: Any) -> Any:
        raise RAISED[kind]()

    async def later(*values: Any) -> Any:
        raise RAISED[kind]()

    async def main() -> None:
        shared, versioned = SharedState({"a": 1}), VersionedState(a=1)
        one, two = (ConversationState().add_output("a", value) for value in (1, 2))
        for call in (
            lambda: shared.read(bad),
            lambda: shared.update(bad),
            lambda: versioned.update("a", bad),
            lambda: one.merge(two, resolve=bad),
        ):
            with pytest.raises((type(RAISED[kind]()), RuntimeError)):
                call()
        with pytest.raises((type(RAISED[kind]()), RuntimeError)):
            await versioned.update_async("a", later)
        assert versioned.update("a", lambda value: value + 1) == 2
        assert shared.update(lambda value: {"a": 3}) == {"a": 3}

    simulate(main)


@pytest.mark.parametrize("figure", [None, -1, float("nan"), float("inf"), "12", True, [], 10**400])
@pytest.mark.parametrize("name", ["input_tokens", "output_tokens"])
def test_usage_that_makes_no_sense_is_unknown(figure: Any, name: str):
    """Such a call is charged its estimate; the run goes on, and the budget stays a number."""

    async def agent(task: int) -> Any:
        usage = {"input_tokens": 1, "output_tokens": 2} | {name: figure}
        return SimpleNamespace(usage=SimpleNamespace(**usage), text="fine")

    async def main() -> tuple[int, Any, float]:
        budget = Budget(tokens=1_000, estimate=lambda task: 10)
        rate = RateLimiter(60_000, 1e6, estimate=lambda task: 10)
        report = await ParallelAgentExecutor(2, budget=budget, rate_limiter=rate).execute(range(6), agent)
        return report.summary.succeeded, budget.statistics(), rate.statistics().tokens

    succeeded, spent, tokens = simulate(main)
    assert (succeeded, spent.in_flight, tokens) == (6, 0, 60)
    assert (spent.used.tokens, spent.guessed) == (60, 6)


@KINDS
def test_coordinator_whose_done_raises_names_it(kind: str, strays: Strays):
    """It does not look as if the caller were cancelled, and no turn is left running."""

    async def plan(*asked: Any) -> str:
        return '{"one": "Why?"}'

    async def join(*asked: Any) -> str:
        return "joined"

    def bad(answer: str) -> bool:
        raise RAISED[kind]()

    async def main() -> None:
        team = CoordinatorOrchestrator(plan, {"one": join}, join, done=bad)
        with pytest.raises((type(RAISED[kind]()), RuntimeError)) as caught:
            await team.run("Why?")
        assert not isinstance(caught.value, asyncio.CancelledError)
        assert "the done of the coordinator" in "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
        assert strays() == []

    simulate(main)
