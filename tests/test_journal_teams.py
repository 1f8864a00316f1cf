"""Teams with a journal: cancelled or killed at any point, they go on where they stopped, and no call is paid again."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from pathlib import Path

import pytest

from agentkit import Agent, ChatAgent, CoordinatorOrchestrator, ParallelAgentExecutor, Reply, SequentialOrchestrator
from agentkit.journal import Journal
from agentkit.lab.loops.virtual import simulate
from agentkit.lab.provider.latency import Latency
from agentkit.lab.provider.provider import Provider

WHO = ("economist", "lawyer")
QUESTIONS = [f"Question {i}?" for i in range(6)]
TURNS = 4  # of each question: a plan, two specialists, the joining


def answer(request) -> str:
    """A plan when asked for one; else the prompt, so that a record says which call it is of."""
    if "Answer with a JSON object" in request.prompt:
        return json.dumps({name: f"{request.prompt.splitlines()[0]} For the {name}." for name in WHO})
    return request.prompt


class Watched:
    """A provider that notes the prompts in the order of its log."""

    def __init__(self, **options) -> None:
        self.seen: list[str] = []
        self.provider = Provider("open", seed=1, answer=self._answer, **options)

    def _answer(self, request) -> str:
        self.seen.append(request.prompt.partition("\n\nSpecialists")[0])
        return answer(request)

    def completed(self, since: int = 0) -> list[str]:
        """The prompts of the calls that were answered to the end."""
        pairs = zip(self.seen[since:], list(self.provider.log)[since:], strict=True)
        return [prompt for prompt, call in pairs if call.outcome == "ok"]


def recorded(path: Path) -> set[str]:
    """The prompts whose answers are in the journal."""
    found = set()
    for record in Journal(path).records() if path.exists() else ():
        if isinstance(record.result, dict):  # a plan
            found.add(record.result[WHO[0]].removesuffix(f" For the {WHO[0]}."))
        elif isinstance(record.result, Reply):
            found.add(record.result.text)
    return found


async def research(client, path: Path, questions=QUESTIONS, record=True):
    """Work on the questions, two at a time; one journal for the questions and for the turns of the team."""
    journal = Journal(path, work="research") if record else None
    agents = [ChatAgent(name, f"You are the {name}.", client=client) for name in ("planner", "writer", *WHO)]
    executor = ParallelAgentExecutor(3, journal=journal)
    team = CoordinatorOrchestrator(agents[0], agents[2:], agents[1], executor=executor)
    report = await ParallelAgentExecutor(2, journal=journal).execute(questions, team)
    return [reply.text for reply in report.results]


async def cancelled(client, path: Path, after: float, record=True):
    """The same, cancelled after so many seconds; None, or the answers if it was done by then."""
    task = asyncio.create_task(research(client, path, record=record))
    await asyncio.wait([task], timeout=after)
    task.cancel()
    return next(iter(await asyncio.gather(task, return_exceptions=True)))


@pytest.mark.parametrize("share", [0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
def test_team_cancelled_midway_pays_for_no_completed_call_again(tmp_path, share):
    """By the provider's log: what it had answered before the crash is not asked again, whatever step it was."""

    async def main():
        loop, asked, path = asyncio.get_running_loop(), Watched(), tmp_path / "j"
        client = asked.provider.client()
        whole = await research(client, tmp_path / "whole")
        took, calls = loop.time(), len(asked.seen)
        assert isinstance(await cancelled(client, path, took * share), asyncio.CancelledError)
        first, done = asked.completed(calls), recorded(path)
        assert set(first) == done
        arrived = len(asked.seen)
        assert await research(client, path) == whole
        again = asked.seen[arrived:]
        assert not set(again) & set(first)
        assert len(first) + len(again) == calls == TURNS * len(QUESTIONS)
        assert await research(client, path) == whole
        assert len(asked.seen) == arrived + len(again)  # and a third time everything is known
        return len(first)

    done = simulate(main)
    assert done < TURNS * len(QUESTIONS)
    assert done > 0 or share < 0.1


def test_team_cancelled_without_a_journal_pays_again(tmp_path):
    """What the journal saves."""

    async def main():
        asked = Watched()
        client = asked.provider.client()
        await cancelled(client, tmp_path / "j", 8.0, record=False)
        first, arrived = asked.completed(), len(asked.seen)
        await research(client, tmp_path / "j", record=False)
        return set(first) & set(asked.seen[arrived:]), set(first)

    again, first = simulate(main)
    assert again == first != set()


def test_team_joins_anew_when_more_has_been_found(tmp_path):
    """A specialist that failed is asked again; the joining that went without it does not stand for the new one."""
    calls: Counter[str] = Counter()

    def named(name, fails=0):
        async def agent(brief):
            calls[name] += 1
            if calls[name] <= fails:
                raise ConnectionError("reset")
            return f"{name} knows"

        return agent

    async def join(question, answers):
        calls["join"] += 1
        return " + ".join(answers.values())

    async def plan(question, state):
        calls["plan"] += 1
        return {"a": "x", "b": "y"}

    async def main():
        journal = Journal(tmp_path / "j", work="team")
        team = CoordinatorOrchestrator(
            plan, {"a": named("a"), "b": named("b", fails=1)}, join, executor=ParallelAgentExecutor(3, journal=journal)
        )
        return [(await team.run("Why?"))[1].answer for _ in range(3)]

    assert simulate(main) == ["a knows", "a knows + b knows", "a knows + b knows"]
    assert calls == {"plan": 1, "a": 1, "b": 2, "join": 2}


def test_team_prompts_that_follow_other_words_are_other_turns(tmp_path):
    """To go on after one question is not to go on after another: with one journal each gets its own answer."""

    class Echo(Agent):
        async def process(self, prompt, context=None):
            return f"{self.name}: {prompt} after {context.messages[0]['content'] if context.messages else 'nothing'}"

    async def main():
        found = []
        for _ in range(2):
            journal = Journal(tmp_path / "j", work="team")
            executor = ParallelAgentExecutor(3, journal=journal)
            line = SequentialOrchestrator(executor=ParallelAgentExecutor(1, journal=journal))
            team = CoordinatorOrchestrator(lambda question, state: {"b": "Go on."}, [Echo("b")], executor=executor)
            for question in ("A bridge?", "A tunnel?"):
                _, results = await line.run([Echo("a"), Echo("b")], [question, "Go on."])
                found += [results[1].result, (await team.run(question))[1][0].result]
        return found

    answers = [f"b: Go on. after {question}" for question in ("A bridge?", "A bridge?", "A tunnel?", "A tunnel?")]
    assert simulate(main) == answers * 2


# -- kill -9 ------------------------------------------------------------------------------------------------------

# A process that has loaded everything, and for each line it reads starts another one that does the work.
WORKER = """
    import asyncio, os, sys
    from pathlib import Path
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient
    sys.path.insert(0, sys.argv[4])
    from test_journal_teams import research

    async def main(path, base_url, count):
        http = DefaultAsyncHttpxClient(trust_env=False, verify=False)
        client = AsyncOpenAI(api_key="loopback", base_url=base_url, max_retries=0, http_client=http)
        print(len(await research(client, Path(path), [f"Question {i}?" for i in range(int(count))])), flush=True)

    path, base_url, count = sys.argv[1:4]
    asyncio.run(main(path + ".first", base_url, 1))  # loads the rest
    while sys.stdin.readline():
        pid = os.fork()
        if not pid:
            asyncio.run(main(path, base_url, count))
            os._exit(0)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)
"""
KILLS, COUNT, SLOTS = 8, 20, 3


@pytest.mark.timeout(60)
def test_team_killed_at_eight_points_pays_for_no_recorded_call_again(tmp_path):
    """A real process, kill -9, resumed eight times; the provider's own log is the witness.

    What was completed and not recorded was on its way at that instant: at most one call per slot.
    """
    path, rng = tmp_path / "j", random.Random(4)
    asked = Watched(latency=Latency(base=0.04, base_spread=0.3, speed=None, mean_output=0))
    ended, lost = threading.Semaphore(0), 0
    asked.provider.subscribe(lambda call: ended.release())
    with asked.provider.serve() as server:
        command = [sys.executable, "-c", textwrap.dedent(WORKER), str(path), server.base_url, str(COUNT)]
        command.append(str(Path(__file__).parent))
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as workers:
            assert workers.stdout.readline() == "1\n"
            for _ in range(KILLS):
                before, arrived = recorded(path), len(asked.seen)
                while ended.acquire(blocking=False):
                    pass
                workers.stdin.write("\n")
                workers.stdin.flush()
                worker = int(workers.stdout.readline())
                for _ in range(rng.randint(1, 12)):
                    assert ended.acquire(timeout=20)
                threading.Event().wait(rng.uniform(0, 0.04))
                os.kill(worker, signal.SIGKILL)
                assert workers.stdout.readline() == f"{signal.SIGKILL:d}\n"
                while asked.provider.statistics().in_flight:  # until the provider has noticed
                    ended.acquire(timeout=0.1)
                assert not set(asked.seen[arrived:]) & before
                unrecorded = set(asked.completed(arrived)) - recorded(path)
                assert len(unrecorded) <= SLOTS
                lost += len(unrecorded)
            before, arrived = recorded(path), len(asked.seen)
            workers.stdin.write("\n")
            workers.stdin.flush()
            workers.stdout.readline()
            assert workers.stdout.readline() == f"{COUNT}\n"
            assert workers.stdout.readline() == "0\n"
    assert 0 < len(before) < TURNS * COUNT
    assert not set(asked.seen[arrived:]) & before
    assert asked.provider.statistics().completed == TURNS * (1 + COUNT) + lost
    assert len(recorded(path)) == TURNS * COUNT
