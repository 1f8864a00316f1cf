"""The style test of notebooks: each rule finds its fault, the course has none."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from agentkit.lab.course.__main__ import main
from agentkit.lab.course.cells import guides, read
from agentkit.lab.course.make import make
from agentkit.lab.course.style import violations

HERE = Path(__file__).parent
BUILD = runpy.run_path(str(HERE / "course_samples" / "build.py"))
COURSE = HERE.parent / "notebooks"
KERNEL = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}}
HOME = "/".join(["", "home", "someone", "x.csv"])


def text(source, **more):
    """A text cell."""
    return new_markdown_cell(source, **more)


def code(source, *tags, **more):
    """A code cell with tags."""
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {}, **more)


def error():
    """The output of a cell that failed."""
    return new_output("error", ename="ValueError", evalue="no", traceback=["ValueError: no"])


def opening(minutes="10"):
    """An opening as it should be."""
    return text(BUILD["OPENING"].replace("10", minutes, 1) if minutes != "10" else BUILD["OPENING"])


def said(tmp_path, *cells, first=None, counts=True, metadata=KERNEL, files=None):
    """The violations found in a course of one notebook with these cells, as text without the notebook's name."""
    folder = tmp_path / "notebooks"
    (folder / "solutions").mkdir(parents=True)
    notebook = new_notebook(cells=[first or opening(), *cells], metadata=metadata)
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.execution_count = number if counts else None
    for number, cell in enumerate(notebook.cells):
        cell.id = f"c{number}"
    for name, content in (files or {}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    for path in (folder / "90_sample.ipynb", folder / "solutions" / "90_sample.ipynb"):
        nbformat.write(notebook, path)
    return [str(found) for found in violations(folder) if found.file in ("90_sample.ipynb", "README.md")]


# the course itself


def test_rules_course_keeps_them():
    """No notebook of the course breaks a rule."""
    assert list(COURSE.glob("[0-9][0-9]_*.ipynb"))
    assert [str(found) for found in violations(COURSE)] == []


def test_rules_sample_keeps_them(tmp_path, monkeypatch, capsys):
    """A notebook made by `make` breaks none, and the command says so with exit code 0."""
    monkeypatch.setenv("AGENTKIT_LESSONS", str(HERE / "course_samples"))
    folder = BUILD["course"](tmp_path)
    make(folder, execute_solutions=True)
    capsys.readouterr()
    assert main(["check", "--notebooks", str(folder)]) == 0
    assert capsys.readouterr().out == "0 violations in 2 notebooks\n"
    student = read(folder / "90_sample.ipynb")
    student.cells[2].source += " More."
    nbformat.write(student, folder / "90_sample.ipynb")
    assert main(["check", "--notebooks", str(folder)]) == 1
    line = capsys.readouterr().out.splitlines()[0]
    assert line == "solutions/90_sample.ipynb: 90_sample.ipynb is missing or not made from it; run make 90"


# rules about cells


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        (code("x = 1\n" * 26), "26 lines, 25 allowed"),
        (code("  \n"), "empty code cell; delete it, or begin it with a comment"),
        (code("1 / 0", outputs=[error()]), "shows ValueError without the tag raises-exception"),
        (code("1 / 1", "raises-exception"), "has the tag raises-exception but shows no error"),
        (code("ax.plot(x);"), "ends with a semicolon; assign the value"),
        (code("ax.plot(x)"), "ends with a bare plot call"),
        (code("fig.axes[0].set_title('x')"), "ends with a bare plot call"),
        (code("name = input('?')"), "calls input(); use a variable to edit"),
        (code("def f(:\n    pass"), "cannot be read: invalid syntax"),
        (code(f"open({HOME!r})"), f"holds the absolute path {HOME}"),
        (text(f"It lies in {HOME}."), f"holds the absolute path {HOME}"),
        (code("x", outputs=[new_output("stream", name="stderr", text=HOME)]), f"holds the absolute path {HOME}"),
        (code("watch()", "nbval-ignore-output"), "its output is not compared, and no cell after it states the result"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_rules_cell(tmp_path, cell, found):
    """The fault is named with file, cell and remedy."""
    lines = [line for line in said(tmp_path, cell) if found in line]
    assert len(lines) == 1
    assert lines[0].startswith("90_sample.ipynb: cell 2 (c1): ")


@pytest.mark.parametrize(
    "cells",
    [
        [code("1 / 0", "raises-exception", outputs=[error()])],
        [code("_ = ax.plot(x)")],
        [code('report.plot("timeline")')],
        [code("await asyncio.sleep(1)")],
        [code("%time x = 1")],
        [code("a"), code("b"), code("# and once more, with a lock\nc")],
        [code("watch()", "nbval-ignore-output"), code("x", outputs=[new_output("stream", name="stdout", text="4\n")])],
        [
            text(
                "The [data](../data/x.csv), the [top](#top), [docs](https://docs.python.org/3/), in flight, `inflight`."
            )
        ],
        [text("A claim *(claim `sem-rpm`)* and two *(claims `sem-rpm`, `gil-io`)*.")],
    ],
    ids=range(9),
)
def test_rules_good_cells_pass(tmp_path, cells):
    """What is allowed is not found."""
    files = {"data/claims.csv": "id,verdict\nsem-rpm,true\ngil-io,true\n", "data/x.csv": "a\n"}
    assert said(tmp_path, *cells, files=files) == []


def test_rules_three_code_cells_in_a_row(tmp_path):
    """The third needs a reason; hidden cells are not seen by the learner and do not count."""
    (line,) = said(tmp_path, code("a"), code("b"), code("c", "hidden"), code("d"))
    assert line.startswith("90_sample.ipynb: cell 5 (c4): the third code cell or more in a row")


def test_rules_cells_never_run(tmp_path):
    """Nothing is compared in a cell that was never run."""
    (line,) = said(tmp_path, code("a"), counts=False)
    assert line == "90_sample.ipynb: cell 2 (c1): execution count None, expected 1; run make"


def test_rules_sizes(tmp_path):
    """Cells, lines and bytes have bounds."""
    picture = new_output("display_data", data={"image/png": "A" * 400_001, "text/plain": "x"})
    cells = [each for n in range(46) for each in (text("Why?"), code("x = 1\n" * 7))]
    cells[1].outputs = [picture]
    lines = said(tmp_path, *cells)
    assert [line.split(": ")[1].split(",")[0] for line in lines[:3]] == [
        "46 code cells",
        "the median code cell has 7 lines",
        lines[2].split(": ")[1].split(",")[0],
    ]
    assert "bytes, 400,000 allowed" in lines[2]


def test_rules_metadata(tmp_path):
    """The kernel is python3, and nothing of one machine or one run is stored."""
    metadata = {"kernelspec": {"name": "venv", "display_name": "V"}, "language_info": {"name": "python"}, "widgets": {}}
    lines = said(tmp_path, metadata=metadata)
    assert [line.split(": ")[1].split(";")[0] for line in lines] == [
        "asks for the kernel 'venv'",
        "stores language_info",
        "stores widgets",
    ]


# rules about words


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("See [it](nowhere.md#top).", "the link nowhere.md#top leads nowhere"),
        ("Open notebooks/99_gone.ipynb.", "notebooks/99_gone.ipynb does not exist"),
        ("Five are inflight.", "writes 'inflight'; the word here is: in flight"),
        ("Mind the back-pressure.", "writes 'back-pressure'; the word here is: backpressure"),
        ("It is so *(claim `no-such`)*.", "the claim 'no-such' is not in data/claims.csv"),
    ],
    ids=["link", "reference", "glossary", "glossary-2", "claim"],
)
def test_rules_words(tmp_path, source, found):
    """The fault is named with file, cell and remedy."""
    (line,) = said(tmp_path, text(source), files={"data/claims.csv": "id\nsem-rpm\n"})
    assert line.startswith(f"90_sample.ipynb: cell 2 (c1): {found}")


@pytest.mark.parametrize(
    ("first", "found"),
    [
        (code("x"), "does not open with a text cell that has a title"),
        (text(BUILD["OPENING"].replace("What you need", "Also")), "the opening lacks: what you need"),
        (text(BUILD["OPENING"].replace("10", "some")), "the opening states no number of minutes"),
        (text(BUILD["OPENING"].replace("10", "60")), "60 minutes, 45 allowed; split the lesson"),
    ],
    ids=["title", "need", "minutes", "long"],
)
def test_rules_opening(tmp_path, first, found):
    """The four parts of the opening, and a lesson of one sitting."""
    assert any(found in line for line in said(tmp_path, first=first))


def test_rules_length(tmp_path):
    """1,800 words, code not counted."""
    assert said(tmp_path, text("word " * 1700 + "`code code`" * 200)) == []
    (tmp_path / "b").mkdir()
    assert "1,829 words, 1,800 allowed" in said(tmp_path / "b", text("word " * 1800))[0]


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ("| [90](notebooks/90_sample.ipynb) 90_sample | about 3 | 10 |\n| **total** | | **10 min** |\n", ""),
        ("| 90_sample | 15 |\n", "the map gives 90_sample 15 minutes, the notebook 10"),
        ("| 91_other | 15 |\n", "the map does not name 90_sample"),
        ("| 90_sample | 10 |\n| Total | 25 |\n", "the total is 25 minutes, the notebooks sum to 10"),
    ],
    ids=["right", "minutes", "missing", "total"],
)
def test_rules_readme(tmp_path, table, found):
    """The README's map and the notebooks agree."""
    lines = said(tmp_path, files={"README.md": f"| notebook | minutes |\n| --- | --- |\n{table}"})
    assert [line.split(": ")[1].split(";")[0] for line in lines] == [found] * bool(found)


def test_rules_unreadable_file_and_lost_solution(tmp_path):
    """A file that is no notebook, and a notebook without its source, are violations, not crashes."""
    folder = tmp_path / "notebooks"
    (folder / "solutions").mkdir(parents=True)
    (folder / "solutions" / "10_bad.ipynb").write_text("{", encoding="utf-8")
    nbformat.write(new_notebook(cells=[opening()], metadata=KERNEL), folder / "11_lost.ipynb")
    lines = [str(found) for found in violations(folder)]
    assert lines[0].startswith("solutions/10_bad.ipynb: 10_bad.ipynb: not a notebook")
    assert "11_lost.ipynb: has no solution notebook; write notebooks/solutions/ and run make" in lines


def test_rules_no_course_here_is_a_wrong_call(tmp_path, capsys):
    """A folder without solutions is named as such; no notebooks would otherwise be no violations."""
    assert main(["check", "--notebooks", str(tmp_path)]) == 2
    assert "holds no folder solutions; name the one that does: --notebooks FOLDER" in capsys.readouterr().err


# guides: notebooks without a number

GUIDE = "# Guide\n\n**What it answers.** Which when.\n\n**What you need.** Nothing."
LINKED = {"README.md": "[all of it](notebooks/guide.ipynb), on one page\n", "data/claims.csv": "id\nsem-rpm\n"}


def said_of_guide(tmp_path, *cells, first=GUIDE, files=LINKED, run=True):
    """The violations found in a course that is one guide with these cells."""
    folder = tmp_path / "notebooks"
    (folder / "solutions").mkdir(parents=True)
    notebook = new_notebook(cells=[text(first), *cells], metadata=KERNEL)
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.execution_count = number if run else None
    for number, cell in enumerate(notebook.cells):
        cell.id = f"c{number}"
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    nbformat.write(notebook, folder / "guide.ipynb")
    return [str(found) for found in violations(folder)]


def test_rules_guide_needs_no_minutes_no_solution_and_no_row_in_the_map(tmp_path):
    """A notebook without a number is whole as it is; the same one with a number is not."""
    assert said_of_guide(tmp_path, text("Why?"), code("1 + 1")) == []
    (tmp_path / "notebooks" / "guide.ipynb").rename(tmp_path / "notebooks" / "90_guide.ipynb")
    lines = [str(found) for found in violations(tmp_path / "notebooks")]
    assert [line.split(";")[0] for line in lines] == [
        "90_guide.ipynb: cell 1 (c0): the opening lacks: what you'll do, what you'll be able to do, minutes",
        "90_guide.ipynb: cell 1 (c0): the opening states no number of minutes",
        "90_guide.ipynb: has no solution notebook",
        "README.md: the map does not name 90_guide",
    ]


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        (text("See [it](nowhere.md)."), "cell 2 (c1): the link nowhere.md leads nowhere"),
        (text("Five are inflight."), "cell 2 (c1): writes 'inflight'; the word here is: in flight"),
        (text("It is so *(claim `no-such`)*."), "cell 2 (c1): the claim 'no-such' is not in data/claims.csv"),
        (text("word " * 1200), "1,211 words, 1,200 allowed"),
        (code("x = 1\n" * 13), "the median code cell has 13 lines, 12 allowed"),
        (code("x = 1", "exercise", "ex-x"), "cell 2 (c1): an exercise in a guide; make it a lesson"),
        (code("x = 1", "hidden"), "cell 2 (c1): an exercise in a guide; make it a lesson"),
        (code("x + 1;"), "cell 2 (c1): ends with a semicolon"),
    ],
    ids=["link", "glossary", "claim", "words", "lines", "exercise", "hidden", "code"],
)
def test_rules_guide_keeps_the_rules(tmp_path, cell, found):
    """What holds for a lesson holds for a guide; its bounds are its own."""
    (line,) = said_of_guide(tmp_path, cell)
    assert line.startswith(f"guide.ipynb: {found}")


def test_rules_guide_twenty_cells_all_of_them_run(tmp_path):
    """A guide has at most 20 code cells, and none that was not run."""
    cells = [each for n in range(21) for each in (text("Why?"), code("x = 1"))]
    assert said_of_guide(tmp_path, *cells[:-2]) == []
    (tmp_path / "b").mkdir()
    lines = said_of_guide(tmp_path / "b", *cells, run=False)
    assert [line.split(";")[0] for line in lines] == [
        "guide.ipynb: 21 code cells, 20 allowed",
        "guide.ipynb: cell 3 (c2): execution count None, expected 1",
    ]


def test_rules_guide_says_what_it_answers(tmp_path):
    """Its opening has two parts; a lesson that lost its number is told so."""
    (line,) = said_of_guide(tmp_path, first=BUILD["OPENING"])
    assert line.startswith("guide.ipynb: cell 1 (c0): the opening lacks: what it answers; a guide says both; a lesson")


def test_rules_guide_is_linked_from_the_readme(tmp_path):
    """Else nobody finds it; a mention is no link."""
    (line,) = said_of_guide(tmp_path, files={"README.md": "There is notebooks/guide.ipynb as well.\n"})
    assert line == "README.md: does not link notebooks/guide.ipynb; add a line below the map, or delete the file"


@pytest.mark.parametrize("path", guides(COURSE), ids=lambda path: path.stem)
def test_rules_guide_quotes_each_claim_it_cites(path):
    """The last cell shows the ledger's row for each claim named on the page, so that nbval sees a row that changes."""
    cells = read(path).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    cited = re.findall(r"\(claims? (`[^)]+)\)", prose)
    ids = {name for group in cited for name in re.findall(r"[\w-]+", group)}
    shown = cells[-1].outputs[0]["data"]["text/plain"]
    assert len(ids) > 10
    assert {name for name in ids if not re.search(rf"^{name} ", shown, re.M)} == set()
