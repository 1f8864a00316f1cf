"""Runs with a journal: what is done is skipped, a killed process loses nothing, a disk that fails stops the run."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from pathlib import Path

import pytest

from agentkit import ChatAgent, ParallelAgentExecutor, RetryPolicy
from agentkit.journal import Journal, JournalError
from agentkit.lab.loops.virtual import simulate
from agentkit.lab.provider.latency import Latency
from agentkit.lab.provider.provider import Provider


class Counted:
    """An agent that counts its calls per task, and fails where it is told to."""

    def __init__(self, fails=(), seconds=1.0):
        self.calls, self.fails, self.seconds = Counter(), set(fails), seconds

    async def __call__(self, task):
        """Take a while, then answer or fail."""
        self.calls[task] += 1
        await asyncio.sleep(self.seconds)
        if task in self.fails:
            raise ValueError(f"no {task}")
        return task * 10


def execute(agent, tasks, journal, **options):
    """The report of a run in virtual time."""

    async def main():
        return await ParallelAgentExecutor(4, journal=journal, **options).execute(tasks, agent)

    return simulate(main)


def source(tasks, kind):
    """The tasks as a list, a generator or an async generator."""

    async def slowly():
        for task in tasks:
            yield task

    return {"list": list(tasks), "generator": iter(tasks), "async": slowly()}[kind]


@pytest.mark.parametrize("kind", ["list", "generator", "async"])
def test_run_skips_what_is_done_and_tries_failures_again(tmp_path, kind):
    """Results come from the journal with no attempt and no second; what failed, and what is new, is done."""
    first, second = Counted(fails=[2, 5]), Counted()
    execute(first, source(range(8), kind), Journal(tmp_path / "j"))
    report = execute(second, source(range(10), kind), Journal(tmp_path / "j"))
    assert report.results == [i * 10 for i in range(10)]
    assert second.calls == {2: 1, 5: 1, 8: 1, 9: 1}
    recalled = [o for o in report.individual_results if not o.attempts]
    assert [o.task for o in recalled] == [0, 1, 3, 4, 6, 7]
    assert {o.status for o in recalled} == {"success"}
    assert all(o.started is None and o.finished is not None for o in recalled)
    assert report.summary.makespan == 1.0


@pytest.mark.parametrize("ordered", [False, True])
def test_stream_yields_what_is_done_too(tmp_path, ordered):
    """A reader gets an outcome for each task; a reader that leaves early loses nothing that was finished."""

    async def main(agent, most):
        got = []
        async with ParallelAgentExecutor(4, journal=Journal(tmp_path / "j")).stream(
            range(300), agent, ordered=ordered
        ) as run:
            async for outcome in run:
                got.append(outcome.task)
                if len(got) == most:
                    break
        return got

    first, second = Counted(), Counted()
    simulate(main, first, 20)
    got = simulate(main, second, -1)
    assert (got if ordered else sorted(got)) == list(range(300))
    assert len(second.calls) <= 280
    assert max((first.calls + second.calls).values()) <= 2
    assert sum((first.calls + second.calls).values()) <= 300 + 4


def test_run_takes_no_slot_for_what_is_done(tmp_path):
    """Two thousand known tasks do not hold up an unknown one, nor freeze the loop."""
    execute(Counted(seconds=0.0), range(2_000), Journal(tmp_path / "j"))

    async def main():
        turns = 0

        async def watch():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        executor = ParallelAgentExecutor(1, journal=Journal(tmp_path / "j"))
        report = await executor.execute(range(2_001), Counted())
        watching.cancel()
        return report.summary.succeeded, executor.limiter.statistics().peak_in_flight, turns > 3

    assert asyncio.run(main()) == (2_001, 1, True)


def test_run_records_attempts_and_leaves_out_what_was_cut_off(tmp_path):
    """Retries are counted; a task that was cancelled is nobody's failure and has no record."""
    tries: Counter[int] = Counter()

    async def agent(task):
        tries[task] += 1
        await asyncio.sleep(task)
        if tries[task] < 3:
            raise TimeoutError
        return task

    async def main():
        executor = ParallelAgentExecutor(4, journal=journal, retry=RetryPolicy(wait_initial=0.1))
        return await executor.execute([1, 1_000], agent, within=100)

    journal = Journal(tmp_path / "j", key=str)
    simulate(main)
    records = list(journal.records())
    assert [(r.key, r.status, r.attempts) for r in records if r.status != "timeout"] == [("1", "success", 3)]
    assert {r.key for r in records} <= {"1", "1000"}


def test_run_of_other_work_is_refused_before_anything_starts(tmp_path):
    """No call is made, and the error names both works."""
    execute(Counted(), [1], Journal(tmp_path / "j"))

    async def another(task):
        raise AssertionError

    with pytest.raises(JournalError, match=r"holds other work: agent 'Counted'; this run is agent '.*another'; use"):
        execute(another, [1], Journal(tmp_path / "j"))


def test_run_with_a_task_without_a_key_does_the_others(tmp_path):
    """That task fails before it starts, and its error says what to do."""

    async def agent(task):
        await asyncio.sleep(1)
        return "done"

    report = execute(agent, ["a", "b", object(), "c"], Journal(tmp_path / "j"))
    assert [outcome.status for outcome in report] == ["success", "success", "failed", "success"]
    [odd] = report.failures
    assert (type(odd.error), odd.started, odd.error.__notes__) == (
        TypeError,
        None,
        ["raised by the key of the journal"],
    )
    assert re.search(r"no stable key .*key=function", str(odd.error))
    assert execute(agent, ["a", "b", "c"], Journal(tmp_path / "j")).summary.makespan == 0


@pytest.mark.parametrize("kind", ["list", "generator", "async"])
def test_run_on_a_full_disk_stops_and_loses_nothing(tmp_path, kind):
    """What is in flight comes to its end and is in the report; nothing new starts; later it goes on from there."""
    journal = Journal(tmp_path / "j")
    agent, append = Counted(), journal._index.file.append

    def full(line):
        if journal._index.written < 5:
            return append(line)
        raise JournalError("journal 'j' cannot be written: No space left on device; make room")

    journal._index.file.append = full
    with pytest.raises(JournalError, match="No space left on device") as caught:
        execute(agent, source(range(20), kind), journal)
    report = caught.value.report
    paid = sum(agent.calls.values())
    assert report.summary.succeeded == paid <= 5 + 4  # five written, four in flight
    assert f"{20 - paid} of 20 tasks not started" in report.stopped or kind != "list"
    second = Counted()
    assert execute(second, range(20), Journal(tmp_path / "j")).summary.succeeded == 20
    assert len(second.calls) == 15


def test_run_whose_results_cannot_be_stored_stops_after_the_first(tmp_path):
    """Going on would pay for what is forgotten."""
    called = []

    async def agent(task):
        called.append(task)
        await asyncio.sleep(1)
        return object()

    with pytest.raises(
        JournalError, match="result of task 0 cannot go into the journal: cannot store a object"
    ) as error:
        execute(agent, range(20), Journal(tmp_path / "j"))
    assert len(called) == len(error.value.report.results) == 4


def test_run_on_a_disk_that_is_really_full(tmp_path):
    """The kernel refuses a write in the middle of a line; the file keeps whole lines, and the rest is done later."""
    script = """
        import asyncio, resource, sys
        from agentkit import ParallelAgentExecutor
        from agentkit.journal import Journal, JournalError
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
        async def agent(task):
            return task * 10
        try:
            asyncio.run(ParallelAgentExecutor(2, journal=Journal(sys.argv[1], work="w")).execute(range(50), agent))
        except JournalError as error:
            print(error, len(error.report.results))
    """
    path = tmp_path / "j"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), path], capture_output=True, text=True, check=True
    )
    assert "File too large" in done.stdout
    text = path.read_text()
    assert text.endswith("\n")
    assert 0 < len(text) <= 700
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert Journal(path).to_frame()["status"].eq("success").all()


def test_run_in_a_folder_that_is_read_only(tmp_path):
    """One clear error, before anything starts; run by a user who is not allowed to write there."""
    script = """
        import asyncio, os, sys
        from agentkit import ParallelAgentExecutor
        from agentkit.journal import Journal, JournalError
        executor = ParallelAgentExecutor(2, journal=Journal("locked/j"))
        os.chdir(sys.argv[1])
        os.chmod("locked", 0o555)
        asyncio.run(ParallelAgentExecutor(2).execute(["a"], str.upper))  # loads what a run needs
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            asyncio.run(executor.execute(["a"], lambda task: print("started")))
        except JournalError as error:
            print(error)
    """
    (tmp_path / "locked").mkdir()
    command = [sys.executable, "-c", textwrap.dedent(script), tmp_path]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == (
        "journal 'locked/j' cannot be written: Permission denied; use a path in a folder that exists and that you may "
        "write to\n"
    )


def test_journal_can_be_read_while_a_run_writes(tmp_path):
    """A frame taken after each outcome has one more row."""

    async def main():
        journal = Journal(tmp_path / "j")
        rows = []
        async with ParallelAgentExecutor(1, journal=journal).stream(range(5), Counted()) as run:
            async for outcome in run:
                rows.append((outcome.result, len(journal.to_frame())))
        return rows

    assert simulate(main) == [(0, 1), (10, 2), (20, 3), (30, 4), (40, 5)]


# -- kill -9 ------------------------------------------------------------------------------------------------------

# A process that has loaded everything, and for each line it reads starts another one that does the work.
WORKER = """
    import asyncio, os, sys
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient
    from agentkit import ChatAgent, ParallelAgentExecutor
    from agentkit.journal import Journal

    async def main(path, base_url, count):
        http = DefaultAsyncHttpxClient(trust_env=False, verify=False)
        client = AsyncOpenAI(api_key="loopback", base_url=base_url, max_retries=0, http_client=http)
        executor = ParallelAgentExecutor(5, journal=Journal(path))
        tasks = [f"Question {i}?" for i in range(int(count))]
        report = await executor.execute(tasks, ChatAgent("analyst", client=client))
        print(report.summary.succeeded, flush=True)

    path, base_url, count = sys.argv[1:]
    asyncio.run(main(path + ".first", base_url, 1))  # loads the rest
    while sys.stdin.readline():
        pid = os.fork()
        if not pid:
            asyncio.run(main(path, base_url, count))
            os._exit(0)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)
"""
KILLS, COUNT, SLOTS = 20, 250, 5


def begin(workers: subprocess.Popen) -> int:
    """Start a worker; return its process id."""
    workers.stdin.write("\n")
    workers.stdin.flush()
    return int(workers.stdout.readline())


def done_in(path: Path) -> list[str]:
    """The tasks with a whole record of success."""
    lines = path.read_bytes().split(b"\n")[1:-1] if path.exists() else []
    return [found.get("task", found["key"]) for found in map(json.loads, lines) if found["status"] == "success"]


@pytest.mark.timeout(60)
def test_run_killed_at_twenty_points_pays_for_no_recorded_call_again(tmp_path):
    """A real process, kill -9, resumed twenty times; the provider's own log is the witness.

    Each kill comes at a random time after the end of a call chosen at random. Calls that were recorded never arrive
    again. What was completed and not recorded was on its way at that instant: at most one call per slot.
    """
    path, rng = tmp_path / "j", random.Random(9)
    asked = Provider("open", seed=1, latency=Latency(base=0.04, base_spread=0.3, speed=None, mean_output=0))
    seen: list[str] = []  # the prompts, in the order of the provider's log
    asked.answer = lambda request: seen.append(request.prompt) or f"About {seen[-1]}"
    ended = threading.Semaphore(0)
    asked.subscribe(lambda call: ended.release())
    lost = 0
    with asked.serve() as server:
        command = [sys.executable, "-c", textwrap.dedent(WORKER), str(path), server.base_url, str(COUNT)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as workers:
            assert workers.stdout.readline() == "1\n"
            for kill in range(KILLS):
                before, arrived = set(done_in(path)), len(seen)
                while ended.acquire(blocking=False):
                    pass
                worker = begin(workers)
                for _ in range(rng.randint(1, 16)):
                    assert ended.acquire(timeout=20)
                threading.Event().wait(rng.uniform(0, 0.04))
                os.kill(worker, signal.SIGKILL)
                assert workers.stdout.readline() == f"{signal.SIGKILL:d}\n"
                while asked.statistics().in_flight:  # until the provider has noticed
                    ended.acquire(timeout=0.1)
                done = done_in(path)
                assert len(set(done)) == len(done), kill
                assert not set(seen[arrived:]) & before, kill
                pairs = zip(seen[arrived:], list(asked.log)[arrived:], strict=True)
                unrecorded = {prompt for prompt, call in pairs if call.outcome == "ok"} - set(done)
                assert len(unrecorded) <= SLOTS
                lost += len(unrecorded)
            before, arrived = set(done_in(path)), len(seen)
            begin(workers)
            assert workers.stdout.readline() == f"{COUNT}\n"
            assert workers.stdout.readline() == "0\n"
    assert 0 < len(before) < COUNT
    assert not set(seen[arrived:]) & before
    assert sorted(done_in(path)) == sorted(f"Question {i}?" for i in range(COUNT))
    assert asked.statistics().completed == 1 + COUNT + lost
    assert {record.result.text for record in Journal(path).records()} == {f"About Question {i}?" for i in range(COUNT)}


def test_ChatAgent_journal_holds_name_and_model_but_no_client(tmp_path):
    """The header says whose work it is; the agent's instructions are there as a hash."""

    async def main():
        agent = ChatAgent(
            "analyst", "Use sk-abcdefgh12345678.", client=Provider("open").client(api_key="sk-secret1234")
        )
        return await ParallelAgentExecutor(2, journal=Journal(tmp_path / "j")).execute(["Why?", "How?"], agent)

    first, again = simulate(main), simulate(main)
    assert again.results == first.results
    assert again.summary.usage == first.summary.usage
    text = (tmp_path / "j").read_text()
    assert '"agent":"analyst","model":"small","instructions":"' in text
    assert "sk-" not in text
