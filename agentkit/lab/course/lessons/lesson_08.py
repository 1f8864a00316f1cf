"""Checks of notebook 08, backpressure: a bounded pipeline, and a limit picked from measured curves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from agentkit.executor import ParallelAgentExecutor
from agentkit.lab.course.exercise import Exercise, Question, case, swap

__all__ = ["EXERCISES", "QUIZ", "Works", "measured", "wanted"]

RunPipeline = Callable[..., Awaitable[list[Any]]]
Row = tuple[int, float, float]
Pick = Callable[[Sequence[Row], float], Any]


class Works:
    """Two stages that count: what was read, fetched, begun, and how much of it at once."""

    def __init__(self, fetch: float = 0.1, respond: float = 2, broken: int | None = None) -> None:
        self._fetch, self._respond, self._broken = fetch, respond, broken
        self.read = self.fetched = self.begun = self.in_flight = 0
        self.most_read_ahead = self.most_waiting = self.most_in_flight = 0

    def items(self, many: int) -> Iterator[int]:
        """Yield the numbers from 0, and count how far they are read ahead of the fetches."""
        for number in range(many):
            self.read += 1
            self.most_read_ahead = max(self.most_read_ahead, self.read - self.fetched)
            yield number

    async def fetch(self, item: int) -> str:
        """Return a page; that of item 3 is empty."""
        await asyncio.sleep(self._fetch)
        self.fetched += 1
        self.most_waiting = max(self.most_waiting, self.fetched - self.begun)
        return "" if item == 3 else f"page {item}"

    async def respond(self, page: str) -> str:
        """Return an answer; the later ones come faster."""
        number = int(page.removeprefix("page ") or 3)
        self.begun += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self._respond - 0.05 * number)
            if number == self._broken:
                raise ValueError("the answer is no JSON")
        finally:
            self.in_flight -= 1
        return f"answer {number}"


# -- ex-pipeline ------------------------------------------------------------------------------------------------------


async def few_pages_wait(pipeline: RunPipeline) -> None:
    """Fast fetches, slow answers, max_queue=3: three pages wait, and one more in the hand of the fetching stage."""
    works = Works()
    await pipeline(works.items(20), works.fetch, works.respond, 2, 3)
    assert works.most_waiting <= 4, f"{works.most_waiting} pages were fetched and not begun"


async def both_stages_work(pipeline: RunPipeline) -> None:
    """Eight fetches of 1 s and eight answers of under 1 s take less than 9 s together, not 16."""
    works, now = Works(fetch=1, respond=1), asyncio.get_running_loop().time
    began = now()
    await pipeline(works.items(8), works.fetch, works.respond, 1, 2)
    assert now() - began < 9, f"they took {now() - began:g} s"


async def all_workers_work(pipeline: RunPipeline) -> None:
    """With four workers, four answers are in flight at once, and never five."""
    works = Works()
    await pipeline(works.items(12), works.fetch, works.respond, 4, 2)
    assert works.most_in_flight == 4, f"at most {works.most_in_flight} were in flight"


async def answers_in_order(pipeline: RunPipeline) -> None:
    """All answers come out, in the order of the items, though later ones are ready sooner; the last one, too."""
    works = Works(fetch=0.01)
    answers = await pipeline(works.items(7), works.fetch, works.respond, 7, 2)
    assert answers == [f"answer {number}" for number in range(7)], f"out came {answers!r:.200}"


async def an_error_ends_it(pipeline: RunPipeline) -> None:
    """When an answer fails, the error comes out soon, instead of a wait for ever, and no further answer begins."""
    works = Works(broken=2)
    try:
        await asyncio.wait_for(pipeline(works.items(20), works.fetch, works.respond, 2, 2), 20)
    except TimeoutError:
        raise AssertionError("twenty seconds later it was still waiting") from None
    except Exception:
        begun = works.begun
    else:
        raise AssertionError("it returned as if nothing had been")
    await asyncio.sleep(30)
    assert works.begun == begun <= 6, f"{works.begun} answers were begun, {begun} when the error came out"


async def reads_no_further(pipeline: RunPipeline) -> None:
    """The items may be endless: none is read before it is its turn to be fetched."""
    works = Works()
    await pipeline(works.items(12), works.fetch, works.respond, 2, 2)
    assert works.most_read_ahead == 1, f"{works.most_read_ahead} items were read and not fetched"


QUEUE, SORTED = "asyncio.Queue(max_queue)", "[answers[number] for number in sorted(answers)]"
PUT, WORKERS = "await queue.put((number, await fetch(item)))", "*(work() for _ in range(workers))"

JOINED = """
async def pipeline(items, fetch, respond, workers, max_queue):
    queue, answers = asyncio.Queue(max_queue), {}

    async def work():
        while True:
            number, page = await queue.get()
            answers[number] = await respond(page)
            queue.task_done()

    staff = [asyncio.create_task(work()) for _ in range(workers)]
    for number, item in enumerate(items):
        await queue.put((number, await fetch(item)))
    await queue.join()
    [one.cancel() for one in staff]
    return [answers[number] for number in sorted(answers)]
"""


# -- ex-knee ----------------------------------------------------------------------------------------------------------


async def measured(slots: int, seconds: float, ks: Iterable[int], slowdown: float = 0, spread: float = 0) -> list[Row]:
    """Run sixty agents at each limit against a server of so many slots; return (k, throughput, p95) of each run.

    `slowdown` is by how much each further call at work slows a call, `spread` the sigma of its lognormal factor.
    """

    async def run(k: int) -> Row:
        server, rng, busy = asyncio.Semaphore(slots), random.Random(5), 0

        async def agent(_: int) -> None:
            nonlocal busy
            mine = seconds * rng.lognormvariate(0, spread)
            async with server:
                busy += 1
                await asyncio.sleep(mine * (1 + slowdown * (busy - 1)))
                busy -= 1

        summary = (await ParallelAgentExecutor(k).execute(range(60), agent)).summary
        return k, summary.throughput, summary.latency_p95 or 0.0

    return [await run(k) for k in ks]


def wanted(rows: Sequence[Row], patience: float) -> int | None:
    """Return the k to pick, from the curve alone."""
    allowed = sorted(row for row in rows if row[2] <= patience)
    return next((row[0] for row in allowed if row[1] >= 0.95 * max(other[1] for other in allowed)), None)


def _picks(pick: Pick, rows: Sequence[Row], patience: float) -> None:
    """Compare a pick with the right one."""
    got, right = pick(list(rows), patience), wanted(rows, patience)
    curve = ", ".join(f"{k}: {throughput:.2f} ({p95:.2f} s)" for k, throughput, p95 in rows)
    assert got == right, f"picked {got!r}, not {right!r}, with patience {patience:g} s, from {curve}"


async def the_knee(pick: Pick) -> None:
    """A server of 6 slots and calls of 2 s, a p95 of exactly 2 s bearable: it is the 6."""
    rows = await measured(6, 2, (1, 2, 4, 6, 10, 20))
    _picks(pick, rows, 2.0)


async def another_latency(pick: Pick) -> None:
    """A server of 3 slots and calls of half a second, and all the patience there is: it is the 3."""
    rows = await measured(3, 0.5, (1, 2, 3, 4, 6, 12, 24))
    _picks(pick, rows, 3600.0)


async def too_slow_at_the_knee(pick: Pick) -> None:
    """Calls slow each other down, and the best throughput costs a p95 beyond patience: less is picked."""
    rows = await measured(20, 1, (1, 2, 4, 8, 12, 20), slowdown=0.05)
    _picks(pick, rows, 1.3)


async def in_any_order(pick: Pick) -> None:
    """The rows may come in any order."""
    rows = await measured(5, 1, (20, 3, 10, 1, 7, 5))
    _picks(pick, rows, 2.0)


async def nothing_bearable(pick: Pick) -> None:
    """Where no row is within patience, there is nothing to pick: None."""
    rows = await measured(4, 3, (1, 2, 4, 8))
    _picks(pick, rows, 2.9)


@case(seconds=10)
async def many_curves(pick: Pick) -> None:
    """Uneven calls, other servers, more and less patience: it picks what each curve says."""
    for slots, seconds, slowdown in ((4, 0.3, 0.0), (7, 5.0, 0.02), (12, 1.0, 0.1), (9, 2.0, 0.0)):
        rows = await measured(slots, seconds, (1, 2, 4, 7, 9, 12, 16, 30), slowdown=slowdown, spread=0.6)
        for share in (1.2, 2.0, 3.0, 5.0, 50.0):
            _picks(pick, rows, share * seconds)


BEARABLE = "[(k, throughput) for k, throughput, p95 in rows if p95 <= patience]"
LEAST = "min((k for k, throughput in bearable if throughput >= 0.95 * best), default=None)"

EXERCISES = {
    "ex-pipeline": Exercise(
        cases=[few_pages_wait, both_stages_work, all_workers_work, answers_in_order],
        hidden=[an_error_ends_it, reads_no_further],
        wrong=[
            swap(f"{QUEUE}, {{}}", f"{QUEUE}, {{}}\n    return [await respond(await fetch(item)) for item in items]"),
            JOINED,
            swap(QUEUE, "asyncio.Queue()"),
            swap(QUEUE, "asyncio.Queue(max_queue + workers)"),
            swap(PUT, "queue.put_nowait((number, await fetch(item)))"),
            swap("_ in range(workers):\n            await queue.put", "_ in [1]:\n            await queue.put"),
            swap("await queue.put(None)", "pass"),
            swap(WORKERS, "work()"),
            swap(SORTED, "list(answers.values())"),
            swap("enumerate(items)", "enumerate(list(items))"),
            swap("while job := await queue.get():", "while (job := await queue.get()) and job[1]:"),
            swap(
                "            answers[job[0]] = await respond(job[1])",
                "            try:\n                answers[job[0]] = await respond(job[1])\n"
                "            except Exception:\n                pass",
            ),
        ],
        hints=(
            "What lets one stage run ahead of the other, but only so far? And how does a worker learn of the end?",
            "A Queue(max_queue) between one task that fetches and the workers, in a TaskGroup; at the end a None each.",
            "feed: await queue.put((number, await fetch(item))), then Nones; work: while job := await queue.get(): …",
        ),
    ),
    "ex-knee": Exercise(
        cases=[the_knee, another_latency, too_slow_at_the_knee, in_any_order],
        hidden=[nothing_bearable, many_curves],
        wrong=[
            swap(LEAST, "max(rows, key=lambda row: row[1])[0]"),
            swap(LEAST, "max((k for k, _ in bearable), default=None)"),
            swap(LEAST, "min(rows, key=lambda row: row[2])[0]"),
            swap(LEAST, "next((k for k, throughput in bearable if throughput >= 0.95 * best), None)"),
            swap(LEAST, "min((throughput for _, throughput in bearable if throughput >= 0.95 * best), default=None)"),
            swap(BEARABLE, "[(k, throughput) for k, throughput, p95 in rows]"),
            swap("p95 <= patience", "p95 < patience"),
            swap("0.95 * best", "best"),
            swap("for _, throughput in bearable), default=0", "for _, throughput, _ in rows), default=0"),
            swap(", default=None", ""),
            lambda rows, patience: 8,
        ],
        hints=(
            "Which rows may be picked at all? Put the others away first; only then ask for the best throughput.",
            "Of rows with p95 <= patience: the best throughput, then the least k with 95 % of it. No row left: None.",
            "bearable = [… if p95 <= patience]; best = max(…, default=0); min((k … >= 0.95 * best), default=None).",
        ),
    ),
}

QUIZ = [
    Question(
        "Three hundred wait in front of ten slots, calls take 3 s. How long does a newcomer wait?",
        right="about 90 s",
        because="ten leave every three seconds: 300 / 10 · 3",
        wrong={"3 s": "that is the call alone; thirty rounds come first", "900 s": "that is one slot; here are ten"},
    ),
    Question(
        "Four a second arrive and two leave. A line of 64 in place of 8 gives, in the long run,",
        right="longer waits and as many answers a second",
        because="what leaves is decided by slots and latency; each place is one answer more, once",
        wrong={"more answers a second": "no slot is busier than before", "no refusals": "it is full in half a minute"},
    ),
    Question(
        "A queue between two stages is full, and the first stage calls `await queue.put(page)`. It",
        right="waits until the second stage has taken a page",
        because="that is backpressure: the producer is slowed down to the consumer's pace",
        wrong={"gets QueueFull": "put_nowait raises that", "drops the oldest page": "no queue drops what it holds"},
    ),
    Question(
        "Six questions a second arrive, calls take 1.5 s. How many slots are the least?",
        right="9",
        because="L = λ · W = 6 · 1.5; for a short line take a few more",
        wrong={"4": "that is 6 / 1.5; multiply, do not divide", "6": "that would be so at one second a call"},
    ),
    Question(
        "At twice the concurrency of the knee you get",
        right="the same throughput and calls that take about twice as long",
        because="what the provider cannot serve waits in the provider's line, inside your calls",
        wrong={"twice the throughput": "that is so left of the knee", "refusals, always": "many let you wait instead"},
    ),
]
