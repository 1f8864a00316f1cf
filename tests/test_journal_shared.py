"""Runs at the same time on one journal: no task is paid twice, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit import CoordinatorOrchestrator, ParallelAgentExecutor
from agentkit.journal import Journal, JournalError
from agentkit.lab.loops.virtual import simulate

TASKS = ["why", "how", "when"]


class Counted:
    """An agent that counts its calls per task, and fails the first times of those it is told to."""

    def __init__(self, fails: dict[str, int] | None = None, seconds: float = 1.0) -> None:
        self.calls: Counter[str] = Counter()
        self.fails, self.seconds = fails or {}, seconds

    async def __call__(self, task):
        """Take a while, then answer or fail."""
        self.calls[task] += 1
        count = self.calls[task]
        await asyncio.sleep(self.seconds)
        if count <= self.fails.get(task, 0):
            raise ValueError(f"no {task}")
        return task.upper()


def at_once(journal, *runs, agent, limit=4, **options):
    """The report, or error, of each `(start, tasks)`, all with one journal and one agent, in virtual time."""

    async def one(start, tasks):
        await asyncio.sleep(start)
        return await ParallelAgentExecutor(limit, journal=journal, **options).execute(tasks, agent)

    async def main():
        return await asyncio.gather(*(one(*run) for run in runs), return_exceptions=True)

    return simulate(main)


# -- plain runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 0.5])
def test_run_of_tasks_that_another_run_is_doing_is_refused(tmp_path, start):
    """Also where the first was alone when it began them; the error says which task, why, and what to do."""
    agent = Counted()
    first, error = at_once(Journal(tmp_path / "j"), (0, TASKS), (start, TASKS), agent=agent)
    assert first.results == ["WHY", "HOW", "WHEN"]
    assert isinstance(error, JournalError)
    assert str(error) == (
        "task 'why' is being done by another run with this journal, and would be paid twice; "
        "begin this run when that one has ended, or give each run a journal of its own"
    )
    assert len(error.report) == 0
    assert agent.calls == dict.fromkeys(TASKS, 1)


def test_run_without_a_journal_pays_twice(tmp_path):
    """What the refusal prevents."""
    agent = Counted()
    at_once(None, (0, TASKS), (0, TASKS), agent=agent)
    assert agent.calls == dict.fromkeys(TASKS, 2)


def test_run_that_is_refused_keeps_what_it_began(tmp_path):
    """Its tasks before the common one come to their end, are in the report of the error, and in the journal."""
    agent, journal = Counted(), Journal(tmp_path / "j")
    first, error = at_once(journal, (0, ["a", "b"]), (0.5, ["c", "b", "d"]), agent=agent)
    assert first.results == ["A", "B"]
    assert error.report.results == ["C"]
    assert [r.task for r in journal.records()] == ["a", "b", "c"]
    assert at_once(journal, (0, ["c", "b", "d"]), agent=agent)[0].results == ["C", "B", "D"]
    assert agent.calls == dict.fromkeys("abcd", 1)


def test_runs_of_different_tasks_share_a_journal(tmp_path):
    """And a run that begins when the tasks are done takes them from it."""
    agent, journal = Counted(), Journal(tmp_path / "j")
    reports = at_once(journal, (0, ["a", "b"]), (0.5, ["c"]), (1.2, ["a", "b"]), agent=agent)
    assert [report.results for report in reports] == [["A", "B"], ["C"], ["A", "B"]]
    assert agent.calls == dict.fromkeys("abc", 1)


@pytest.mark.parametrize("how", ["fails", "cancelled", "within"])
def test_tasks_of_a_run_that_ended_badly_are_free_again(tmp_path, how):
    """Failed, cancelled or out of time: nobody does them any more, while another run goes on."""
    agent, journal = Counted({"a": 1} if how == "fails" else None), Journal(tmp_path / "j")

    async def main():
        executor = ParallelAgentExecutor(1, journal=journal)
        other = executor.start([f"other {i}" for i in range(9)], agent)
        run = executor.start(["a"], agent, within=0.5 if how == "within" else None)
        await asyncio.sleep(0.2)
        if how == "cancelled":
            run.cancel()
        await run
        again = await ParallelAgentExecutor(1, journal=journal).execute(["a"], agent)
        await other
        return again.results

    assert simulate(main) == ["A"]
    assert journal._index.running == set()


@given(st.lists(st.tuples(st.floats(0, 5), st.sets(st.sampled_from("abcdef"), min_size=1)), min_size=2, max_size=6))
def test_runs_at_any_time_never_pay_a_task_twice(tmp_path_factory, runs):
    """Whatever begins when: a task is answered once, and each run has its results or a clear error."""
    agent, journal = Counted(), Journal(tmp_path_factory.mktemp("shared") / "j")
    found = at_once(journal, *((start, sorted(tasks)) for start, tasks in runs), agent=agent, limit=2)
    assert not agent.calls or max(agent.calls.values()) == 1
    for (_, tasks), report in zip(runs, found, strict=True):
        assert isinstance(report, JournalError) or report.results == [task.upper() for task in sorted(tasks)]
    assert journal._index.running == set()


def test_run_that_stops_early_still_knows_what_is_done(tmp_path):
    """Tasks it never came to are looked up after its end: done ones have their results, others are not begun."""
    agent, journal = Counted({"bad": 9}), Journal(tmp_path / "j")
    at_once(journal, (0, ["a", "b"]), agent=agent)
    (report,) = at_once(journal, (0, ["bad", "a", "c", "b"]), agent=agent, limit=1, on_error="stop")
    assert [o.status for o in report] == ["failed", "success", "cancelled", "success"]
    assert report.results == ["A", "B"]
    others = [(0, [f"{i} {j}" for j in range(5)]) for i in range(2)]
    runs = at_once(journal, *others, (0, ["bad", "c"]), (2.5, ["c"]), agent=agent, limit=1, max_failures=1)
    assert runs[2].individual_results[1].status == "cancelled"
    assert runs[3].results == ["C"]


# -- turns of teams -----------------------------------------------------------------------------------------------


def test_turn_that_another_team_is_taking_is_refused(tmp_path):
    """Teams are runs like any other: the second one gets the error instead of paying for the same turn."""
    lawyer = Counted(seconds=2.0)
    team = CoordinatorOrchestrator(
        lambda question, state: {"economist": f"What does {question} cost?", "lawyer": "allowed"},
        {"economist": Counted(), "lawyer": lawyer},
        executor=ParallelAgentExecutor(5, journal=Journal(tmp_path / "j", work="team")),
    )

    async def one(question, start):
        await asyncio.sleep(start)
        return (await team.run(question))[1]

    async def main():
        return await asyncio.gather(one("a bridge", 0), one("a tunnel", 0.5), return_exceptions=True)

    bridge, error = simulate(main)
    assert bridge.answer == "economist: WHAT DOES A BRIDGE COST?\nlawyer: ALLOWED"
    assert isinstance(error, JournalError)
    assert "is being done by another run with this journal" in str(error)
    assert lawyer.calls == {"allowed": 1}
