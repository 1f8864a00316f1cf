"""The command `grade`: grades submissions, prints a table and writes a JSON file for each.

What it holds: `grade`, and the records `Graded` and `Mark`.
Guarantee: every submission gets a verdict for every exercise of its lesson, hidden cases included, whatever it
contains; no submission affects another.
Strategy: run the solution's definitions and checks with the submission's exercise cells inserted, in a limited kernel.
`check` writes each case's verdict to a file. If a cell ends the kernel, the solution's own cell replaces it and the
rest is graded in another run. An answer can forge its verdict from inside the kernel: read the JSON of a surprising
pass.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentkit.base.arguments import whole
from agentkit.lab.course.cells import CellError, exercise_name, read, solutions, tags
from agentkit.lab.course.checks import NOT_YET
from agentkit.lab.course.sandbox import ResourceLimits, RunErrors, run
from agentkit.lab.course.submission import answers, is_blank, lesson_number, merged, not_there

__all__ = ["Graded", "Mark", "ResourceLimits", "grade", "grade_one"]


@dataclass(frozen=True, slots=True)
class Mark:
    """The verdict on one exercise of one submission."""

    exercise: str
    """The exercise's name, such as `ex-limit`."""
    verdict: str
    """`ok, wrong, blank, missing, error, time, memory, died`, or `unchecked` if the check never ran."""
    case: str
    """The first case that failed; empty if all passed or none was tried."""
    message: str
    """What was wrong."""
    hidden: bool
    """Whether that case is a hidden one."""
    cases: tuple[dict[str, Any], ...]
    """Every case that was tried: `case`, `ok`, `message`, `hidden`."""


@dataclass(frozen=True, slots=True)
class Graded:
    """The result of one submission."""

    submission: str
    """The file's name."""
    lesson: str
    """The solution notebook it was compared with; empty if the file could not be read."""
    error: str
    """Why there are no marks; empty if there are."""
    marks: tuple[Mark, ...]
    """One per exercise, in the notebook's order."""

    @property
    def right(self) -> int:
        """How many exercises passed."""
        return sum(mark.verdict == "ok" for mark in self.marks)

    @property
    def passed(self) -> bool:
        """Whether all exercises passed."""
        return not self.error and self.right == len(self.marks)


_LOST = {
    "time": "the cell did not end within its bound; look for a loop that never stops",
    "died": "the kernel was lost in this cell or its check; was it out of memory, or ended from inside?",
}


def _mark(name: str, cases: Sequence[dict[str, Any]], error: str, after: str) -> Mark:
    """Return the verdict of an exercise; `after` is the error of a later cell before the next exercise, if any."""
    failing = next((each for each in cases if not each["ok"]), None)
    case, message, hidden = (failing["case"], failing["message"], failing["hidden"]) if failing else ("", "", False)
    if error in _LOST:
        verdict, message = error, _LOST[error]
    elif error:
        verdict, message = ("memory" if error.startswith("MemoryError") else "error"), error
    elif not cases:
        verdict, message = "unchecked", f"its check did not run ({after or 'does the cell hide the name check?'})"
    elif failing is None:
        verdict = "ok"
    elif message == NOT_YET:
        verdict = "blank"
    else:
        verdict = "time" if "did not end" in message else "memory" if "memory" in message else "wrong"
    return Mark(name, verdict, case, message, hidden, tuple(cases))


def _recorded(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the cases that `check` recorded, by exercise; the last check of an exercise counts."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        cases = json.loads(line)
        found[cases[0].pop("exercise")] = [{k: v for k, v in case.items() if k != "exercise"} for case in cases]
    return found


def _lost_at(ended: RunErrors, at: Mapping[str, int]) -> str | None:
    """Return the exercise whose cell or check ended the kernel, if any."""
    before = [name for name, index in at.items() if ended.stopped is not None and index <= ended.stopped]
    return before[-1] if before else None


async def _marks(solution: Any, own: Mapping[str, str], folder: Path, limits: ResourceLimits) -> dict[str, Mark]:
    """Run the submitted answers until every exercise has its mark: one run, plus one for each kernel lost."""
    given, marks = dict(own), {}
    for _ in range(len(own) + 1):
        notebook, at = merged(solution, given)
        indices = frozenset(at[name] for name in given if name in at)
        with tempfile.TemporaryDirectory() as scratch:
            record = Path(scratch) / "record.jsonl"
            ended = await run(notebook, folder, record, limits, indices)
            cases = _recorded(record)
        lost = _lost_at(ended, at)
        if ended.stopped is not None and lost not in given:
            raise CellError(
                f"the lesson's own cell {ended.stopped + 1} did not end well: {ended.errors[ended.stopped]}"
            )
        for name in [name for name in given if lost is None or at[name] <= at[lost]]:
            error = ended.errors.get(at[name], "") or (
                ended.errors.get(ended.stopped or -1, "") if name == lost else ""
            )
            below = min((index for index in at.values() if index > at[name]), default=len(notebook.cells))
            after = next((ended.errors[index] for index in range(at[name] + 1, below) if index in ended.errors), "")
            marks[name] = _mark(name, cases.get(name, []), error, after)
            del given[name]
        if lost is None:
            break
    return marks


async def grade_one(folder: Path, path: Path, lesson: str | None, limits: ResourceLimits) -> Graded:
    """Grade one submission; a file that cannot be graded gives a result with an error."""
    try:
        notebook = read(path)
        number = lesson or lesson_number(notebook, path)
        solution_path = solutions(folder, [number])[0]
        solution, own = read(solution_path), answers(notebook)
        wanted = {
            name: cell.source for cell in solution.cells if "exercise" in tags(cell) and (name := exercise_name(cell))
        }
        given = {name: own[name] for name in wanted if name in own and not is_blank(own[name], wanted[name])}
        found = await _marks(solution, given, solution_path.parent, limits) if given else {}
    except Exception as error:  # one bad file must not stop the grading of the others
        said = str(error) if isinstance(error, CellError | ValueError) else f"{type(error).__name__}: {error}"
        return Graded(path.name, "", said, ())
    for name in wanted:
        if name not in own:
            found[name] = Mark(
                name, "missing", "", not_there(name, {k: v for k, v in own.items() if k not in wanted}), False, ()
            )
        elif name not in found:
            found[name] = Mark(name, "blank", "", NOT_YET, False, ())
    return Graded(path.name, solution_path.stem, "", tuple(found[name] for name in wanted))


def _labels(paths: Sequence[Path]) -> list[str]:
    """Return a unique name for each submission: its path below their common folder."""
    absolute = [path.absolute() for path in paths]
    top = os.path.commonpath([path.parent for path in absolute])
    return [path.relative_to(top).as_posix() for path in absolute]


def _lines(label: str, graded: Graded) -> list[str]:
    """Return the lines of the table for one submission."""
    if graded.error:
        return [f"{label}  not graded: {graded.error}"]
    verdicts = "  ".join(f"{mark.exercise} {mark.verdict}" for mark in graded.marks)
    lines = [f"{label}  {graded.right} of {len(graded.marks)} right  {verdicts}"]
    for mark in graded.marks:
        if mark.verdict != "ok":
            secret = " (hidden)" if mark.hidden else ""
            lines.append(
                f"    {mark.exercise}: "
                + ": ".join(filter(None, [mark.case + secret if mark.case else "", mark.message]))
            )
    return lines


def _write(graded: Graded, label: str, out: Path) -> None:
    """Write one submission's JSON file."""
    text = json.dumps({**asdict(graded), "submission": label, "right": graded.right}, indent=1, ensure_ascii=False)
    name = label.removesuffix(".ipynb").replace("/", "__") + ".json"
    (out / name).write_text(text + "\n", encoding="utf-8")


async def _all_graded(
    paths: Sequence[Path], jobs: int, one: Callable[[Path], Awaitable[Graded]]
) -> AsyncIterator[Graded]:
    """Grade `jobs` submissions at a time; yield the results in file order."""
    gate = asyncio.Semaphore(jobs)

    async def bounded(path: Path) -> Graded:
        async with gate:
            return await one(path)

    for task in [asyncio.create_task(bounded(path)) for path in paths]:
        yield await task


def grade(
    folder: Path,
    files: Sequence[Path],
    *,
    out: Path,
    lesson: str | None = None,
    limits: ResourceLimits | None = None,
    jobs: int = 1,
) -> list[Graded]:
    """Grade submissions, `jobs` at a time; print the table row by row and write one JSON file each into `out`.

    `folder` holds `solutions/`. A submission takes about two seconds, longer if a cell times out. With more jobs than
    CPU cores, slow but correct answers may time out.
    """
    whole("jobs", jobs, "it is how many submissions run at the same time")
    out.mkdir(parents=True, exist_ok=True)
    labels, each = iter(_labels(files)), limits or ResourceLimits()

    async def collect() -> list[Graded]:
        results = []
        async for graded in _all_graded(files, jobs, lambda path: grade_one(folder, path, lesson, each)):
            results.append(graded)
            label = next(labels)
            print("\n".join(_lines(label, graded)), flush=True)
            _write(graded, label, out)
        return results

    return asyncio.run(collect())
