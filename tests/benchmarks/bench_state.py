"""What each way of keeping shared state right costs; prints ratios and exact virtual times side by side.

Run with `python tests/benchmarks/bench_state.py`. Three tables:
1. appending to a conversation of up to 100,000 messages, against the copying class of the articles;
2. one change with nothing else to do: processor time, as a multiple of the unguarded change (a ratio, wobbles);
3. one change that starts from what was read, with a model call of one second inside: virtual seconds until all
   are done and calls that were billed (exact, the same everywhere).
`costs(writers)` and `waits(writers)` return the rows; `chart()` draws the third table.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agentkit.lab.loops.virtual import simulate
from agentkit.locks import KeyedLock, TracedLock
from agentkit.plots import Chart, ways
from agentkit.state import ConversationState, SharedState, VersionedState

WRITERS = (1, 10, 100)
KEYS = 10

Way = Callable[[int, Callable[[str], Awaitable[str]]], Awaitable[int]]


@dataclass(frozen=True)
class Copying:
    """The state of the articles: each message copies all messages before it."""

    messages: tuple[Any, ...] = ()
    agent_outputs: dict[str, Any] = field(default_factory=dict)

    def add_message(self, role: str, content: str) -> Copying:
        """Return a state with one more message."""
        return replace(self, messages=(*self.messages, {"role": role, "content": content}))


async def unguarded(writers: int, change: Callable[[str], Awaitable[str]]) -> int:
    """Lose updates, quickly: the yardstick."""
    table = {"text": ""}

    async def write() -> None:
        table["text"] = await change(table["text"])

    await asyncio.gather(*(write() for _ in range(writers)))
    return len(table["text"])


async def locked(writers: int, change: Callable[[str], Awaitable[str]]) -> int:
    """One lock, held from the read to the write."""
    table, lock = {"text": ""}, TracedLock()

    async def write() -> None:
        async with lock:
            table["text"] = await change(table["text"])

    await asyncio.gather(*(write() for _ in range(writers)))
    return len(table["text"])


async def keyed(writers: int, change: Callable[[str], Awaitable[str]]) -> int:
    """One lock per key, ten keys."""
    table, locks = dict.fromkeys(range(KEYS), ""), KeyedLock()

    async def write(key: int) -> None:
        async with locks.hold(key):
            table[key] = await change(table[key])

    await asyncio.gather(*(write(i % KEYS) for i in range(writers)))
    return sum(map(len, table.values()))


async def versioned(writers: int, change: Callable[[str], Awaitable[str]]) -> int:
    """Nobody waits; who comes too late does its work again."""
    table = VersionedState(text="")
    await asyncio.gather(*(table.update_async("text", change) for _ in range(writers)))
    return len(table.get("text")[0])


async def immutable(writers: int, change: Callable[[str], Awaitable[str]]) -> int:
    """Each writer changes a branch of its own, one owner joins them; nobody sees the others' changes meanwhile."""
    start = ConversationState()

    async def write(i: int) -> ConversationState:
        return start.add_message("assistant", await change(""), name=str(i))

    state = start
    for branch in await asyncio.gather(*map(write, range(writers))):
        state = state.merge(branch)
    return len(state.messages)


async def owned(writers: int, change: Callable[[str], Awaitable[str]]) -> int:
    """One task owns the state; the others send it what to do and wait for the word."""
    queue: asyncio.Queue[asyncio.Future[None] | None] = asyncio.Queue()
    text = ""

    async def owner() -> None:
        nonlocal text
        while (done := await queue.get()) is not None:
            text = await change(text)
            done.set_result(None)

    async def write() -> None:
        done = asyncio.get_running_loop().create_future()
        queue.put_nowait(done)
        await done

    task = asyncio.create_task(owner())
    await asyncio.gather(*(write() for _ in range(writers)))
    queue.put_nowait(None)
    await task
    return len(text)


WAYS: dict[str, Way] = {
    "unguarded": unguarded,
    "lock": locked,
    "keyed lock": keyed,
    "versioned": versioned,
    "immutable": immutable,
    "single owner": owned,
}


async def at_once(text: str) -> str:
    """Change the text without waiting."""
    return text + "x"


def costs(writers: int, rounds: int = 2000) -> dict[str, float]:
    """Return processor time per change of each way, as a multiple of the unguarded one."""
    seconds = dict.fromkeys(WAYS, float("inf"))
    for _ in range(5):  # the best of five, ways taken in turn, so that a busy machine slows all alike
        for name, way in WAYS.items():
            seconds[name] = min(seconds[name], _processor_time(way, writers, max(1, rounds // writers)))
    return {name: spent / seconds["unguarded"] for name, spent in seconds.items()}


def _processor_time(way: Way, writers: int, rounds: int) -> float:
    async def main() -> float:
        before = time.process_time()
        for _ in range(rounds):
            await way(writers, at_once)
        return (time.process_time() - before) / (rounds * writers)

    return simulate(main)


def waits(writers: int) -> dict[str, tuple[float, int, int]]:
    """Return, for each way: virtual seconds until all are done, calls billed, changes that are still there."""

    async def main(way: Way) -> tuple[float, int, int]:
        billed = 0

        async def call(text: str) -> str:
            nonlocal billed
            billed += 1
            await asyncio.sleep(1)
            return text + "x"

        kept = await way(writers, call)
        return asyncio.get_running_loop().time(), billed, kept

    return {name: simulate(main, way) for name, way in WAYS.items()}


def appends(kind: Callable[[], Any], sizes: tuple[int, ...]) -> list[float]:
    """Return processor seconds per message, measured over the 500 messages after each size."""
    state, took, length = kind(), [], 0
    for size in sizes:
        if kind is Copying:  # getting there one by one would take minutes
            state = Copying(tuple({"role": "user", "content": "x"} for _ in range(size)))
        else:
            for _ in range(size - length):
                state = state.add_message("user", "x")
        before = time.process_time()
        for _ in range(500):
            state = state.add_message("user", "x")
        took.append((time.process_time() - before) / 500)
        length = size + 500
    return took


def chart() -> Chart:
    """Draw how long each way takes with a call of one second between read and write."""
    rows = [waits(writers) for writers in WRITERS]
    seconds = {name: [row[name][0] for row in rows] for name in WAYS if name != "unguarded"}
    title = "A call of one second between read and write: what each way to keep all changes costs"
    return ways(WRITERS, seconds, xlabel="writers", ylabel="seconds until all are done", title=title)


def test_bench_state(tmp_path: Path) -> None:
    """Print the tables; appending stays cheap however long the conversation is, and no way loses a change."""
    main()
    picture = chart()
    print(picture)
    picture.save(tmp_path / "ways.png")
    few, many = appends(ConversationState, (1_000, 100_000))
    assert many < 5 * few
    assert all(kept == 100 for name, (_, _, kept) in waits(100).items() if name != "unguarded")


def main() -> None:
    """Print the three tables."""
    sizes = (0, 1_000, 10_000, 100_000)
    ours, theirs = appends(ConversationState, sizes), appends(Copying, sizes)
    print("append, processor time as a multiple of the first messages of ConversationState")
    print(f"{'messages':>12} {'shared':>10} {'copying':>10}")
    for size, one, two in zip(sizes, ours, theirs, strict=True):
        print(f"{size:12,} {one / ours[0]:10.1f} {two / ours[0]:10.1f}")

    shared, n = SharedState(0), 20_000
    before = time.process_time()
    for _ in range(n):
        shared.update(lambda old: old + 1)
    print(f"\nSharedState.update costs {(time.process_time() - before) / n / ours[0]:.1f} of an append")

    print("\none change, processor time as a multiple of the unguarded one (a ratio, wobbles)")
    print(f"{'':14}" + "".join(f"{w:>8} writers" for w in WRITERS))
    table = [costs(writers) for writers in WRITERS]
    for name in WAYS:
        print(f"{name:14}" + "".join(f"{column[name]:16.1f}" for column in table))

    print("\none change with a one-second call inside: virtual seconds / calls billed / changes kept (exact)")
    print(f"{'':14}" + "".join(f"{w:>14} writers" for w in WRITERS))
    exact = [waits(writers) for writers in WRITERS]
    for name in WAYS:
        cells = (f"{column[name][0]:g} s / {column[name][1]:,} / {column[name][2]}" for column in exact)
        print(f"{name:14}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
