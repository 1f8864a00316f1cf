"""The course's data is complete, clean and neither too easy nor too hard; the loader finds it or says what there is."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from agentkit.lab import data
from agentkit.lab.data import Document, data_path, documents, prompts

LABELS = ["finance", "incident", "meeting", "product", "research", "support"]
TOPICS = ["cities", "computing", "energy", "food", "history of technology", "materials", "medicine", "oceans"]
TABLES = {"documents.csv": ["id", "label", "title", "text"], "prompts.csv": ["id", "topic", "question"]}
FORBIDDEN = {
    "a URL": r"\w+://|\bwww\.",
    "an e-mail address": r"\S+@\S+",
    "an absolute path": r"(?<![\w/])/(?:\w+/)+|\b[A-Z]:\\",
    "a control character": r"[\x00-\x09\x0b-\x1f\x7f]",
    "a double or trailing blank": r"  | $",
}
WORDS = {
    "finance": "budget cost costs income invoice invoices revenue quarter spending bill forecast €",
    "incident": "on-call paged alarm outage cause mitigation fix errors failed restart rolled latency health",
    "meeting": "agreed agenda decided decision discussed present minutes actions action postponed proposed asked",
    "product": "lantern version plan plans now settings new feature available default switched shows",
    "research": "measured compared sample study effect average volunteers blind conclude suggests found",
    "support": "i my me please help cannot thanks",
}
KEYWORDS = {label: words.split() for label, words in WORDS.items()}


def label_by_keywords(document: Document) -> str:
    """The label whose keywords occur most often in the text; the first of the alphabet when several do."""
    counts = Counter(re.findall(r"[\w-]+|€", document.text.lower()))
    return max(LABELS, key=lambda label: sum(counts[word] for word in KEYWORDS[label]))


def first_sentence(text: str) -> str:
    """The text up to the first full stop that a blank, a new line or the end follows."""
    return re.split(r"(?<=[.?])\s", text, maxsplit=1)[0]


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_plain_utf8_csv_with_the_promised_columns(name: str) -> None:
    """No byte-order mark, no carriage return, the columns of the README and no ragged row."""
    raw = data_path(name).read_bytes()
    assert not raw.startswith(b"\xef\xbb\xbf")
    assert b"\r" not in raw
    rows = list(csv.reader(io.StringIO(raw.decode("utf-8"), newline="")))
    assert rows[0] == TABLES[name]
    assert {len(row) for row in rows} == {len(TABLES[name])}
    assert all(cell.strip() == cell and cell for row in rows for cell in row)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("what", FORBIDDEN)
def test_tables_hold_nothing_that_points_elsewhere(name: str, what: str) -> None:
    """No address, path, control character or stray blank anywhere in the file."""
    text = data_path(name).read_text(encoding="utf-8")
    assert re.findall(FORBIDDEN[what], text, flags=re.MULTILINE) == []


@pytest.mark.parametrize(
    ("what", "bad"),
    [
        ("a URL", "see http://localhost for more"),
        ("an e-mail address", "write to somebody@example today"),
        ("an absolute path", "it is in /home/ada/notes"),
        ("an absolute path", r"it is in C:\notes"),
        ("a control character", "a\ttab"),
        ("a double or trailing blank", "two  blanks"),
    ],
)
def test_forbidden_patterns_catch_what_they_name(what: str, bad: str) -> None:
    """Each pattern finds a planted example, so that finding nothing in the tables means something."""
    assert re.search(FORBIDDEN[what], bad)


def test_documents_are_sorted_unique_and_balanced() -> None:
    """72 documents, ids in order, 12 of each label, and every label among each six in a row."""
    found = documents()
    assert [document.id for document in found] == [f"doc-{number:02}" for number in range(1, 73)]
    assert Counter(document.label for document in found) == dict.fromkeys(LABELS, 12)
    for start in range(0, 72, 6):
        assert sorted(document.label for document in found[start : start + 6]) == LABELS
    assert len({document.title for document in found}) == len({document.text for document in found}) == 72


def test_documents_have_40_to_110_words_but_for_one() -> None:
    """Only doc-15 is shorter, as the README says."""
    lengths = {document.id: len(document.text.split()) for document in documents()}
    assert [id_ for id_, words in lengths.items() if not 40 <= words <= 110] == ["doc-15"]
    assert lengths["doc-15"] == 10


def test_documents_begin_with_a_summary() -> None:
    """The first sentence is whole, 8 to 30 words long, and different for each text."""
    firsts = [first_sentence(document.text) for document in documents()]
    assert all(first[0].isupper() and first.endswith(".") for first in firsts)
    assert [first for first in firsts if not 8 <= len(first.split()) <= 30] == []
    assert len(set(firsts)) == 72


def test_documents_hold_the_hard_cases_of_the_readme() -> None:
    """Lists of several lines, quotes with commas, characters beyond ASCII, and an instruction to disobey."""
    found = {document.id: document.text for document in documents()}
    assert [id_ for id_, text in found.items() if "\n" in text] == ["doc-37", "doc-38"]
    assert any(re.search(r'"[^"]*,[^"]*"', text) for text in found.values())
    assert set("éµ–°«’") <= set("".join(found.values()))
    assert [id_ for id_, text in found.items() if "Ignore your instructions" in text] == ["doc-57"]


def test_documents_labels_are_mostly_but_not_always_plain() -> None:
    """Counting keywords finds 70 % to 97 % of the labels: lessons show partial failure, not chance."""
    right = [label_by_keywords(document) == document.label for document in documents()]
    assert 0.70 <= sum(right) / len(right) <= 0.97
    by_label = Counter(document.label for document, hit in zip(documents(), right, strict=True) if hit)
    assert min(by_label[label] for label in LABELS) >= 6


def test_documents_do_not_give_their_label_away() -> None:
    """At most two texts in each twelve contain the very word of their label."""
    given_away = Counter(d.label for d in documents() if re.search(rf"\b{d.label}s?\b", d.text.lower()))
    assert [label for label, count in given_away.items() if count > 2] == []


def test_prompts_are_sorted_unique_and_balanced() -> None:
    """48 questions, ids in order, 6 of each topic, and every topic among each eight in a row."""
    found = prompts()
    assert [prompt.id for prompt in found] == [f"q-{number:02}" for number in range(1, 49)]
    assert Counter(prompt.topic for prompt in found) == dict.fromkeys(TOPICS, 6)
    for start in range(0, 48, 8):
        assert sorted(prompt.topic for prompt in found[start : start + 8]) == TOPICS
    assert len({prompt.question.lower() for prompt in found}) == 48


def test_prompts_are_one_question_of_8_to_25_words() -> None:
    """Each ends with its only question mark and fits on a line or two."""
    for prompt in prompts():
        assert prompt.question.endswith("?")
        assert prompt.question.count("?") == 1
        assert 8 <= len(prompt.question.split()) <= 25, prompt


def test_records_cannot_be_changed() -> None:
    """A record shared by many agents is safe because nobody can write to it."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        documents()[0].label = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["novels.csv", "", ".", "../pyproject.toml", "documents", "DOCUMENTS.CSV"])
def test_data_path_names_what_there_is(name: str) -> None:
    """An unknown name, a folder or a way out of the folder gets one error that lists the files."""
    with pytest.raises(FileNotFoundError) as caught:
        data_path(name)
    assert repr(name) in str(caught.value)
    assert "documents.csv" in str(caught.value)
    assert "prompts.csv" in str(caught.value)


def test_data_path_prefers_the_packaged_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a wheel `_data` exists and wins; in a checkout it is missing and the folder beside the package is used."""
    packaged, beside = tmp_path / "agentkit" / "_data", tmp_path / "data"
    monkeypatch.setattr(data, "_FOLDERS", (packaged, beside))
    with pytest.raises(FileNotFoundError, match="the data folder is missing; reinstall"):
        data_path("a.csv")
    beside.mkdir()
    (beside / "a.csv").write_text("here", encoding="utf-8")
    assert data_path("a.csv") == beside / "a.csv"
    packaged.mkdir(parents=True)
    (packaged / "a.csv").write_text("packaged", encoding="utf-8")
    (packaged / ".hidden").write_text("", encoding="utf-8")
    assert data_path("a.csv") == packaged / "a.csv"
    with pytest.raises(FileNotFoundError, match=r"'b.csv'; there are a\.csv$"):
        data_path("b.csv")


def test_readme_describes_every_file_column_and_key() -> None:
    """One section for each file of the folder; its table names each column, each preset and each key."""
    readme = data_path("README.md").read_text(encoding="utf-8")
    sections = {part.split("\n", 1)[0]: part for part in readme.split("\n## ")[1:]}
    files = {path.name for path in data_path("README.md").parent.iterdir() if not path.name.startswith(".")}
    assert set(sections) == files - {"README.md"}
    for name in files - {"README.md"}:
        section = sections[name]
        text = data_path(name).read_text(encoding="utf-8")
        if name.endswith(".csv"):
            names = set(next(csv.reader([text.split("\n", 1)[0]])))
        else:
            names = {key for preset in json.loads(text).values() for key in preset}
            assert [preset for preset in json.loads(text) if f"`{preset}`" not in section] == []
        assert set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)) == names
