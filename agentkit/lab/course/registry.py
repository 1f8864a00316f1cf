"""Finds and loads the lesson files, and finds the lesson of an exercise.

What it holds: `lesson("01")`, `lessons()`, `lesson_of("ex-limit")` and `exercise("ex-limit")`. A lesson file is
`lesson_NN.py` in the folder `lessons` of this package, or in the folder that the environment variable AGENTKIT_LESSONS
names; a file there overrides the package's file with the same number.
Guarantee: exercise names are unique across all lessons; a clash raises an error that names both lessons.
Strategy: a file is loaded on first use and cached. Opened by no notebook.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from agentkit.base.arguments import shown, text
from agentkit.lab.course.exercise import Exercise, Question

__all__ = ["Lesson", "exercise", "lesson", "lesson_of", "lessons"]


@dataclass(frozen=True, slots=True)
class Lesson:
    """The contents of one lesson file."""

    number: str
    """Two digits, as in the notebook's name."""
    exercises: Mapping[str, Exercise]
    """The exercises by name, in notebook order."""
    quiz: Sequence[Question]
    """The quiz questions."""
    names: Mapping[str, object]
    """All names the file defines; wrong answers given as source may use them."""


def _files() -> dict[str, Path]:
    """Return the lesson files by number."""
    folders = [Path(__file__).with_name("lessons")]
    if own := os.environ.get("AGENTKIT_LESSONS"):
        folders.append(Path(own))
    return {path.stem[-2:]: path for folder in folders for path in sorted(folder.glob("lesson_[0-9][0-9].py"))}


@cache
def _load(number: str, path: Path) -> Lesson:
    inside = path.parent == Path(__file__).with_name("lessons")
    name = f"agentkit.lab.course.lessons.{path.stem}" if inside else f"agentkit_lessons.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} cannot be loaded as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return Lesson(number, getattr(module, "EXERCISES", {}), getattr(module, "QUIZ", ()), vars(module))


def lessons() -> list[Lesson]:
    """Return all lessons in order; raise ValueError if two lessons have an exercise of the same name."""
    found = [_load(number, path) for number, path in sorted(_files().items())]
    owner: dict[str, str] = {}
    for each in found:
        for name in each.exercises:
            if name in owner:
                raise ValueError(
                    f"exercise {name!r} is in lesson {owner[name]} and {each.number}; names must be unique"
                )
            owner[name] = each.number
    return found


def lesson(number: str) -> Lesson:
    """Return the lesson of that number, or of a notebook's name such as `01_waiting_is_the_work`."""
    files, wanted = _files(), text("number", number, "as in lesson('01')")[:2]
    if wanted not in files:
        known = ", ".join(sorted(files)) or "none"
        raise ValueError(f"there is no lesson file for {shown(number)}; lesson files exist for: {known}")
    return _load(wanted, files[wanted])


def lesson_of(name: str) -> Lesson:
    """Return the lesson that an exercise belongs to; raise ValueError with the closest name if there is none."""
    text("name", name)
    found = lessons()
    for each in found:
        if name in each.exercises:
            return each
    near = get_close_matches(name, [key for each in found for key in each.exercises], 1)
    remedy = f"did you mean {near[0]!r}?" if near else "add it to the EXERCISES of the lesson's file"
    raise ValueError(f"there is no exercise {shown(name)}; {remedy}")


def exercise(name: str) -> Exercise:
    """Return the exercise of that name; raise ValueError with the closest name if there is none."""
    return lesson_of(name).exercises[name]
