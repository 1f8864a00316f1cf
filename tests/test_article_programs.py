"""Programs as articles print them run here with only the import line changed.

Each program is a text, so that what runs is what a reader would paste. They are written for classes of the usual names
and shapes; the first line is the only one that knows of agentkit.
"""

from __future__ import annotations

from typing import Any

import pytest

from agentkit.lab.loops.virtual import simulate

ORCHESTRATED = """
from agentkit.orchestration import ConversationState, Agent, ParallelOrchestrator, SequentialOrchestrator
import asyncio


class ResearchAgent(Agent):
    def __init__(self, name, delay=1.0, broken=False):
        super().__init__(name)
        self.delay = delay
        self.broken = broken

    async def process(self, prompt: str, context: ConversationState) -> str:
        await asyncio.sleep(self.delay)
        if self.broken:
            raise RuntimeError("model unavailable")
        known = []
        for role, content in context.messages:
            known.append(f"{role}: {content}")
        return f"{self.name} looked into {prompt!r} knowing {len(known)} messages, first {known[0]!r}"


async def main():
    state = ConversationState(messages=(), agent_outputs={})
    state = state.add_message("user", "Compare the chip makers.")
    agents = [ResearchAgent("supply", 3), ResearchAgent("demand", 1), ResearchAgent("policy", 2, broken=True)]
    prompts = ["supply chains", "demand", "export rules"]

    orchestrator = ParallelOrchestrator(max_concurrent=3)
    final_state, results = await orchestrator.run_parallel(agents, prompts, state)
    lines = []
    for r in results:
        if r["error"]:
            lines.append(f"{r['agent']}: failed ({r['error']})")
        else:
            lines.append(f"{r['agent']}: {r['result'][:40]}")
    assert set(final_state.agent_outputs) == {"supply", "demand"}

    sequential = SequentialOrchestrator()
    final_state, results = await sequential.run_sequential(agents[:2], prompts[:2], state)
    lines += [r["result"] for r in results if r["error"] is None]
    return lines, asyncio.get_running_loop().time()
"""

LIMITED = """
from agentkit.orchestration import ConversationState, Agent, ParallelOrchestrator
import asyncio
import json


class SlowAgent(Agent):
    async def process(self, prompt, context):
        await asyncio.sleep(float(prompt))
        return prompt


async def main():
    orchestrator = ParallelOrchestrator(max_concurrent=2)
    state = ConversationState()
    tasks = [
        orchestrator.run_with_limit(SlowAgent(f"agent_{i}"), seconds, state, timeout=5)
        for i, seconds in enumerate(["1", "2", "60", "1"])
    ]
    results = await asyncio.gather(*tasks)
    successful = [r for r in results if r["error"] is None]
    timed_out = [r["agent"] for r in results if r["error"] == "timeout"]
    return len(successful), timed_out, json.dumps([dict(r) for r in results])
"""

EXECUTED = """
from agentkit import ParallelAgentExecutor
import asyncio


async def classify(document):
    await asyncio.sleep(0.1)
    if "unreadable" in document:
        raise ValueError("cannot parse")
    return {"label": "positive" if len(document) % 2 else "negative"}


def aggregate(results):
    rows = [r for r in results if r["status"] == "success"]
    labels = [r["result"]["label"] for r in rows]
    return {"total": len(rows), "positive": labels.count("positive")}


async def main():
    documents = [f"document {i}" for i in range(19)] + ["unreadable"]
    executor = ParallelAgentExecutor(max_concurrency=5)
    results = await executor.execute(tasks=documents, agent_fn=classify, aggregator=aggregate)
    print(f"Succeeded: {results['summary']['succeeded']}, failed: {results['summary']['failed']}")
    failed = [r["task_id"] for r in results["individual_results"] if r["status"] != "success"]
    return results["summary"]["succeeded"], failed, results["aggregated"]
"""


def run(program: str) -> Any:
    """Run a program's `main` in virtual time."""
    namespace: dict[str, Any] = {"__name__": "program"}
    exec(compile(program, "<article>", "exec"), namespace)
    return simulate(namespace["main"])


def test_article_orchestration_runs_unchanged():
    """Parallel in the time of the slowest, a failure as a message, sequential with the conversation kept."""
    lines, seconds = run(ORCHESTRATED)
    assert lines == [
        "supply: supply looked into 'supply chains' knowi",
        "demand: demand looked into 'demand' knowing 1 me",
        "policy: failed (model unavailable)",
        "supply looked into 'supply chains' knowing 1 messages, first 'user: Compare the chip makers.'",
        "demand looked into 'demand' knowing 3 messages, first 'user: Compare the chip makers.'",
    ]
    assert seconds == 3 + 4


def test_article_limits_and_timeouts_run_unchanged():
    """Partial results, the late one as a timeout, all of it as JSON."""
    succeeded, timed_out, text = run(LIMITED)
    assert (succeeded, timed_out) == (3, ["agent_2"])
    assert '{"agent": "agent_2", "result": null, "error": "timeout"}' in text


def test_article_executor_runs_unchanged(capsys):
    """A report reads like the dict of dicts it is printed as."""
    assert run(EXECUTED) == (19, [19], {"total": 19, "positive": 9})
    assert capsys.readouterr().out == "Succeeded: 19, failed: 1\n"


@pytest.mark.parametrize("program", [ORCHESTRATED, LIMITED, EXECUTED])
def test_article_programs_know_agentkit_in_one_line_only(program):
    """Nothing but the import was changed."""
    assert [("agentkit" in line) for line in program.strip().splitlines()].count(True) == 1
    assert "agentkit" in program.strip().splitlines()[0]
