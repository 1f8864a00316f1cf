"""What people write and what to write instead, side by side: each wrong one fails here, each right one holds."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agentkit.lab.explorer.explore import explore
from agentkit.lab.explorer.threads import hammer
from agentkit.lab.loops.virtual import simulate


def load(name: str) -> ModuleType:
    """Import a module of tests/broken by its file."""
    spec = importlib.util.spec_from_file_location(f"broken_{name}", Path(__file__).parent / "broken" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


counter, history, key, cache, budget, lock_order, executor, queue_pattern = map(
    load, ("counter", "history", "key", "cache", "budget", "lock_order", "executor", "queue_pattern")
)


def three(total: int) -> bool:
    """Nobody's one is lost."""
    return total == 3


def in_order(results: list[str]) -> bool:
    """Results stand in the order of the tasks."""
    return results == ["A", "B", "C"]


def nothing(billed: list[str]) -> bool:
    """Nothing is billed after the error came out."""
    return billed == []


def all_items(done: list[int]) -> bool:
    """Every item was worked on once."""
    return done == [1, 2, 3]


WRONG = [  # scenario, invariant, the run that fails first, how many orders fail of how many
    (counter.broken, three, 1, 84, 90),
    (counter.broken_in_one_line, three, 1, 84, 90),
    (history.broken, history.complete, 1, 84, 90),
    (history.broken_though_immutable, history.complete, 1, 84, 90),
    (key.broken, key.both, 1, 4, 6),
    (cache.broken, cache.paid_once, 1, 60, 80),
    (budget.broken, budget.within, 1, 72, 90),
    (lock_order.broken, None, 5, 3, 10),
    (lock_order.watched, None, 1, 13, 13),
    (executor.broken_order, in_order, 2, 75, 90),
    (executor.broken_stop, nothing, 1, 176, 379),
    (queue_pattern.broken_join, None, 1, 2, 2),
]

RIGHT = [  # scenario, invariant, orders there are
    (counter.locked, three, 36),
    (counter.fixed, three, 90),
    (history.fixed, history.complete, 90),
    (history.merged, history.complete, 90),
    (key.fixed, key.both, 6),
    (cache.fixed, cache.paid_once, 50),
    (cache.fixed_without_lock, cache.paid_once, 2184),
    (budget.fixed, budget.within, 48),
    (lock_order.fixed, None, 10),
    (executor.fixed_order, in_order, 90),
    (executor.fixed_stop, nothing, 601),
    (queue_pattern.fixed, all_items, 80),
]


def named(cases: list[Any]) -> list[Any]:
    """Name each case after its module and function."""
    return [
        pytest.param(*case, id=f"{case[0].__module__.removeprefix('broken_')}-{case[0].__name__}") for case in cases
    ]


@pytest.mark.parametrize(("scenario", "invariant", "first", "failures", "orders"), named(WRONG))
def test_explore_finds_what_is_wrong(scenario: Any, invariant: Any, first: int, failures: int, orders: int) -> None:
    """Each wrong way fails, in the same run and as often on every Python, and every order has been tried."""
    found = explore(scenario, invariant)
    assert (found.first_failure, found.failures, found.runs, found.exhausted) == (first, failures, orders, True)
    assert not found.holds
    assert not found.proved


@pytest.mark.parametrize(("scenario", "invariant", "orders"), named(RIGHT))
def test_explore_proves_what_is_right(scenario: Any, invariant: Any, orders: int) -> None:
    """Each right way holds in every order there is."""
    found = explore(scenario, invariant)
    assert found.proved, found
    assert found.runs == orders


def test_explore_finds_the_early_quitter_within_a_hundred_runs() -> None:
    """Workers that stop at an empty queue pass in asyncio's own order, and lose work in run 32."""
    found = explore(queue_pattern.broken_empty, all_items, max_runs=100)
    assert (found.first_failure, found.departures, found.exhausted) == (32, 2, False)


def test_explore_shows_the_line_that_overspends() -> None:
    """The table tells the story of the budget: three looks at 0, then three payments."""
    found = explore(budget.broken, budget.within)
    assert found.interleaving is not None
    paid = [
        (s.task, s.source, s.before["spent"], s.after["spent"]) for s in found.interleaving.steps if s.touches("spent")
    ]
    assert paid == [
        ("agent-1", "spent += COST", "0", "40"),
        ("agent-2", "spent += COST", "40", "80"),
        ("agent-3", "spent += COST", "80", "120"),
    ]


def test_explore_shows_both_writes_of_a_lost_update() -> None:
    """Two agents update one key: the second write starts from the draft and wipes out the first."""
    found = explore(key.broken, key.both)
    assert found.interleaving is not None
    writes = [(s.task, s.after["notes"]) for s in found.interleaving.steps if s.touches("notes")]
    assert writes == [("agent-1", "{'summary': 'draft+A'}"), ("agent-2", "{'summary': 'draft+B'}")]


def test_a_version_check_notices_what_it_cannot_prevent() -> None:
    """With compare-and-set nothing disappears in silence: in every order each improvement is in, or was refused."""
    found = explore(key.noticed, lambda text: all(name in text for name in "AB"))
    assert found.proved
    assert found.outcomes == {
        "'draft+A, refused: B'": 2,
        "'draft+B, refused: A'": 2,
        "'draft+A+B, refused: '": 1,
        "'draft+B+A, refused: '": 1,
    }


def test_a_lock_across_the_wait_makes_agents_take_turns() -> None:
    """The locked counter is right and three times as slow; the fixed one is right and as fast as one agent."""
    assert [simulate(_seconds, way) for way in (counter.locked, counter.fixed)] == [3.0, 1.0]


async def _seconds(way: Any) -> float:
    await way()
    return asyncio.get_running_loop().time()


def test_asyncio_in_its_own_order_hides_the_deadlock() -> None:
    """One run on the virtual clock says done; the watcher refuses the same code in that very run."""
    assert simulate(lock_order.broken) == "done"
    with pytest.raises(RuntimeError, match=r"possible deadlock: task .* takes 'budget' then 'history'"):
        simulate(lock_order.watched)


def test_hammer_breaks_the_counter_of_threads() -> None:
    """A loop between read and write is enough to lose updates; with the lock none is lost."""
    outcome = {"setup": counter.Tally, "result": lambda tally: tally.total, "invariant": lambda total: total == 8000}
    # Chance decides how much is lost; that twenty rounds of eight thousand calls lose nothing has not been seen.
    broken = hammer(counter.Tally.add_broken, threads=4, iterations=2000, rounds=20, **outcome)
    fixed = hammer(counter.Tally.add_fixed, threads=4, iterations=2000, rounds=2, **outcome)
    assert not broken.survived
    assert fixed.survived
    assert fixed.outcomes == {"8000": 2}
