"""The command `make`: makes the learners' notebooks from the solutions.

What it holds: `make`, which turns each `solutions/NN_name.ipynb` into `NN_name.ipynb`: it removes answers and hidden
cells, runs the notebook from top to bottom in a fresh kernel, and stores it in normal form. A guide, a notebook without
number and exercises, is run in place.
Guarantee: a file is written only if something changed; with `only_check` nothing is written and differences are
reported.
Strategy: `only_check` ignores what nbval ignores (pictures, tracebacks), because the bytes of pictures differ between
machines; the facts in a chart's repr are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from agentkit.lab.course.cells import (
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
from agentkit.lab.course.execute import execute

__all__ = ["make"]


def _run(notebook: Any, path: Path) -> Any:
    """Run a notebook in its folder and return it in normal form."""
    execute(notebook, path.parent)
    return normalise(notebook)


def _compared(notebook: Any, pictures: bool = False) -> Any:
    """Return a copy without tracebacks and outputs that nbval ignores, and without pictures unless `pictures`."""
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
    """Make one learner's notebook, and run its solution first if asked; return the status of each file."""
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

    Each notebook runs in a fresh kernel, which takes about 2 s plus its cells. `execute_solutions` also runs the
    solution notebooks in place; guides always run. A failure is printed with its cell and remedy, and the other
    notebooks are still made.
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
