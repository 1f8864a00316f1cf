"""The command `check`: checks the style of all stored notebooks.

What it holds: `report` and `violations`.
Guarantee: no kernel; under two seconds for the whole course; one line per violation with file, cell, rule and remedy.
Strategy: rules about cells apply to solutions and learners' notebooks, rules about text to the learners' only. A
learner's notebook must equal the one that `make` would make. A guide follows the same rules, with its own opening and
size limits, and has no exercises.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentkit.lab.course.cells import CellError, named_cells, read, student_path, student_version, tags
from agentkit.lab.course.rules import LEARNER_RULES, NOTEBOOK_RULES, Page, Violation, readme

__all__ = ["report", "violations"]


def _pages(paths: list[Path], folder: Path) -> Iterator[Page | Violation]:
    for path in paths:
        try:
            yield Page(folder, path, read(path))
        except CellError as error:
            yield Violation(path.relative_to(folder).as_posix(), "", str(error), "restore the file")


def _gist(notebook: Any) -> list[tuple[str, str, str, list[str]]]:
    """Return the parts of a notebook's cells that `make` determines: everything except outputs."""
    return [(cell.get("id", ""), cell.cell_type, cell.source, tags(cell)) for cell in notebook.cells]


def _fresh(page: Page) -> Iterator[Violation]:
    """The learner's notebook equals the one made from its solution."""
    path = student_path(page.path)
    try:
        wanted = student_version(page.notebook)
    except CellError as error:
        yield page.broken(None, str(error), "then run make")
        return
    named_cells(wanted)
    if not path.exists() or _gist(wanted) != _gist(read(path)):
        yield page.broken(None, f"{path.name} is missing or not made from it", f"run make {path.stem[:2]}")


def _no_exercises(page: Page) -> Iterator[Violation]:
    """A guide has no exercises: it is published as it is, so an answer would be visible."""
    for index, cell in page.cells("code"):
        if {"exercise", "hidden"} & set(tags(cell)):
            yield page.broken(index, "an exercise in a guide", "make it a lesson: notebooks/solutions/NN_name.ipynb")


def violations(folder: Path) -> list[Violation]:
    """Return all violations in the notebooks of `folder` and in the README next to it."""
    sources = list(_pages(sorted((folder / "solutions").glob("*.ipynb")), folder))
    lessons = list(_pages(sorted(folder.glob("*.ipynb")), folder))
    found = [page for page in (*sources, *lessons) if isinstance(page, Violation)]
    made = {page.path.name for page in sources if isinstance(page, Page)}
    for page in (*sources, *lessons):
        if isinstance(page, Page):
            found += [broken for rule in NOTEBOOK_RULES for broken in rule(page)]
    for page in sources:
        found += list(_fresh(page)) if isinstance(page, Page) else []
    readers = [page for page in lessons if isinstance(page, Page)]
    for page in readers:
        found += [broken for rule in LEARNER_RULES for broken in rule(page)]
        if not page.lesson:
            found += list(_no_exercises(page))
        elif page.path.name not in made:
            found.append(page.broken(None, "has no solution notebook", "write notebooks/solutions/ and run make"))
    return [*found, *readme(folder, readers)]


def report(folder: Path) -> list[Violation]:
    """Print all violations and their number, and return them."""
    found = violations(folder)
    for each in found:
        print(each)
    count = len(list(folder.glob("*.ipynb"))) + len(list((folder / "solutions").glob("*.ipynb")))
    print(f"{len(found)} violation{'s' * (len(found) != 1)} in {count} notebooks")
    return found
