"""Odd arguments: each parameter of each public constructor and method either refuses a value by name, or works."""

from __future__ import annotations

import asyncio
import inspect
import math
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import openai
import pytest

import agentkit
from agentkit import (
    AdaptiveLimiter,
    Agent,
    Budget,
    BudgetExceeded,
    CapacityLimiter,
    ChatAgent,
    Conflict,
    ConversationState,
    CoordinatorOrchestrator,
    Journal,
    KeyedLock,
    Outcome,
    ParallelAgentExecutor,
    ParallelOrchestrator,
    Pipeline,
    RateLimiter,
    Reply,
    Report,
    RetryPolicy,
    SequentialOrchestrator,
    SharedState,
    TokenBucket,
    TracedLock,
    Usage,
    VersionedState,
    lab,
)
from agentkit.base import arguments
from agentkit.base.arguments import attribute, number, shown, whole
from agentkit.lab import ControlRoom, Deadlock, Fault, Faults, Latency, Limits, Provider, Scheduler, simulate


class Odd:
    """A class, and an object, that mean nothing."""

    def __init__(self, *args: Any, **more: Any) -> None:
        pass


async def odd_async(*args: Any, **more: Any) -> int:
    """Return five, late."""
    return 5


ODD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "-1": lambda: -1,
    "0": lambda: 0,
    "1": lambda: 1,
    "2.5": lambda: 2.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "-inf": lambda: -math.inf,
    "5e-324": lambda: 5e-324,
    "1e308": lambda: 1e308,
    "10**400": lambda: 10**400,
    "10**5000": lambda: 10**5000,
    "True": lambda: True,
    "''": lambda: "",
    "'5'": lambda: "5",
    "huge": lambda: "x" * 1_000_000,
    "surrogate": lambda: "\ud800",
    "b''": lambda: b"",
    "[]": list,
    "[None]": lambda: [None],
    "()": lambda: (),
    "{}": dict,
    "{'a': 1}": lambda: {"a": 1},
    "object": object,
    "class": lambda: Odd,
    "lambda": lambda: lambda *args, **more: 5,
    "async": lambda: odd_async,
    "generator": lambda: (i for i in range(2)),
    "int64(3)": lambda: np.int64(3),
    "int64(-3)": lambda: np.int64(-3),
    "float32(0.5)": lambda: np.float32(0.5),
    "float64(nan)": lambda: np.float64("nan"),
    "bool_": lambda: np.bool_(True),
    "array": lambda: np.array([1, 2]),
    "Decimal": lambda: Decimal(2),
    "Fraction": lambda: Fraction(1, 2),
    "huge fraction": lambda: Fraction(10**400),
    "complex": lambda: 1j,
    "exception": lambda: ValueError("no"),
}


class Answers(Agent):
    """An agent that says what it was asked."""

    async def process(self, prompt: str, context: Any = None) -> str:
        """Return the prompt."""
        return str(prompt)


async def team() -> list[int]:
    """Two agents that take turns."""

    async def agent() -> int:
        await asyncio.sleep(0)
        return 1

    return await asyncio.gather(agent(), agent())


def chat() -> ChatAgent:
    """An agent on a provider of its own."""
    return ChatAgent("echo", client=Provider("open").client())


def coordinator() -> CoordinatorOrchestrator:
    """A lead with one specialist."""
    return CoordinatorOrchestrator(lambda question, state: {"a": "why"}, {"a": odd_async})


# What a constructor or method is called with, apart from the odd value; a method has the instance's maker in MAKE.
VALID: dict[str, dict[str, Any]] = {
    "Agent": {"name": "a"},
    "BrokenAnswer": {"message": "cut", "partial": Reply("")},
    "CapacityLimiter": {"limit": 2},
    "ConversationState.add_message": {"role": "user", "content": "why"},
    "ConversationState.add_output": {"agent": "a", "output": "why"},
    "ConversationState.from_messages": {"messages": []},
    "ConversationState.merge": {"other": ConversationState()},
    "CoordinatorOrchestrator": {"router": lambda question, state: {"a": "why"}, "specialists": {"a": odd_async}},
    "CoordinatorOrchestrator.process": {"prompt": "why"},
    "CoordinatorOrchestrator.run_coordinated": {"question": "why"},
    "CoordinatorOrchestrator.run": {"question": "why"},
    "CoordinatorOrchestrator.stream": {"question": "why"},
    "KeyedLock.hold": {"key": "a"},
    "KeyedLock.locked": {"key": "a"},
    "AdaptiveLimiter.observe": {"started": 0, "finished": 1},
    "ParallelAgentExecutor.call": {"task": "a", "agent_fn": id},
    "ParallelOrchestrator.run": {"agents": [Answers("a")], "prompts": ["why"]},
    "ParallelOrchestrator.run_parallel": {"agents": [Answers("a")], "prompts": ["why"]},
    "ParallelOrchestrator.run_with_limit": {"agent": Answers("a"), "prompt": "why"},
    "Pipeline": {"stages": [str.upper]},
    "Pipeline.execute": {"items": ["a"]},
    "Pipeline.stream": {"items": ["a"]},
    "Reply": {"text": "yes"},
    "Report": {"individual_results": [Outcome(0, "a", "success", 1, started=0.0, finished=1.0)]},
    "RateLimiter": {"requests_per_minute": 60, "tokens_per_minute": 600},
    "RateLimiter.cost": {"task": "a"},
    "RetryPolicy.kind": {"error": TimeoutError()},
    "RetryPolicy.wait": {"error": TimeoutError(), "attempt": 1, "waited": 0, "rng": random.Random(0)},
    "SequentialOrchestrator.run": {"agents": [Answers("a")], "prompts": ["why"]},
    "SequentialOrchestrator.run_sequential": {"agents": [Answers("a")], "prompts": ["why"]},
    "SharedState": {"value": 1},
    "SharedState.update": {"fn": lambda old: old},
    "TokenBucket": {"rate": 1, "capacity": 2},
    "TokenBucket.per_minute": {"limit": 60},
    "TokenBucket.resize": {"rate": 1, "capacity": 2, "now": 0},
    "VersionedState.get": {"key": "a"},
    "VersionedState.set": {"key": "a", "value": 1, "expected": 0},
    "VersionedState.update": {"key": "a", "fn": lambda old: 1},
    "VersionedState.update_async": {"key": "a", "fn": odd_async},
    "ChatAgent.ask": {"prompt": "why"},
    "ChatAgent.messages": {"prompt": "why"},
    "ChatAgent.process": {"prompt": "why"},
    "Fault": {"kind": "cut"},
    "Faults.choose": {"call": 1, "seed": "a"},
    "Latency.draw": {"seed": "a", "prompt_tokens": 1, "answer_tokens": 1, "max_tokens": None},
    "Latency.preset": {"name": "fast"},
    "Limits.preset": {"name": "free"},
    "Provider.subscribe": {"listener": print},
    "Scheduler": {"scenario": team},
    "Scheduler.step": {"agent": "A"},
    "Stepper": {"main": team},
    "block": {"seconds": 1},
    "check": {"name": "ex-none", "answer": 1},
    "claim": {"id": "self-wait"},
    "data_path": {"name": "documents.csv"},
    "explore": {"scenario": team, "max_runs": 2},
    "hammer": {"fn": lambda: 1, "threads": 2, "iterations": 2, "rounds": 1},
    "hint": {"name": "ex-none"},
    "opcode_explore": {"setup": list, "worker": len, "invariant": bool},
    "play": {"scenario": team},
    "predict": {"question": "how many", "options": [1, 2]},
    "quiz": {"number": "01"},
    "simulate": {"main": team},
    "span": {"name": "calling"},
    "trace": {"main": team},
    "tune": {"draw": lambda k: None, "k": [1, 2]},
}
for _method in ("execute", "start", "map", "stream"):
    VALID[f"ParallelAgentExecutor.{_method}"] = {"tasks": ["a", "b"], "agent_fn": id}
for _method in ("try_take", "charge", "give_back", "wait"):
    VALID[f"TokenBucket.{_method}"] = {"amount": 1, "now": 0}
for _method in ("credit", "level"):
    VALID[f"TokenBucket.{_method}"] = {"now": 0}

MAKE: dict[str, Callable[[], Any]] = {
    "AdaptiveLimiter": AdaptiveLimiter,
    "Budget": lambda: Budget(money=1, prices=(1, 1)),
    "CapacityLimiter": lambda: CapacityLimiter(2),
    "ChatAgent": chat,
    "ConversationState": ConversationState,
    "CoordinatorOrchestrator": coordinator,
    "KeyedLock": KeyedLock,
    "ParallelAgentExecutor": ParallelAgentExecutor,
    "ParallelOrchestrator": ParallelOrchestrator,
    "Pipeline": lambda: Pipeline([str.upper]),
    "RateLimiter": lambda: RateLimiter(60, 600),
    "Report": lambda: Report([]),
    "RetryPolicy": RetryPolicy,
    "SequentialOrchestrator": SequentialOrchestrator,
    "SharedState": lambda: SharedState(1),
    "TokenBucket": lambda: TokenBucket(1, 2),
    "VersionedState": VersionedState,
    "Faults": Faults,
    "Latency": Latency,
    "Limits": Limits,
    "ControlRoom": ControlRoom,
    "Provider": lambda: Provider("open"),
    "Scheduler": lambda: Scheduler(team),
}

# Records that only the kit fills in, errors, and what is called by the kit alone.
RECORDS = {"Attempt", "Outcome", "Summary", "Run", "Exploration", "Hammering", "LoopTrace", "Play"}
ERRORS = {"BudgetExceeded", "Conflict", "LockOrderError", "QueueFull", "Deadlock"}
INSIDE = {
    "Budget.check",
    "Budget.close_claim",
    "Journal.writer",
    "LockOrder.acquired",
    "LockOrder.acquiring",
    "LockOrder.released",
    "Latency.draw",
    "Faults.choose",
    "Report.load",  # files are tried in test_report.py
    "Report.save",
}
# What takes anything: tasks, questions and answers are the caller's.
ANYTHING = {"task", "question", "content", "output", "value", "answer", "default", "prompt", "prompts", "key"}
ALIAS = {"max_concurrent": "max_concurrency", "context": "initial_state", "state": "initial_state", "name": "preset"}
ALIAS |= {"max_concurrency": "limit", "choices": "step 1 cannot be", "agent": "step 1 cannot be"}
LOOKUPS = {"claim", "data_path", "check", "hint", "quiz"}


def public_callables() -> Iterator[tuple[str, Any]]:
    """Find every public function, constructor and method, by its name."""
    for module in (agentkit, lab):
        for name in module.__all__:
            found = getattr(module, name)
            if name in RECORDS | ERRORS or name == "VirtualLoop":
                continue
            if not inspect.isclass(found):
                yield name, found
                continue
            yield name, Answers if found is Agent else found
            mine = [base for base in found.__mro__ if base.__module__.startswith("agentkit") and name != "Agent"]
            for method in sorted({method for base in mine for method in vars(base) if not method.startswith("_")}):
                function = getattr(found, method)
                if inspect.isroutine(function) and callable(function) and f"{name}.{method}" not in INSIDE:
                    yield f"{name}.{method}", function


def parameters() -> Iterator[tuple[str, str]]:
    """Find every parameter of these."""
    for name, function in public_callables():
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name != "self" and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                yield name, parameter.name


def setters() -> Iterator[tuple[str, str]]:
    """Find every attribute that can be assigned and is checked."""
    for name, make in MAKE.items():
        kind = type(make())
        for found in (vars(base) for base in kind.__mro__ if base.__module__.startswith("agentkit")):
            for name_of, value in found.items():
                if isinstance(value, type(attribute(number))) or (isinstance(value, property) and value.fset):
                    yield name, name_of


async def finished(result: Any) -> Any:
    """Wait for what a method returned, for a virtual while: a slot or an endless answer may never come."""
    with suppress(TimeoutError):
        async with asyncio.timeout(1e6):
            if hasattr(result, "__aenter__"):
                async with result:
                    pass
            elif inspect.isawaitable(result):
                result = await result
            elif hasattr(result, "__aiter__"):
                async for _ in result:
                    pass
    return result


async def used(made: Any) -> None:
    """Use what was made from an odd value: if it was accepted, it has to work."""
    repr(made)
    if isinstance(made, CapacityLimiter | TracedLock | RateLimiter):
        await finished(made)
    if isinstance(made, RateLimiter):
        made.cost("a")
    elif isinstance(made, KeyedLock):
        await finished(made.hold("a"))
    elif isinstance(made, TokenBucket):
        made.try_take(1, 0)
    elif isinstance(made, Budget):
        made.try_acquire({"prompt": "why", "max_tokens": 5})
    elif isinstance(made, RetryPolicy):
        made.begin().next_wait(TimeoutError(), 1, 0.0, 1.0)
    elif isinstance(made, ParallelAgentExecutor):
        await finished(made.execute(["a"], str.upper))
    elif isinstance(made, Pipeline):
        await finished(made.execute(["a"]))
    elif isinstance(made, CoordinatorOrchestrator):
        await finished(made.run_coordinated("why"))
    elif isinstance(made, ChatAgent):
        await finished(made.ask("why"))
    elif isinstance(made, Limits | Latency | Faults):
        await finished(ChatAgent("a", client=Provider("open", **{type(made).__name__.lower(): made}).client()).ask("b"))
    elif isinstance(made, Provider):
        await finished(ChatAgent("a", client=made.client()).ask("b"))
    elif isinstance(made, Usage):
        made + made


def judged(name: str, parameter: str, value: Any, act: Callable[[], Any]) -> None:
    """Run one case: fine, or an error that names parameter and value."""
    case = f"{name}({parameter}={shown(value)})"
    inside = callable(value) or isinstance(value, list | dict | tuple | np.ndarray) or inspect.isgenerator(value)
    try:
        act()
    except (Deadlock, BudgetExceeded, Conflict, openai.APIError, UnicodeEncodeError, ConnectionError, ImportError):
        pass  # it waits forever, a limit is met, an endpoint refuses, a string is not UTF-8, a package is missing
    except (LookupError, FileNotFoundError) as error:
        if name not in LOOKUPS:
            raise AssertionError(f"{case} raised {error!r}") from error
    except RuntimeError as error:
        if not callable(value) and name != "ControlRoom.wait":
            raise AssertionError(f"{case} raised {error!r}") from error
    except (TypeError, ValueError) as error:
        said = str(error)
        assert len(said) < 2_000
        if name in LOOKUPS or (type(value) is int and "4300 digits" in said and parameter in ANYTHING | {"agent"}):
            return  # no such exercise or lesson; a number that Python itself does not print
        names = [parameter, ALIAS.get(parameter, parameter)]
        if inside or parameter in ANYTHING:  # the error is about an item, or a function's own
            names += ["must", "not JSON serializable", "unexpected keyword", "await"]
        assert any(known in said for known in names), f"{case} said {said}"
        assert inside or any(known in said for known in values(value)), f"{case} said {said}"


def values(value: Any) -> list[str]:
    """List how a message may show a value."""
    ways = [shown(value)[:20], "got an object", "cannot be"]
    return [*ways, str(int(value))] if isinstance(value, np.integer) else ways


IN_A_LOOP = {"explore", "play", "simulate", "trace", "hammer", "opcode_explore", "ControlRoom", "Scheduler", "Stepper"}


@pytest.mark.parametrize(("name", "parameter"), list(parameters()))
def test_odd_arguments_are_refused_by_name_or_work(name: str, parameter: str, monkeypatch: Any, tmp_path: Any) -> None:
    """Thirty-nine odd values for each parameter; what is accepted is used."""
    monkeypatch.chdir(tmp_path)
    owner, _, method = name.partition(".")

    def act(value: Any) -> Any:
        if method:
            function = getattr(MAKE[owner](), method)
        else:
            function = Answers if name == "Agent" else getattr(agentkit, name, None) or getattr(lab, name)
        valid = VALID.get(name, {})
        if name == "ChatAgent":
            valid = {"name": "echo", "client": Provider("open").client()}
        elif name == "Journal":
            valid = {"path": "j"}
        return function(**{**valid, parameter: value})

    async def in_loop(value: Any) -> None:
        made = await finished(act(value))
        if not (callable(value) or method) or isinstance(made, type(None)):
            await used(made)

    for make in ODD.values():
        value = make()
        if name.split(".")[0] in IN_A_LOOP:
            judged(name, parameter, value, lambda value=value: closed(act(value)))  # type: ignore[misc]
        else:
            judged(name, parameter, value, lambda value=value: simulate(in_loop, value))  # type: ignore[misc]


def closed(made: Any) -> None:
    """Close a panel."""
    repr(made)
    if isinstance(made, ControlRoom):
        made.close()


@pytest.mark.parametrize(("name", "attribute_name"), list(setters()))
def test_odd_assignments_are_refused_by_name_or_work(name: str, attribute_name: str) -> None:
    """The same values, assigned while the object lives."""

    async def assign(value: Any) -> None:
        made = MAKE[name]()
        setattr(made, attribute_name, value)
        if not callable(value):
            await used(made)

    for make in ODD.values():
        value = make()
        judged(name, attribute_name, value, lambda value=value: simulate(assign, value))  # type: ignore[misc]


def test_every_public_method_with_parameters_is_tried() -> None:
    """The tables name nothing that is gone, and a new class needs a maker."""
    names = {name for name, _ in parameters()}
    assert set(VALID) - names <= INSIDE
    assert {name.split(".")[0] for name in names if "." in name} <= set(MAKE)


@pytest.mark.parametrize("value", [np.int64(3), np.int32(3), np.uint8(3), 3])
def test_whole_numbers_of_numpy_are_whole_numbers(value: Any) -> None:
    """A loop over `np.arange` works everywhere, and what is stored is an `int`."""
    assert type(whole("n", value)) is int
    assert CapacityLimiter(value).limit == 3
    assert ParallelAgentExecutor(value, timeout=value, max_failures=value).limiter.limit == 3
    assert type(RetryPolicy(value, wait_initial=value).attempts) is int
    assert RateLimiter(value, value, burst=value).requests_per_minute == 3
    assert Budget(value).calls == 3
    assert Latency(slots=value).slots == 3


def test_refusal_survives_a_broken_repr() -> None:
    """The value's own error does not hide the message."""

    class Broken:
        def __repr__(self) -> str:
            raise KeyError("no")

    with pytest.raises(TypeError, match="n must be a number, got an object of type Broken that has no repr; use 1"):
        number("n", Broken(), "use 1")


def test_ranges_are_told_as_they_are() -> None:
    """Below, above, between: one wording each."""
    said = []
    for check in (
        lambda: number("x", -1, least=0),
        lambda: number("x", 2, least=0, most=1),
        lambda: number("x", 0, above=0),
        lambda: number("x", 61, above=0, most=60),
        lambda: number("x", 10**400, least=0),
        lambda: number("x", 1e-200, above=0),
        lambda: whole("x", 10**400),
        lambda: arguments.choice("x", "c", ("a", "b")),
        lambda: arguments.switch("x", "no"),
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            check()
        said.append(str(caught.value).split(", got")[0])
    assert said == [
        "x must be 0 or more",
        "x must be from 0 to 1",
        "x must be above 0",
        "x must be above 0 and at most 60",
        "x must be from 0 to 1e+100",
        "x must be from 1e-100 to 1e+100",
        "x must be from 1 to 9,223,372,036,854,775,807",
        "x must be one of a, b",
        "x must be True or False",
    ]


def test_an_async_hook_is_refused_where_nothing_awaits_it() -> None:
    """An async estimate would return a coroutine that nothing awaits."""
    with pytest.raises(TypeError, match="estimate must be a plain function, not an async one, got"):
        Budget(estimate=odd_async)  # type: ignore[arg-type]


def test_assignable_attributes_work() -> None:
    """What is assigned counts from then on, and what cannot be assigned says so."""
    agent = chat()
    agent.max_tokens = 7
    assert len(simulate(lambda: agent.ask("one two three four five six seven eight nine ten")).text.split()) <= 7
    for made, name in ((Provider("open"), "preset"), (Journal("j"), "path"), (TokenBucket(1, 1), "rate")):
        with pytest.raises(AttributeError):
            setattr(made, name, 1)
    with pytest.raises(ValueError, match="seconds must be 0 or more, got -1"):
        Fault("stall", seconds=-1)
