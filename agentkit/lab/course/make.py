"""`make`: the learner's notebooks from the solutions.

What it holds: `make`, which turns each `solutions/NN_name.ipynb` into `NN_name.ipynb`: answers blank, hidden cells
gone, run once from top to bottom in a fresh kernel, stored in normal form. A guide, which has no number and no
exercises, is run where it lies.
Guarantee: a file is written only if something changed; with `only_check` nothing is written and a difference is
reported.
Strategy: what nbval ignores (pictures, traceback text) does not count as a difference when checking, because
pictures differ in bytes from machine to machine; the facts in a chart's repr do count.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from agentkit.lab.course.execute import execute
from agentkit.lab.course.notebooks import (
    CellError,
    is_lesson,
    normalise,
    read,
    sources,
    student_path,
    student_version,
    tags,
    write,
)

__all__ = ["make"]


def _run(notebook: Any, path: Path) -> Any:
    """Run a notebook where it lies and put it into normal form."""
    execute(notebook, path.parent)
    return normalise(notebook)


def _compared(notebook: Any, pictures: bool = False) -> Any:
    """Return what counts as a difference: not tracebacks, nor what nbval ignores; pictures only if asked."""
    notebook = deepcopy(notebook)
    for cell in notebook.cells:
        if "nbval-ignore-output" in tags(cell):
            cell.outputs = []
        for output in cell.get("outputs", []):
            output.pop("traceback", None)
            for kind in () if pictures else ("image/png", "image/jpeg"):
                if kind in output.get("data", {}):
                    output["data"][kind] = ""
    return notebook


def _store(notebook: Any, path: Path, only_check: bool) -> str:
    pictures = not only_check
    if path.exists() and _compared(read(path), pictures) == _compared(notebook, pictures):
        return "same"
    if only_check:
        return "stale"
    write(notebook, path)
    return "made"


def _one(solution: Path, only_check: bool, execute_solutions: bool) -> list[tuple[str, Path]]:
    """Make one learner's notebook, its solution first if asked; return what became of each file."""
    notebook, done = read(solution), []
    if not is_lesson(solution):
        return [(_store(_run(notebook, solution), solution, only_check), solution)]
    if execute_solutions:
        done.append((_store(_run(notebook, solution), solution, only_check), solution))
    path = student_path(solution)
    done.append((_store(_run(student_version(notebook), path), path, only_check), path))
    return done


def make(
    folder: Path, names: Sequence[str] = (), *, only_check: bool = False, execute_solutions: bool = False
) -> list[tuple[str, str]]:
    """Make the notebooks of the named lessons; return and print `made`, `same`, `stale` or `failed` for each file.

    One fresh kernel per notebook, about 2 s each and what its cells take. `execute_solutions` also runs the solution
    notebooks in place; guides always are. A failure is printed with cell and remedy, and the other notebooks are
    still made.
    """
    done: list[tuple[str, str]] = []
    for solution in sources(folder, names):
        try:
            results = _one(solution, only_check, execute_solutions)
            found = [(status, path.relative_to(folder).as_posix()) for status, path in results]
        except CellError as error:
            found = [("failed", f"{solution.stem}: {error}")]
        for status, text in found:
            print(f"{status:6}  {text}" + ("; run make" if status == "stale" else ""), flush=True)
        done += found
    return done
