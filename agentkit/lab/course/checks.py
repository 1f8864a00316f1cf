"""`check` and `hint`, which learners call, and `run_cases`, which runs the cases of an exercise with time limits.

What it holds: `check`, `hint`, `run_cases`.
Guarantee: `check` never raises and always returns. An answer that loops, exits, deadlocks, raises or uses too much
memory gives a `todo` line that says so. Async cases run in virtual time, so the lines are the same on every machine.
Strategy: each case runs in its own thread; if a case exceeds its time limit, an exception is raised in that thread.
Every notebook with exercises uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dis
import gc
import inspect
import itertools
import json
import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from dataclasses import asdict
from typing import Any

from agentkit.base.arguments import switch, whole
from agentkit.lab.course.exercise import Case, Exercise, Verdict, bounds, words
from agentkit.lab.course.registry import exercise
from agentkit.lab.loops.beside import thread_for, throw_into
from agentkit.lab.loops.virtual import Deadlock, simulate

__all__ = ["NOT_YET", "check", "hint", "run_cases"]

NOT_YET = "not answered yet"
RECORD = "AGENTKIT_GRADE_RECORD"
"""Set by `grade` to the path of a file; `check` then runs the hidden cases too and writes all verdicts to that file."""


class _Overrun(SystemExit):
    """Raised in the thread of a case that does not end; a SystemExit, which asyncio does not catch."""


def _end(thread: threading.Thread) -> None:
    """Stop a thread that runs Python code; give up after two seconds."""
    for _ in range(20):
        throw_into(thread, _Overrun)
        thread.join(0.1)
        if not thread.is_alive():
            return


def _bounded(work: Callable[[], object], seconds: float) -> BaseException | None:
    """Run `work` in a thread; return what it raised, or None, or `_Overrun` if it did not end in time."""
    thread, answer = thread_for(work, "agentkit-case")
    try:
        thread.start()
        wait([answer], seconds)
    except KeyboardInterrupt:  # the Stop button
        _end(thread)
        raise
    if not answer.done():
        _end(thread)
        return _Overrun()
    thread.join()
    error = answer.exception()  # SystemExit too: an answer that exits is a verdict
    return error.with_traceback(None) if error else None


class _TooLate(Exception):
    """An async case exceeded its limit of virtual seconds."""


def _trial(function: Case, answer: object) -> Callable[[], object]:
    """Return a function that runs the case; an async one runs in virtual time, with its timeout."""
    within, _ = bounds(function)
    if not inspect.iscoroutinefunction(function):
        return lambda: function(answer)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: None)
        own, late = asyncio.current_task(), False

        def on_timeout() -> None:
            nonlocal late
            # If nothing else can ever run, it is a deadlock, which the virtual loop detects and reports with its line.
            ready = loop._ready  # noqa: SLF001  (asyncio keeps no public queue of callbacks)
            timers = loop._scheduled  # noqa: SLF001  (asyncio keeps no public list of timers)
            late = bool(ready) or any(not timer.cancelled() for timer in timers)
            if late and own:
                own.cancel()

        timer = loop.call_later(within, on_timeout)
        try:
            await function(answer)
        finally:
            timer.cancel()
            if late:
                raise _TooLate(f"it was not done after {within:,g} virtual seconds") from None

    return lambda: simulate(main)


def _is_stub(answer: object) -> bool:
    """Return whether an answer is still blank: `...`, None, NotImplemented, or a function whose body is `...`."""
    if answer is None or answer is ... or answer is NotImplemented:
        return True
    code = getattr(answer, "__code__", None)
    if code is None:
        return False

    def empty() -> None: ...
    async def empty_async() -> None: ...

    def steps(code: Any) -> list[tuple[str, object]]:
        return [(step.opname, step.argval) for step in dis.get_instructions(code) if step.opname != "NOP"]

    return steps(code) in (steps(empty.__code__), steps(empty_async.__code__))


def _describe(error: BaseException, seconds: float) -> str:
    """Return one line that says what went wrong; the same on every machine."""
    try:
        text = str(error)
    except Exception:
        text = ""
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", "; ".join(line.strip() for line in text.splitlines() if line.strip()))
    text = text if len(text) <= 300 else text[:299] + "…"
    match error:
        case _Overrun():
            return f"it did not end within {seconds:g} s of real time; look for a loop that never stops or never awaits"
        case NotImplementedError():
            return NOT_YET
        case AssertionError():
            return text or "does not hold yet"
        case Deadlock():
            return re.sub(r"^at \S+ s ", "", text).replace(":;", ":", 1)  # the time is that of the case's limit
        case _TooLate():
            return text
        case SystemExit():
            return "the answer called sys.exit; return a value instead"
        case MemoryError():
            return "it asked for more memory than is allowed"
        case _:
            return f"raised {type(error).__name__}: {text}" if text else f"raised {type(error).__name__}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress asyncio's log messages and warnings about a wrong answer, such as tasks never awaited."""
    log = logging.getLogger("asyncio")
    disabled, log.disabled = log.disabled, True
    gc.freeze()  # so that the collection below visits only objects made by the cases, which is fast
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
            gc.collect()
    finally:
        gc.unfreeze()
        log.disabled = disabled


def run_cases(
    name: str, task: Exercise, answer: object, *, hidden: bool | None = None, patience: float = 1
) -> list[Verdict]:
    """Run the visible cases (`hidden=False`), the hidden ones (True), or both (None) on an answer.

    After a case that does not end, the rest are skipped, since they would probably not end either. `patience`
    multiplies the limits of real time, for a first run that still has to import packages.
    """
    shown = [] if hidden else [(function, False) for function in task.cases]
    unseen = [] if hidden is False else [(function, True) for function in task.hidden]
    verdicts, stub, over = [], _is_stub(answer), False
    with _quiet():
        for function, secret in shown + unseen:
            if stub or over:
                message = NOT_YET if stub else "not tried, since a case before it did not end"
            else:
                message, over = _run_case(function, answer, bounds(function)[1] * patience)
            verdicts.append(Verdict(name, words(function), not message, message, secret))
    return verdicts


def _run_case(function: Case, answer: object, seconds: float) -> tuple[str, bool]:
    """Run one case; return its message (empty if it passed), and whether it did not end. Drops the error itself."""
    error = _bounded(_trial(function, answer), seconds)
    return _describe(error, seconds) if error else "", isinstance(error, _Overrun)


def _record(name: str, answer: object, path: str) -> None:
    """Append the verdicts of all cases, hidden ones included, to the grader's file, as one line."""
    verdicts = [asdict(verdict) for verdict in run_cases(name, exercise(name), answer)]
    with open(path, "a", encoding="utf-8") as file:
        print(json.dumps(verdicts), file=file)


def check(name: str, answer: object, *, hidden: bool = False) -> None:
    """Check an answer and print one line per case: `ok`, or `todo` with what is wrong.

    In a notebook: `check("ex-limit", limited)`. The answer is what the exercise asks for, usually a function.
    `hidden=True`, used in the solution notebooks, runs the hidden cases instead. Never raises for a wrong answer.
    """
    switch("hidden", hidden)
    if path := os.environ.get(RECORD):
        if not hidden:
            _record(name, answer, path)
        return
    for verdict in run_cases(name, exercise(name), answer, hidden=hidden):
        print(verdict.line)


_shown: dict[str, Iterator[int]] = {}


def hint(name: str, strength: int | None = None) -> None:
    """Print the next hint for an exercise, or the one of `strength` 1 (a nudge), 2 (the idea), 3 (nearly the answer).

    Each further call without a number prints a stronger hint, up to the third.
    """
    hints = exercise(name).hints
    if strength is None:
        turn = _shown.setdefault(name, itertools.chain((1, 2, 3), itertools.repeat(3)))
        strength = next(turn)
    whole("strength", strength, "1 is a nudge, 3 is nearly the answer", most=3)
    print(f"hint {strength} of 3: {hints[strength - 1]}")
