"""The claims ledger and its experiments agree: same ids, both ways, and every row is complete."""

from __future__ import annotations

import ast
import asyncio
import csv
import functools
import re
from collections import Counter
from pathlib import Path

import pytest

from agentkit.lab.claims import KINDS, VERDICTS, ClaimRecord, claim, ledger, surprising
from agentkit.lab.data import data_path

FOLDER = Path(__file__).parent / "claims"
THEMES = ("gather", "locks", "timeouts", "threads", "limits", "state", "retries", "notebook")
COLUMNS = ["id", "claim", "commonly_said", "verdict", "evidence", "kind", "source", "versions", "theme", "surprising"]


@functools.cache
def experiments() -> list[tuple[str, str, ast.FunctionDef]]:
    """(theme, claim id, function) of every function in tests/claims that names a claim, read without running it."""
    found = []
    for path in sorted(FOLDER.glob("test_claims_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                (mark,) = node.decorator_list
                assert isinstance(mark, ast.Call)
                found.append((path.stem.removeprefix("test_claims_"), ast.literal_eval(mark.args[0]), node))
    return found


def code_lines(node: ast.FunctionDef) -> int:
    """Lines of an experiment that hold code: without its docstring and blank lines."""
    source = ast.unparse(node).splitlines()
    return len([line for line in source if line.strip()]) - 2  # nor the decorator


def test_ClaimLedger_file_has_the_columns_in_order():
    """The columns are those a reader of the file is promised."""
    with data_path("claims.csv").open(encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == COLUMNS


def test_ClaimLedger_has_an_experiment_for_every_row_and_a_row_for_every_experiment():
    """Ids and themes match one to one, so nothing is stated untested and nothing is tested unstated."""
    in_tests = Counter((theme, id) for theme, id, _ in experiments())
    in_file = Counter((row.theme, row.id) for row in ledger())
    assert in_tests == in_file
    assert set(in_file.values()) == {1}
    assert len({row.id for row in ledger()}) == len(ledger())


def test_ClaimLedger_rows_are_complete():
    """Only the last column may be empty; verdict, kind and theme come from their lists; ids are short names."""
    for row in ledger():
        assert all(getattr(row, name).strip() for name in COLUMNS[:-1]), row.id
        assert (row.verdict in VERDICTS, row.kind in KINDS, row.theme in THEMES) == (True, True, True), row.id
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row.id), row.id
        assert set(row.versions.split()) <= {"3.11", "3.12", "3.13"}, row.id


def test_ClaimLedger_has_at_least_75_exact_rows_and_every_theme():
    """The size that was promised, and no theme forgotten."""
    assert len(ledger().where(kind="exact")) >= 75
    assert {row.theme for row in ledger()} == set(THEMES)


def test_ClaimLedger_evidence_is_one_line_with_a_figure():
    """An exact row gives a figure to compare; a ratio or a chance is put in words."""
    words = re.compile(r"\d|none|\btwo\b|\bthree\b|aabb|AABB")
    for row in ledger():
        assert "\n" not in row.evidence
        assert len(row.evidence) <= 160, row.id
    assert [row.id for row in ledger().where(kind="exact") if not words.search(row.evidence)] == []


def test_ClaimLedger_surprising_rows_are_ranked_one_to_ten():
    """Ten ranks, each given once, all to rows that are exact on every Python."""
    assert [row.surprising for row in surprising()] == [str(rank) for rank in range(1, 11)]
    assert {row.kind for row in surprising()} == {"exact"}


def test_ClaimLedger_experiments_are_short_documented_and_can_fail():
    """Each has one sentence that says what is seen, an assertion, and few enough lines to be read in a lesson."""
    lengths = []
    for _, id, node in experiments():
        assert ast.get_docstring(node), id
        checks = [n for n in ast.walk(node) if isinstance(n, ast.Assert)]
        raises = [n for n in ast.walk(node) if isinstance(n, ast.Attribute) and n.attr in ("raises", "warns")]
        assert checks or raises, id
        lengths.append((code_lines(node), id))
    assert max(lengths)[0] <= 30, max(lengths)
    assert sorted(lengths)[len(lengths) // 2][0] <= 15


def test_ClaimLedger_experiments_neither_sleep_nor_skip_by_the_clock():
    """No wall-clock sleep but the 10 microseconds in which a busy thread gives way."""
    sleeps = [
        line.strip()
        for path in FOLDER.glob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "time.sleep(" in line
    ]
    assert [line.split("#")[0].strip() for line in sleeps] == ["time.sleep(1e-5)"]


def test_claim_shows_the_row_and_its_experiment():
    """The record prints as a sentence, shows its experiment's source, and escapes what it puts into HTML."""
    row = claim("sem-rpm")
    assert repr(row) == "<sem-rpm is false: A semaphore keeps you within a requests-per-minute limit.>"
    assert row.code.startswith('@claim("sem-rpm")\ndef test_semaphore_is_not_a_rate_limit')
    html = claim("budget-check")._repr_html_()
    assert "<pre>@claim(&quot;budget-check&quot;)" in html
    assert "if spent &lt; 10:" in html


def test_claim_names_the_nearest_id():
    """A mistyped id is answered with the one that was meant; a strange one with where to look."""
    with pytest.raises(KeyError, match="did you mean 'gather-order'"):
        claim("gather-oder")
    with pytest.raises(KeyError, match="see ledger"):
        claim("zzzz")


def test_claim_check_reruns_the_experiment_even_inside_a_running_loop():
    """check() works where a loop is running, as in a notebook cell; both kinds of clock."""

    async def in_a_cell():
        return claim("gather-order").check(), claim("lock-at-import").check()

    assert asyncio.run(in_a_cell())[0] == "gather-order is false: seen again"


def test_claim_check_fails_when_the_verdict_is_wrong():
    """An experiment that no longer shows its verdict raises, it does not report."""
    row = claim("gather-order")

    class Wrong(ClaimRecord):
        __slots__ = ()

        @property
        def experiment(self):
            def failing():
                assert 1 == 2

            return failing

    with pytest.raises(AssertionError):
        Wrong(**{name: getattr(row, name) for name in COLUMNS}).check()


def test_ClaimRecord_experiment_says_where_the_tests_are_when_they_are_missing():
    """An installed wheel has no tests: the error says where they are, and the HTML shows the row without them."""
    row = ClaimRecord(**{name: "nowhere" if name == "theme" else getattr(claim("sem-rpm"), name) for name in COLUMNS})
    with pytest.raises(FileNotFoundError, match="under tests/claims"):
        _ = row.experiment
    assert "under tests/claims" in row._repr_html_()


def test_ClaimLedger_where_refuses_unknown_columns():
    """A mistyped column is an error that lists the columns, not an empty answer."""
    with pytest.raises(ValueError, match="got 'topic'; use one of id, claim"):
        ledger().where(topic="locks")


def test_ClaimLedger_html_is_a_table_of_its_rows():
    """Ten rows, each with the claim, the verdict, the evidence and the id."""
    html = surprising()._repr_html_()
    assert html.count("<tr>") == 11
    assert all(f"<td>{row.id}</td>" in html for row in surprising())


def test_ClaimLedger_frame_has_a_row_per_claim():
    """The frame is indexed by id; without pandas the ledger is still a tuple."""
    pandas = pytest.importorskip("pandas")
    frame = ledger().frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == COLUMNS[1:]
    assert frame.loc["sem-rpm", "verdict"] == "false"
