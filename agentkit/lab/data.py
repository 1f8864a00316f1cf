"""The course's data: where its files are, and the two tables that agents read.

What it holds: `data_path` for any file of the data folder, `documents` and `prompts` for the tables.
Guarantee: the same files in a checkout and in an installed wheel, read as UTF-8, in the order of their ids.
Strategy: a wheel has the folder inside the package as `_data`, a checkout has it next to the package as `data`; the
first that exists is used. The folder's README.md describes each file.
Opened by notebook 01.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from agentkit.base.arguments import shown, text

__all__ = ["Document", "Prompt", "data_path", "documents", "prompts"]

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (_PACKAGE / "_data", _PACKAGE.parent / "data")


@dataclass(frozen=True, slots=True)
class Document:
    """A short document for an agent to read, with the label a classifier should find."""

    id: str
    """`doc-01` and so on; the table is sorted by it."""
    title: str
    """A headline of a few words."""
    text: str
    """One paragraph; its first sentence works as a summary of the rest."""
    label: str
    """One of finance, incident, meeting, product, research, support."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question for a research team of agents."""

    id: str
    """`q-01` and so on; the table is sorted by it."""
    topic: str
    """The specialist to ask: energy, oceans, cities, medicine, food, materials, history of technology, computing."""
    question: str
    """One question of 8 to 25 words."""


def data_path(name: str) -> Path:
    """The path of a file of the course's data, by its name.

    >>> data_path("documents.csv").name
    'documents.csv'
    >>> data_path("novels.csv")
    Traceback (most recent call last):
    FileNotFoundError: no data file named 'novels.csv'; there are ...documents.csv, ...

    Only files directly in the folder are found: no subfolders, no `..`.
    """
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"no data file named {name!r}: the data folder is missing; reinstall agentkit-lab")
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if text("name", name) not in names:
        raise FileNotFoundError(f"no data file named {shown(name)}; there are {', '.join(names)}")
    return folder / name


def documents() -> list[Document]:
    """The 72 documents, 12 of each label.

    >>> first = documents()[0]
    >>> first.id, first.label
    ('doc-01', 'incident')
    >>> len(documents())
    72

    The labels alternate, so the first few documents already cover every one.
    """
    return [Document(**row) for row in _rows("documents.csv")]


def prompts() -> list[Prompt]:
    """The 48 research questions, 6 of each topic.

    >>> first = prompts()[0]
    >>> first.id, first.topic
    ('q-01', 'energy')
    >>> len({prompt.topic for prompt in prompts()})
    8
    """
    return [Prompt(**row) for row in _rows("prompts.csv")]


def _rows(name: str) -> list[dict[str, str]]:
    with data_path(name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
