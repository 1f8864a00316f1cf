"""The command `mutants`: mutation testing of the exercises. The checks must reject blanks and wrong answers.

What it holds: `mutants`, and `proof` for one exercise.
Guarantee: an exercise passes only if its solution passes all cases, it has at least one hidden case and at least three
wrong answers, some case rejects each wrong answer, and each case rejects at least one.
Strategy: no kernel. The exercise cell runs with the imports, functions, classes and constants of the cells above it and
the names of the lesson file; the answer is the argument that the notebook passes to `check`. An exercise takes
milliseconds, so the test suite runs them all.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentkit.lab.course.cells import asked_for, definitions, exercise_name, read, solutions, stub, tags
from agentkit.lab.course.checks import run_cases
from agentkit.lab.course.exercise import Exercise, Swap, words
from agentkit.lab.course.registry import lesson

__all__ = ["mutants", "proof"]

WRONG_ANSWERS = 3


class _ExerciseRunner:
    """Runs the cell of one exercise with any source and returns its answer."""

    def __init__(self, cells: Sequence[Any], index: int, asked: ast.expr, names: Mapping[str, object]) -> None:
        self.above = [cell.source for cell in cells[:index] if cell.cell_type == "code"]
        self.asked = compile(ast.Expression(asked), "check", "eval")
        self.names = names

    def answer(self, source: str) -> object:
        """Run a cell with this source and return its answer; the cell's exceptions propagate."""
        space = {"__name__": "cell", "asyncio": asyncio, **self.names}
        for text in self.above:
            exec(compile(definitions(text), "cell", "exec"), space)  # the lesson's own cells
        space["check"] = lambda *args, **kwargs: None  # a check in the exercise's own cell would run the cases twice
        code = compile(source, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        with contextlib.redirect_stdout(io.StringIO()):
            if code.co_flags & inspect.CO_COROUTINE:
                asyncio.run(eval(code, space))
            else:
                exec(code, space)
            return eval(self.asked, space)


def _called(wrong: object) -> str:
    """Return a name for a wrong answer."""
    match wrong:
        case Swap(old, new):
            return f"swap {old!r} for {new!r}"
        case str():
            return f"the cell {wrong.splitlines()[0]!r}"
        case _:
            return getattr(wrong, "__name__", repr(wrong))


def _answers(task: Exercise, runner: _ExerciseRunner, source: str) -> Iterator[tuple[str, object, str]]:
    """Yield each wrong answer: its name, the answer, and the error if it could not be created (else empty)."""
    for wrong in task.wrong:
        try:
            text = wrong.apply(source) if isinstance(wrong, Swap) else wrong
            yield _called(wrong), runner.answer(text) if isinstance(text, str) else text, ""
        except Exception as error:
            remedy = "; a string is the source of the whole cell: write name = value" if isinstance(wrong, str) else ""
            yield _called(wrong), None, f"{type(error).__name__}: {error}{remedy}"


def _mistakes(name: str, task: Exercise, runner: _ExerciseRunner, source: str) -> Iterator[str]:
    """Yield a message for each wrong answer that passes or cannot be run, and each case that rejects none."""
    useful: set[str] = set()
    for called, answer, error in _answers(task, runner, source):
        if error:
            yield f"a wrong answer cannot be tried: {called}: {error}"
            continue
        rejected = [verdict for verdict in run_cases(name, task, answer) if not verdict.ok]
        useful |= {verdict.case for verdict in rejected}
        if not rejected:
            yield f"a wrong answer passes: {called}; add a case that rejects it"
    for function in (*task.cases, *task.hidden):
        if words(function) not in useful:
            yield f"a case rejects no wrong answer: {words(function)}; add a wrong answer it must reject"


def proof(name: str, task: Exercise, runner: _ExerciseRunner, source: str) -> Iterator[str]:
    """Yield a message for each problem of an exercise; none if it is proven."""
    if len(task.wrong) < WRONG_ANSWERS:
        yield f"has {len(task.wrong)} wrong answers, needs {WRONG_ANSWERS}; add mistakes a learner would make"
    if not task.hidden:
        yield "has no hidden case; add one that the visible cases do not imply"
    try:
        right, blank = runner.answer(source), runner.answer(stub(source))
    except Exception as error:
        yield f"the cell cannot run with what the cells above it define: {type(error).__name__}: {error}"
        return
    for verdict in run_cases(name, task, right, patience=5):
        if not verdict.ok:
            yield f"the solution is rejected: {verdict.case}: {verdict.message}"
    if all(verdict.ok for verdict in run_cases(name, task, blank, hidden=False)):
        yield "the blank passes every visible case; a case must reject the stub"
    yield from _mistakes(name, task, runner, source)


def _problems(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each exercise of a solution notebook and its problems."""
    cells = read(path).cells
    present = {exercise_name(cell) or "": index for index, cell in enumerate(cells) if "exercise" in tags(cell)}
    if not present:
        return
    known = lesson(path.stem)
    for name in sorted(set(present) | set(known.exercises)):
        if name not in known.exercises:
            yield name, [f"is not in the EXERCISES of lesson {known.number}"]
        elif name not in present:
            yield name, [f"has no cell tagged exercise and {name} in {path.name}"]
        elif (asked := asked_for(cells, name)) is None:
            yield name, [f"is never checked; add a cell check({name!r}, …) below it"]
        else:
            runner = _ExerciseRunner(cells, present[name], asked, known.names)
            yield name, list(proof(name, known.exercises[name], runner, cells[present[name]].source))


def mutants(folder: Path, names: Sequence[str] = ()) -> bool:
    """Test every exercise of the named lessons and print a line for each; return whether all are proven."""
    proven = True
    for path in solutions(folder, names):
        for name, problems in _problems(path):
            proven = proven and not problems
            many = len(lesson(path.stem).exercises[name].wrong) if not problems else 0
            print(
                f"{'ok   ' if not problems else 'wrong'}  {path.stem}  {name}"
                + (f"  {many} wrong answers rejected" * (many > 0))
            )
            for problem in problems:
                print(f"         {problem}")
    return proven
