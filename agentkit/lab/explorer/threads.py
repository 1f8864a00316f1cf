"""Many threads running the same code at once, to see whether it breaks.

What it holds: `hammer` with its result `Hammering`, and `opcode_explore` for the optional package `frontrun`.
Guarantees: all threads start together; the interpreter's switch interval is always restored.
Not guaranteed: to find a race. A wrong result proves that there is one; right results prove nothing.
Strategy: a barrier, a switch interval of one microsecond, fresh state in each round, and a count of the outcomes.
For asyncio, where every order can be tried, see `agentkit.lab.explorer.explore`. Opened by notebooks 04 and 11.
"""

from __future__ import annotations

import html
import itertools
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentkit.base.arguments import function, whole
from agentkit.lab.loops.interleaving import show

__all__ = ["Hammering", "OpcodeExploration", "hammer", "opcode_explore"]

_NO_PROOF = (
    "nothing wrong seen, which proves nothing: "
    "with the GIL, threads change over seldom, and only at calls and where a loop goes back"
)


@dataclass(frozen=True, slots=True, repr=False)
class Hammering:
    """What `hammer` saw."""

    name: str
    """Name of the function."""
    threads: int
    """Number of threads that run at the same time."""
    iterations: int
    """Calls that each thread made in a round."""
    rounds: int
    """Number of rounds, each on fresh state."""
    outcomes: dict[str, int]
    """How often each outcome occurred, the most frequent first."""
    failures: int
    """Outcomes that broke the invariant, and rounds in which a call raised."""

    @property
    def survived(self) -> bool:
        """Whether nothing went wrong this time, which proves nothing."""
        return not self.failures

    def __repr__(self) -> str:
        size = f"{self.rounds} rounds of {self.threads} threads × {self.iterations:,} calls"
        counts = ", ".join(f"{outcome} ×{n:,}" for outcome, n in itertools.islice(self.outcomes.items(), 6))
        rest = f", and {len(self.outcomes) - 6} more" if len(self.outcomes) > 6 else ""
        verdict = f"{self.failures:,} wrong: it does not hold" if self.failures else _NO_PROOF
        return f"hammer {self.name}: {size}, {verdict}\noutcomes: {counts}{rest}"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


MOST = 1_000_000  # threads, iterations or rounds


def hammer(
    fn: Callable[..., Any],
    *,
    threads: int = 4,
    iterations: int = 1_000,
    rounds: int = 10,
    setup: Callable[[], Any] | None = None,
    result: Callable[[Any], Any] | None = None,
    invariant: Callable[[Any], Any] | None = None,
) -> Hammering:
    """Call `fn` from many threads at once and count the outcomes.

    >>> seen = hammer(lambda log: log.append(1), threads=4, iterations=100, rounds=3, setup=list, result=len)
    >>> seen.outcomes
    {'400': 3}

    With `setup`, each round makes a state, every thread calls `fn(state)` `iterations` times, and the outcome of the
    round is `result(state)`, or the state itself. Without it, `fn()` is called and each value it returns is an outcome.
    `invariant(outcome)` returns whether it is right; a call that raises always counts as wrong. A round takes as long
    as threads × iterations calls. The switch interval belongs to the whole process, so don't run two hammers at once.
    """
    function("fn", fn, "write hammer(fn), not hammer(fn())")
    for name, value in (("threads", threads), ("iterations", iterations), ("rounds", rounds)):
        whole(name, value, "leave it out for the default", most=MOST)
    for name, hook in (("setup", setup), ("result", result), ("invariant", invariant)):
        function(name, hook, none=True)
    outcomes: Counter[str] = Counter()
    failures = 0
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(rounds):
            for value, error in _round(fn, threads, iterations, setup, result):
                outcomes[show(value) if error is None else show(error, 100)] += 1
                failures += error is not None or (invariant is not None and not invariant(value))
    finally:
        sys.setswitchinterval(interval)
    name = getattr(fn, "__name__", "fn")
    return Hammering(name, threads, iterations, rounds, dict(outcomes.most_common()), failures)


def _round(
    fn: Callable[..., Any],
    threads: int,
    iterations: int,
    setup: Callable[[], Any] | None,
    result: Callable[[Any], Any] | None,
) -> list[tuple[Any, BaseException | None]]:
    """Run all threads once; return the outcomes, each a value or an error."""
    args = () if setup is None else (setup(),)
    gate, stop = threading.Barrier(threads), threading.Event()
    values: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        gate.wait()
        try:
            for _ in range(iterations):
                if stop.is_set():
                    return
                value = fn(*args)
                if not args:
                    values.append(value)
        except BaseException as error:
            errors.append(error)
            stop.set()

    workers = [threading.Thread(target=work, name=f"hammer-{i}", daemon=True) for i in range(threads)]
    try:
        _start_and_join(workers)
    except KeyboardInterrupt:
        stop.set()
        gate.abort()
        raise
    if errors:
        return [(None, errors[0])]
    return [(v, None) for v in values] if not args else [(result(args[0]) if result else args[0], None)]


def _start_and_join(workers: list[threading.Thread]) -> None:
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


@dataclass(frozen=True, slots=True, repr=False)
class OpcodeExploration:
    """What `opcode_explore` found."""

    holds: bool | None
    """Whether the invariant held in every order tried; None if the search could not tell."""
    runs: int
    """Orders tried."""
    explanation: str
    """The conflict in words: which thread read, which wrote, on which line."""

    def __repr__(self) -> str:
        verdict = {True: "holds", False: "fails", None: "cannot tell"}[self.holds]
        return f"opcode_explore: {verdict} after {self.runs} orders" + f"\n{self.explanation}" * bool(self.explanation)


def opcode_explore(
    setup: Callable[[], Any],
    worker: Callable[[Any], Any],
    invariant: Callable[[Any], bool],
    *,
    threads: int = 2,
    max_runs: int = 1_000,
) -> OpcodeExploration:
    """Try the orders in which threads can run `worker(state)`, instruction by instruction.

    Needs the optional package `frontrun` (`pip install "agentkit-lab[race]"`). It switches threads between any two
    instructions, even where this interpreter never would, so it finds races that show only without the GIL.
    Make locks in `setup`: one made elsewhere is not tracked, and then `holds` is None.
    """
    for name, hook in (("setup", setup), ("worker", worker), ("invariant", invariant)):
        function(name, hook)
    whole("threads", threads, least=2, most=MOST)
    whole("max_runs", max_runs)
    # frontrun reads this when it is imported; without it, it works only from its own command line
    os.environ.setdefault("FRONTRUN_ACTIVE", "1")
    try:
        import frontrun  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise ImportError('opcode_explore needs frontrun; pip install "agentkit-lab[race]", or use hammer') from None
    found = frontrun.explore(setup, worker, invariant, count=threads, max_executions=max_runs)
    return OpcodeExploration(found.property_holds, found.num_explored, found.explanation or "")
