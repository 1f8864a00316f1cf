"""explore: every order is tried once, the same way each time, and what it finds can be read."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import linecache
import sys
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agentkit.lab as lab
from agentkit.lab.explorer.explore import Exploration, explore
from agentkit.lab.explorer.threads import hammer, opcode_explore
from agentkit.lab.loops.interleaving import show
from agentkit.lab.loops.virtual import simulate


async def lost_update(agents: int = 2) -> int:
    """Read, wait, write."""
    counter = 0

    async def agent() -> None:
        nonlocal counter
        read = counter
        await asyncio.sleep(0)
        counter = read + 1

    await asyncio.gather(*(agent() for _ in range(agents)))
    return counter


async def locked(agents: int = 3) -> int:
    """Read, wait, write, one agent at a time."""
    counter = 0
    lock = asyncio.Lock()

    async def agent() -> None:
        nonlocal counter
        async with lock:
            read = counter
            await asyncio.sleep(0)
            counter = read + 1

    await asyncio.gather(*(agent() for _ in range(agents)))
    return counter


async def hidden() -> bool:
    """Right in asyncio's own order: the writer needs one turn, the reader looks after its second."""
    ready, seen = False, False

    async def writer() -> None:
        nonlocal ready
        await asyncio.sleep(0)
        ready = True

    async def reader() -> None:
        nonlocal seen
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        seen = ready

    await asyncio.gather(writer(), reader())
    return seen


def test_explore_finds_the_lost_update_in_the_first_run() -> None:
    """Asyncio's own order loses the update already; four of the six orders do."""
    found = explore(lost_update, lambda counter: counter == 2)
    assert (found.first_failure, found.departures, found.failures, found.runs) == (1, 0, 4, 6)
    assert found.outcomes == {"1": 4, "2": 2}


def test_explore_finds_what_asyncio_hides() -> None:
    """A bug that asyncio's own order never shows is found with the fewest departures from it."""
    assert simulate(hidden) is True
    found = explore(hidden, lambda seen: seen)
    assert (found.first_failure, found.departures, found.runs) == (5, 2, 10)


def test_explore_proves_the_locked_version() -> None:
    """Three agents with a lock: every order there is, and every one right."""
    found = explore(locked, lambda counter: counter == 3)
    assert found.proved
    assert found.runs == 36
    assert found.interleaving is None
    assert repr(found).startswith("locked: proved, it holds in every order there is (36 orders)")


def test_explore_gives_the_same_answer_each_time() -> None:
    """Two explorations of one scenario agree in every count and every character."""
    assert repr(explore(hidden, bool)) == repr(explore(hidden, bool))
    assert explore(lost_update)._repr_html_() == explore(lost_update)._repr_html_()


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3))
@settings(max_examples=15, deadline=None)
def test_explore_tries_each_order_once(steps: list[int]) -> None:
    """Independent agents of n steps each: the number of orders is the multinomial coefficient, none twice."""

    async def scenario() -> str:
        log: list[str] = []

        async def agent(name: int, n: int) -> None:
            for i in range(n):
                if i:
                    await asyncio.sleep(0)
                log.append(str(name))

        await asyncio.gather(*(agent(i, n) for i, n in enumerate(steps)))
        return "".join(log)

    found = explore(scenario, lambda log: True)
    orders = set(itertools.permutations("".join(str(i) * n for i, n in enumerate(steps))))
    assert {outcome.strip("'") for outcome in found.outcomes} == {"".join(order) for order in orders}
    assert set(found.outcomes.values()) == {1}
    assert found.proved


def test_explore_says_when_it_has_not_tried_everything() -> None:
    """A bounded search that finds nothing holds, but proves nothing, and says so."""
    few = explore(locked, lambda counter: counter == 3, max_runs=5)
    assert (few.runs, few.exhausted, few.holds, few.proved) == (5, False, True, False)
    assert "no failure and no proof, 5 orders tried, not all there are" in repr(few)
    shallow = explore(locked, lambda counter: counter == 3, max_deviations=1)
    assert not shallow.exhausted
    assert shallow.runs < 36


def test_explore_counts_departures_first_none_then_one() -> None:
    """With no departures allowed, asyncio's own order is the only one."""
    assert explore(hidden, bool, max_deviations=0).runs == 1
    assert explore(hidden, bool, max_deviations=1).holds
    assert not explore(hidden, bool, max_deviations=2).holds


def test_explore_can_stop_at_the_first_failure() -> None:
    """For a test that only asks whether there is one."""
    found = explore(lost_update, lambda counter: counter == 2, stop_at_first=True)
    assert (found.runs, found.failures, found.exhausted) == (1, 1, False)


def test_explore_without_invariant_reports_what_depends_on_the_order() -> None:
    """Two outcomes are a finding by themselves; one outcome is a proof that the order does not matter."""
    assert explore(lost_update).outcomes == {"1": 4, "2": 2}
    assert explore(lost_update).failures == 2
    assert explore(locked).proved


def test_explore_takes_an_invariant_that_asserts() -> None:
    """`assert` in the invariant works as a returned False does, and its message is shown."""

    def complete(counter: int) -> None:
        assert counter == 2, "an update is lost"

    found = explore(lost_update, complete)
    assert list(found.outcomes) == ["1 (an update is lost)", "2"]
    assert found.failures == 4


def test_explore_takes_a_plain_function_that_returns_state_and_coroutines() -> None:
    """The state is judged, and shown under the name its agents use."""

    async def agent(notes: dict[str, int]) -> None:
        read = notes["n"]
        await asyncio.sleep(0)
        notes["n"] = read + 1

    def scenario() -> tuple[dict[str, int], list[Any]]:
        notes = {"n": 0}
        return notes, [agent(notes), agent(notes)]

    found = explore(scenario, lambda notes: notes["n"] == 2)
    assert found.failures == 4
    assert found.interleaving is not None
    assert found.interleaving.shared == ("notes",)
    assert found.interleaving.steps[-1].after == {"notes": "{'n': 1}"}


def test_explore_takes_a_plain_function_that_returns_coroutines() -> None:
    """Without a state, the list of results is judged."""

    async def agent(name: str) -> str:
        await asyncio.sleep(0)
        return name

    assert explore(lambda: [agent("a"), agent("b")]).outcomes == {"['a', 'b']": 6}


def test_explore_counts_exceptions_and_deadlocks_as_failures() -> None:
    """They are outcomes with a name, and the table ends where the run ended."""

    async def stuck() -> None:
        first, second = asyncio.Lock(), asyncio.Lock()

        async def one() -> None:
            async with first:
                await asyncio.sleep(0)
                async with second:
                    pass

        async def two() -> None:
            async with second, first:
                pass

        await asyncio.gather(one(), two())

    found = explore(stuck)
    assert found.outcomes == {"deadlock of one-1, two-1": 1, "None": 2}
    assert found.interleaving is not None
    assert found.interleaving.steps[-1].source == "async with second:"

    async def fails() -> None:
        raise LookupError("no such agent")

    assert explore(fails).outcomes == {"LookupError('no such agent')": 1}


def test_explore_lets_answers_come_in_any_order() -> None:
    """As written, the one-second answer always comes before the two-second one; in a network it need not."""

    async def scenario() -> str:
        log: list[str] = []

        async def agent(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            log.append(name)

        await asyncio.gather(agent("a", 1), agent("b", 2))
        return "".join(log)

    assert explore(scenario).outcomes == {"'ab'": 3, "'ba'": 3}
    assert explore(scenario, any_latency=False).outcomes == {"'ab'": 2}


def test_explore_does_not_let_timeouts_go_off_early() -> None:
    """An answer may come sooner than written, but waiting for it never takes longer: no false timeouts."""

    async def scenario() -> str:
        async def slow() -> None:
            await asyncio.sleep(100)

        async def agent() -> str:
            async with asyncio.timeout(10):
                await asyncio.sleep(1)
            return "in time"

        results = await asyncio.gather(slow(), agent())
        return str(results[1])

    assert explore(scenario).outcomes == {"'in time'": 6}


def test_explore_reorders_what_first_completed_sees() -> None:
    """`asyncio.wait` may find one answer or both; both are orders a network can produce."""

    async def scenario() -> int:
        async def agent() -> None:
            await asyncio.sleep(1)

        tasks = [asyncio.create_task(agent()) for _ in range(2)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return len(done)

    assert set(explore(scenario).outcomes) == {"1", "2"}


def test_explore_orders_work_in_threads_as_well() -> None:
    """`asyncio.to_thread` runs in line on the virtual clock; when it runs is one of the choices."""

    async def scenario() -> str:
        log: list[str] = []

        async def agent() -> None:
            log.append("agent")

        await asyncio.gather(asyncio.to_thread(log.append, "thread"), agent())
        return "".join(log)

    assert set(explore(scenario).outcomes) == {"'agentthread'", "'threadagent'"}


def test_explore_refuses_a_scenario_that_does_not_repeat() -> None:
    """State left over from the run before would make a proof worthless, so it is an error with a remedy."""
    left: list[int] = []

    async def scenario() -> None:
        left.append(1)

        async def agent() -> None:
            await asyncio.sleep(0)

        await asyncio.gather(*(agent() for _ in range(max(1, 4 - len(left)))))

    with pytest.raises(RuntimeError, match="make fresh state inside the scenario"):
        explore(scenario)


def test_explore_ends_a_scenario_that_never_ends() -> None:
    """Spinning for ever is an outcome, not a hang."""

    async def scenario() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    found = explore(scenario, max_runs=1)
    assert found.failures == 1
    assert "more than 5,000 steps" in next(iter(found.outcomes))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenario": lost_update, "max_runs": 0}, "max_runs must be 1 or more, got 0"),
        ({"scenario": lost_update, "max_deviations": -1}, "max_deviations must be 0 or more, got -1"),
        ({"scenario": 7}, r"scenario must be a function, got 7; write explore\(f\)"),
        ({"scenario": lambda: 7}, "scenario must be async, or return coroutines, got int"),
    ],
)
def test_explore_explains_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    """Each error names the parameter, the rule, the value and the remedy."""
    with pytest.raises((TypeError, ValueError), match=message):
        explore(**arguments)


def test_explore_works_beside_a_running_loop() -> None:
    """In a notebook cell a loop is running; explore goes to a thread of its own and the answer is the same."""

    async def cell() -> Exploration:
        return explore(lost_update, lambda counter: counter == 2)

    assert repr(asyncio.run(cell())) == repr(explore(lost_update, lambda counter: counter == 2))


def test_explore_leaves_no_trace_function_behind() -> None:
    """A debugger's or a coverage tool's trace function is there again afterwards."""

    def tracer(*_: object) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        explore(lost_update)
        after = sys.gettrace()
    finally:
        sys.settrace(before)
    assert after is tracer


CELL = """
import asyncio

total = 0

async def agent(name):
    global total
    read = total
    await asyncio.sleep(0)
    total = read + 1

async def scenario():
    global total
    total = 0
    await asyncio.gather(agent("<b>A</b>"), agent("B"))
    return total
"""


def run_cell(text: str) -> dict[str, Any]:
    """Run text the way a notebook does: compiled under a made-up file name, its lines kept in linecache."""
    name = "<ipython-input-1>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {}
    exec(compile(text, name, "exec"), namespace)
    return namespace


def test_explore_shows_lines_and_globals_of_a_notebook_cell() -> None:
    """The lines of a cell are shown, and a global that two tasks change is shared."""
    found = explore(run_cell(CELL)["scenario"], lambda total: total == 2)
    assert (
        repr(found.interleaving)
        == """\
step  task     line  source                  total
   1  agent-1     8  read = total            0
                  9  await asyncio.sleep(0)  0
   2  agent-2     8  read = total            0
                  9  await asyncio.sleep(0)  0
   3  agent-1    10  total = read + 1        0 → 1
   4  agent-2    10  total = read + 1        1 → 1"""
    )


def test_Exploration_html_is_escaped() -> None:
    """Nothing that a task says or a line holds can become markup."""

    async def scenario() -> None:
        log: list[str] = []

        async def agent() -> None:
            log.append("<script>")

        await asyncio.gather(agent(), agent())
        raise ValueError("<img>")

    page = explore(scenario)._repr_html_()
    assert "<table>" in page
    assert "<script>" not in page
    assert "<img>" not in page
    assert "&lt;script&gt;" in page


def test_Interleaving_rows_are_data_for_a_frame() -> None:
    """One plain dict per line, values before and after as a pair."""
    found = explore(lost_update, lambda counter: counter == 2)
    assert found.interleaving is not None
    first, *_, last = found.interleaving.rows()
    assert {k: first[k] for k in ("step", "task", "source", "counter")} == {
        "step": 1,
        "task": "agent-1",
        "source": "read = counter",
        "counter": ("0", "0"),
    }
    assert last["counter"] == ("1", "1")
    assert last["step"] == 4


def test_Interleaving_finds_what_objects_share() -> None:
    """Two agents that are objects share what both hold, not what each has for itself."""

    class Agent:
        def __init__(self, name: str, history: list[str]) -> None:
            self.name, self.history, self.own = name, history, []

        async def run(self) -> None:
            known = len(self.history)
            self.own.append(known)
            await asyncio.sleep(0)
            self.history[known:] = [self.name]

    async def scenario() -> list[str]:
        agents = [Agent(name, shared) for shared in ([],) for name in "ab"]  # type: ignore[var-annotated]
        await asyncio.gather(*(agent.run() for agent in agents))
        return agents[0].history

    found = explore(scenario, lambda history: len(history) == 2)
    assert found.interleaving is not None
    assert found.interleaving.shared == ("history",)
    assert [s.after["history"] for s in found.interleaving.steps if s.touches("history")] == [
        "['a']",
        "['b']",
    ]


def test_show_is_short_and_the_same_everywhere() -> None:
    """No addresses, sets sorted, long text cut in the middle, a repr that fails is named."""

    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError

    assert show(object()) == "object()"
    assert show({"b", "a"}) == "{'a', 'b'}"
    assert show(Rude()) == "<Rude, whose repr raises RuntimeError>"
    long = show(list(range(100)))
    assert len(long) == 64
    assert long.endswith("98, 99]")


def test_hammer_starts_all_threads_together_and_puts_the_interval_back() -> None:
    """All threads are alive at once, and the interpreter's switch interval is as before, also after an error."""
    before = sys.getswitchinterval()
    meet = threading.Barrier(4)
    seen = hammer(lambda: meet.wait(timeout=60) >= 0, threads=4, iterations=5, rounds=2)
    assert seen.outcomes == {"True": 40}
    assert hammer(lambda: 1 / 0, rounds=1).failures == 1
    assert sys.getswitchinterval() == before


def test_hammer_counts_outcomes() -> None:
    """An atomic append loses nothing; a call that raises is wrong, and named."""
    kept = hammer(lambda log: log.append(1), setup=list, result=len, invariant=lambda n: n == 4000, rounds=2)
    assert (kept.outcomes, kept.survived) == ({"4000": 2}, True)
    assert "which proves nothing" in repr(kept)
    broken = hammer(lambda log: log.pop(), setup=list, rounds=3)
    assert broken.outcomes == {"IndexError('pop from empty list')": 3}
    assert "3 wrong: it does not hold" in repr(broken)


def test_hammer_is_not_hidden_by_its_module() -> None:
    """`from agentkit.lab import hammer` is the function: a module of that name would take its place once loaded."""
    hidden = [name for name, home in lab._HOME.items() if name == home]
    assert not hidden
    assert lab.hammer is hammer


@pytest.mark.parametrize("name", ["threads", "iterations", "rounds"])
def test_hammer_explains_bad_arguments(name: str) -> None:
    """Zero of anything would find nothing and look like a pass."""
    with pytest.raises(ValueError, match=f"{name} must be from 1 to 1,000,000, got 0"):
        hammer(lambda: None, **{name: 0})  # type: ignore[arg-type]


class _Tally:
    def __init__(self) -> None:
        self.total, self.lock = 0, threading.Lock()

    def add(self) -> None:
        self.total += 1

    def add_locked(self) -> None:
        with self.lock:
            self.total += 1


def test_opcode_explore_sees_what_this_interpreter_never_does() -> None:
    """With frontrun, the bare += of threads loses updates; without it, the error says what to install."""
    if importlib.util.find_spec("frontrun") is None:
        with pytest.raises(ImportError, match=r'pip install "agentkit-lab\[race\]"'):
            opcode_explore(_Tally, _Tally.add, lambda tally: tally.total == 2)
        return
    found = opcode_explore(_Tally, _Tally.add, lambda tally: tally.total == 2)
    assert found.holds is False
    assert "total" in found.explanation
    assert opcode_explore(_Tally, _Tally.add_locked, lambda tally: tally.total == 2).holds
