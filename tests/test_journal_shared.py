"""Runs at the same time on one journal: no task is paid twice, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit import Budget, CoordinatorOrchestrator, ParallelAgentExecutor, RateLimiter, Reply, RetryPolicy, Usage
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
    assert journal._busy == {}


@given(st.lists(st.tuples(st.floats(0, 5), st.sets(st.sampled_from("abcdef"), min_size=1)), min_size=2, max_size=6))
def test_runs_at_any_time_never_pay_a_task_twice(tmp_path_factory, runs):
    """Whatever begins when: a task is answered once, and each run has its results or a clear error."""
    agent, journal = Counted(), Journal(tmp_path_factory.mktemp("shared") / "j")
    found = at_once(journal, *((start, sorted(tasks)) for start, tasks in runs), agent=agent, limit=2)
    assert not agent.calls or max(agent.calls.values()) == 1
    for (_, tasks), report in zip(runs, found, strict=True):
        assert isinstance(report, JournalError) or report.results == [task.upper() for task in sorted(tasks)]
    assert journal._busy == {}


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


def ask_both(journal, lawyer, *, start=0.5, limit=5, **options):
    """Two questions at about the same time to one team, whose lawyer always gets the same brief."""
    team = CoordinatorOrchestrator(
        lambda question, state: {"economist": f"What does {question} cost?", "lawyer": "allowed"},
        {"economist": Counted(), "lawyer": lawyer},
        executor=ParallelAgentExecutor(limit, journal=journal, **options),
    )

    async def one(question, start):
        await asyncio.sleep(start)
        return (await team.run(question))[1]

    async def main():
        results = await asyncio.gather(one("a bridge", 0), one("a tunnel", start))
        return results, asyncio.get_running_loop().time()

    return simulate(main)


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_turn_that_another_team_is_taking_is_waited_for(tmp_path, limit):
    """One call, two answers; who waits lends its slot, so that one slot is enough for all."""
    lawyer = Counted(seconds=2.0)
    (bridge, tunnel), _ = ask_both(Journal(tmp_path / "j", work="team"), lawyer, limit=limit)
    assert lawyer.calls == {"allowed": 1}
    assert bridge.answer == "economist: WHAT DOES A BRIDGE COST?\nlawyer: ALLOWED"
    assert tunnel.answer == "economist: WHAT DOES A TUNNEL COST?\nlawyer: ALLOWED"
    lawyer = Counted(seconds=2.0)
    ask_both(None, lawyer, limit=limit)
    assert lawyer.calls == {"allowed": 2}  # what it costs without


def test_turn_that_was_waited_for_takes_no_longer(tmp_path):
    """The second team has the lawyer's answer when the first has it, and a span says what it did meanwhile."""
    (_, tunnel), end = ask_both(Journal(tmp_path / "j", work="team"), Counted(seconds=2.0))
    assert end == 2.0
    waited = [span for outcome in tunnel.report for span in outcome.spans if span.name == "waiting for the same turn"]
    assert [span.finished - span.started for span in waited] == [1.5]


def test_turn_that_was_waited_for_is_not_paid_for_twice(tmp_path):
    """What one call has cost counts once towards a budget and a rate, however many have its answer."""

    class Lawyer(Counted):
        async def __call__(self, task):
            return Reply(await super().__call__(task), Usage(1, 300, 100))

    used = {}
    for name, journal in {"alone": None, "shared": Journal(tmp_path / "j", work="team")}.items():
        budget, rate = Budget(tokens=100_000), RateLimiter(6_000, tokens_per_minute=600_000)
        ask_both(journal, Lawyer(seconds=2.0), budget=budget, rate_limiter=rate)
        used[name] = budget.statistics().used
        assert budget.statistics().in_flight == 0
    assert used["alone"].calls - used["shared"].calls == 1
    assert used["alone"].tokens - used["shared"].tokens == 400


def test_turn_that_fails_is_taken_by_who_waited_for_it(tmp_path):
    """A failure is not shared: the next in line tries, and its answer is the one that is kept."""
    lawyer, path = Counted({"allowed": 1}), tmp_path / "j"
    (bridge, tunnel), _ = ask_both(Journal(path, work="team"), lawyer)
    assert [result.error for result in bridge] == [None, "no allowed", None]
    assert [result.error for result in tunnel] == [None, None, None]
    assert lawyer.calls == {"allowed": 2}
    again, _ = ask_both(Journal(path, work="team"), lawyer)
    assert [results[1].result for results in again] == ["ALLOWED", "ALLOWED"]
    assert lawyer.calls == {"allowed": 2}


def test_turn_that_is_tried_again_is_waited_for_to_the_end(tmp_path):
    """A turn that backs off between two tries is still being taken."""
    lawyer = Counted({"allowed": 1})
    retry = RetryPolicy(on=ValueError, base=3, jitter="none")
    (bridge, tunnel), _ = ask_both(Journal(tmp_path / "j", work="team"), lawyer, limit=1, retry=retry)
    assert [results[1].result for results in (bridge, tunnel)] == ["ALLOWED", "ALLOWED"]
    assert lawyer.calls == {"allowed": 2}


def test_turn_given_up_while_it_waits_disturbs_nobody(tmp_path):
    """A timeout of who waits leaves the turn itself, and a third who waits, alone."""
    lawyer, journal = Counted(seconds=5.0), Journal(tmp_path / "j", work="team")
    teams = [
        CoordinatorOrchestrator(
            lambda question, state: {"lawyer": "allowed"},
            {"lawyer": lawyer},
            executor=ParallelAgentExecutor(5, journal=journal, timeout=timeout),
        )
        for timeout in (None, 1.0, None)
    ]

    async def main():
        return [results for _, results in await asyncio.gather(*(team.run("a bridge?") for team in teams))]

    first, impatient, third = simulate(main)
    assert [results[0].error for results in (first, impatient, third)] == [None, "timeout", None]
    assert lawyer.calls == {"allowed": 1}
    assert journal._busy == {}
