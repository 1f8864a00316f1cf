"""You are the scheduler: choices give steps, undo takes them back, and what broke is said with its reason."""

from __future__ import annotations

import asyncio
import itertools
import linecache
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.lab.explorer.explore import explore
from agentkit.lab.explorer.lost_update import lost_update
from agentkit.lab.explorer.play import Play, play
from agentkit.lab.explorer.search import BadScenario
from agentkit.lab.loops.interleaving import Interleaving, Step
from agentkit.lab.widgets import Scheduler

CELL = """\
import asyncio

async def two_agents():
    counter = 0
    async def agent():
        nonlocal counter
        read = counter
        await asyncio.sleep(2)
        counter = read + 1
    await asyncio.gather(agent(), agent())
    return counter

async def locked():
    counter, lock = 0, asyncio.Lock()
    async def agent():
        nonlocal counter
        async with lock:
            read = counter
            await asyncio.sleep(2)
            counter = read + 1
    await asyncio.gather(agent(), agent())
    return counter

async def call():
    await asyncio.sleep(2)
    return 1

def one_line():
    state = {"n": 0}
    async def agent():
        state["n"] += await call()
        print("<wrote>", state)
    return state, [agent(), agent()]

async def crossed():
    left, right = asyncio.Lock(), asyncio.Lock()
    async def agent(first, second):
        async with first:
            await asyncio.sleep(0)
            async with second:
                pass
    await asyncio.gather(agent(left, right), agent(right, left))

async def fails():
    async def agent(n):
        await asyncio.sleep(0)
        if n:
            raise ValueError("<b>no</b>")
    await asyncio.gather(agent(0), agent(1))

async def alone():
    await asyncio.sleep(0)
"""


@pytest.fixture(scope="module")
def cell() -> dict[str, Any]:
    """The scenarios above, defined as a notebook cell defines them."""
    name = "ipykernel_1/5678.py"
    linecache.cache[name] = (len(CELL), None, CELL.splitlines(True), name)
    space: dict[str, Any] = {}
    exec(compile(CELL, name, "exec"), space)
    return space


def is_two(counter: int) -> bool:
    """The invariant."""
    return counter == 2


# --- play


def test_play_stops_where_the_choices_end(cell: dict[str, Any]) -> None:
    """After one step: the lines that ran, where each agent stands, who can go."""
    assert repr(play(cell["two_agents"], "A")).splitlines() == [
        "step  task  line  source                  counter",
        "   1  A        7  read = counter          0",
        "               8  await asyncio.sleep(2)  0",
        "A: sleeps until 2 s at line 8",
        "B: ready to begin at line 5",
        "A: 1 step; A or B can go next",
    ]


def test_play_says_how_an_update_was_lost(cell: dict[str, Any]) -> None:
    """Who wrote over whose write, from what was read when."""
    now = play(cell["two_agents"], "ABBA", is_two)
    assert now.verdict == (
        "4 steps; it came to 1: A wrote counter in step 4 from what it had read in step 1, "
        "so what B wrote in step 3 is lost"
    )
    assert (now.broke, now.stuck, now.can_run) == (True, False, ())
    assert play(cell["two_agents"], "AABB", is_two).verdict == "4 steps; it came to 2, and the invariant holds"


def test_play_sees_the_await_within_a_line(cell: dict[str, Any]) -> None:
    """`state["n"] += await call()` reads, waits, writes: one line, and an update is lost in it."""
    now = play(cell["one_line"], "ABBA", lambda state: state["n"] == 2)
    assert now.why == "A wrote state in step 4 from what it had read in step 1, so what B wrote in step 3 is lost"
    assert now.printed == "<wrote> {'n': 1}\n<wrote> {'n': 1}\n"


def test_play_prints_nothing_itself(cell: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """What agents print is kept for the panel; a play from the start each time would print it again and again."""
    play(cell["one_line"], "ABBA")
    assert capsys.readouterr().out == ""


def test_play_tells_a_deadlock_by_its_lines(cell: dict[str, Any]) -> None:
    """Each waits at its line for what the other has."""
    now = play(cell["crossed"], "ABAB")
    assert (now.stuck, now.broke) == (True, True)
    assert now.why == "A waits for Lock.acquire at line 40, and B waits for Lock.acquire at line 40"
    assert play(cell["crossed"], "AABB").verdict == "4 steps; it ended"


def test_play_of_an_error_is_broken(cell: dict[str, Any]) -> None:
    """An exception is an outcome, and markup in it is escaped."""
    now = play(cell["fails"], "ABAB")
    assert now.outcome == "ValueError('<b>no</b>')"
    assert now.broke
    assert "<b>no" not in now._repr_html_()


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ("AC", "step 2 cannot be C, which is no agent here; choose A or B"),
        ("AAA", "step 3 cannot be A, which ended; choose B"),
        ("AABBA", "the run was over after 4 steps, got 5 choices; undo some"),
    ],
)
def test_play_refuses_a_choice_that_cannot_be(cell: dict[str, Any], choices: str, said: str) -> None:
    """An agent that ended, one that waits, one that is not there: the error names those that can go."""
    with pytest.raises(ValueError, match=said):
        play(cell["two_agents"], choices)


def test_play_refuses_who_waits_for_a_lock(cell: dict[str, Any]) -> None:
    """The lock keeps B out until A has written."""
    with pytest.raises(ValueError, match=r"step 3 cannot be B, which waits for Lock\.acquire; choose A"):
        play(cell["locked"], "ABB")


def _plays(scenario: Any, invariant: Any) -> list[Play]:
    """Every play there is, by always choosing whoever can go."""
    over, going = [], [play(scenario, "", invariant)]
    while going:
        now = going.pop()
        following = [play(scenario, now.choices + name, invariant) for name in now.can_run]
        over += [each for each in following if each.outcome is not None]
        going += [each for each in following if each.outcome is None]
    return over


def test_play_reaches_what_explore_reaches(cell: dict[str, Any]) -> None:
    """All orders by hand come to the explorer's outcomes, with the same counts; under the lock none loses anything."""
    found = _plays(cell["two_agents"], is_two)
    assert len(found) == explore(cell["two_agents"], is_two).runs == 6
    assert sum(bool(each.broke) for each in found) == explore(cell["two_agents"], is_two).failures == 4
    assert all(bool(lost_update(each.table)) is each.broke for each in found)
    assert not any(each.broke or lost_update(each.table) for each in _plays(cell["locked"], is_two))


def test_play_in_a_running_loop_is_the_same(cell: dict[str, Any]) -> None:
    """In a cell a loop is running already; no thread is left behind."""
    before = threading.active_count()

    async def in_a_cell() -> str:
        return repr(play(cell["crossed"], "ABA"))

    assert asyncio.run(in_a_cell()) == repr(play(cell["crossed"], "ABA"))
    assert threading.active_count() == before


@given(st.lists(st.integers(0, 2), max_size=9))
@settings(max_examples=30)
def test_play_of_any_choices_repeats(picks: list[int]) -> None:
    """Three agents, any order: a play and its repetition are equal, and each one more step only adds to it."""

    async def three() -> list[str]:
        seen: list[str] = []

        async def agent(name: str) -> None:
            for i in range(2):
                seen.append(f"{name}{i}")
                await asyncio.sleep(0)

        await asyncio.gather(*map(agent, "xyz"))
        return seen

    choices, now = "", play(three)
    for pick in picks:
        if not now.can_run:
            break
        choices += now.can_run[pick % len(now.can_run)]
        following = play(three, choices)
        assert repr(following) == repr(play(three, choices))
        assert following.table.steps[: len(now.table.steps)] == now.table.steps
        now = following


# --- lost updates


def _step(number: int, task: str, source: str, before: str, after: str) -> Step:
    return Step(number, task, 1 + number, source, True, {"n": before}, {"n": after})


def test_lost_update_needs_a_read_before_and_none_since() -> None:
    """Reading again makes it whole; so does a write that reads in the same line."""
    write = [_step(2, "B", "n += 1", "0", "1")]
    old, last = [_step(1, "A", "old = n", "0", "0")], [_step(4, "A", "n = old + 1", "1", "1")]
    again = [_step(3, "A", "old = n", "1", "1")]
    told = [bool(lost_update(Interleaving((*a, *b), ("n",), ""))) for a, b in ((old, []), (old, again))]
    rows = [Interleaving((*old, *write, *more, *last), ("n",), "") for more in ([], again)]
    assert told == [False, False]
    assert [bool(lost_update(each)) for each in rows] == [True, False]
    whole = [_step(4, "A", "n += 1", "1", "2")]
    assert lost_update(Interleaving((*old, *write, *whole), ("n",), "")) == ""


# --- lines taken apart


def test_Play_takes_lines_apart() -> None:
    """A line with an await in it can be entered there; one without is one step, though it has three parts."""

    async def scenario() -> int:
        n, state = 0, {"n": 0}

        async def agent() -> None:
            nonlocal n
            n += 1
            state["n"] += await asyncio.sleep(0, 1)
            n = 5
            n += len(state)

        await asyncio.gather(agent(), agent())
        return n

    parts = list(play(scenario, "A").parts.values())
    assert parts == [
        ("read n", "change", "write n"),
        ("read state", "wait", "change", "write state"),
        ("read n", "read state", "change", "write n"),
    ]
    panel = Scheduler(scenario, choices="A")._panel.value
    assert "read n · change · write n (no await in between: one step, all or nothing)" in panel
    assert "read state · wait · change · write state (others can come in at the wait)" in panel


# --- the widget


def test_Scheduler_steps_undoes_and_resets(cell: dict[str, Any]) -> None:
    """Every way to change the choices shows in value, repr, panel and buttons."""
    hands = Scheduler(cell["two_agents"], is_two, goal="lose an update")
    hands.step("A")
    hands._steps["B"].click()
    assert repr(hands) == (
        "<Scheduler 'AB': 2 steps; A or B can go next; A ready at line 8, B ready at line 8; goal: lose an update>"
    )
    hands.step("B")
    assert [hands._steps[name].disabled for name in "AB"] == [False, True]
    hands.step("A")
    assert repr(hands) == (
        "<Scheduler 'ABBA': 4 steps; it came to 1: A wrote counter in step 4 from what it had read in step 1, "
        "so what B wrote in step 3 is lost; goal reached: lose an update>"
    )
    assert hands._repr_mimebundle_()["text/plain"] == repr(hands)
    assert "✓ reached" in hands._panel.value
    hands._undo.click()
    assert (hands.value, hands.reached, hands._undo.disabled) == ("ABB", False, False)
    hands._reset.click()
    assert (hands.value, hands._undo.disabled) == ("", True)
    hands.value = "AA BB"
    assert repr(hands) == (
        "<Scheduler 'AABB': 4 steps; it came to 2, and the invariant holds; goal missed: lose an update>"
    )
    assert "not this way" in hands._panel.value


def test_Scheduler_refused_choice_changes_nothing(cell: dict[str, Any]) -> None:
    """A wrong letter raises, and value, play and panel stay as they were."""
    hands = Scheduler(cell["locked"], is_two, choices="AB")
    before = (hands.value, hands.play, hands._panel.value)
    with pytest.raises(ValueError, match="choose A"):
        hands.step("B")
    assert (hands.value, hands.play, hands._panel.value) == before


def test_Scheduler_goal_deadlock(cell: dict[str, Any]) -> None:
    """Crossed locks: one order in which they get stuck, and one in which they do not."""
    hands = Scheduler(cell["crossed"], goal="deadlock", choices="ABAB")
    assert hands.reached
    assert "a deadlock: A waits for Lock.acquire at line 40" in repr(hands)
    hands.value = "AABB"
    assert not hands.reached


def test_Scheduler_goal_cannot_be_reached_under_a_lock(cell: dict[str, Any]) -> None:
    """With the lock, no order loses an update: the goal that can be reached is to keep the invariant."""
    for choices in {each.choices for each in _plays(cell["locked"], is_two)}:
        assert not Scheduler(cell["locked"], is_two, goal="lose an update", choices=choices).reached
        assert Scheduler(cell["locked"], is_two, goal="keep the invariant", choices=choices).reached


def test_Scheduler_escapes_what_agents_say(cell: dict[str, Any]) -> None:
    """What agents print or raise is text in the panel, not markup."""
    assert "&lt;wrote&gt;" in Scheduler(cell["one_line"], choices="ABBA")._panel.value
    assert "<b>no" not in Scheduler(cell["fails"], choices="ABAB")._panel.value


def test_Scheduler_refuses_what_is_no_game(cell: dict[str, Any]) -> None:
    """An unknown goal, one agent, too many, no function: one clear error each."""
    with pytest.raises(ValueError, match="goal must be one of"):
        Scheduler(cell["two_agents"], goal="win")
    with pytest.raises(ValueError, match="2 agents or more, it makes 0"):
        Scheduler(cell["alone"])
    with pytest.raises(BadScenario, match="8 tasks or fewer"):
        play(lambda: [cell["call"]() for _ in range(9)])
    with pytest.raises(TypeError, match=r"write play\(f\), not play\(f\(\)\)"):
        play(3)  # type: ignore[arg-type]


def test_Scheduler_leaves_nothing_running(cell: dict[str, Any]) -> None:
    """Each play cleans up its agents before the panel shows it: their finally blocks ran."""
    cleaned: list[str] = []

    async def scenario() -> None:
        async def agent(name: str) -> None:
            try:
                await asyncio.sleep(1)
            finally:
                cleaned.append(name)

        await asyncio.gather(agent("x"), agent("y"))

    hands = Scheduler(scenario)
    for letter in itertools.islice("AB", 2):
        cleaned.clear()
        hands.step(letter)
        assert len(cleaned) == len(hands.value)
    hands.close()
    assert [t for t in threading.enumerate() if t.name.startswith("agentkit")] == []
