"""Notebooks as data: files, cells, the learner's version of a solution, the normal form, and cells as syntax trees.

What it holds: `read` and `write`; `solutions`, `guides` and other lists of files; `tags`, `exercise_name` and `where`
for one cell; `student_version` and `normalise`; `parsed`, `definitions` and `asked_for`, which read a cell as code.
Guarantee: nothing is executed; the same solution always gives the same learner's notebook, byte for byte.
Strategy: cells are identified by tag, not by id, since tools renumber ids and keep tags. Outputs are stored, because
nbval compares nothing in a cell that never ran; whatever differs between runs is removed. The name of a lesson starts
with its number. A notebook without a number is a guide: a reference page without exercises, its own source.
Used by all commands.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "ABSOLUTE",
    "CellError",
    "asked_for",
    "definitions",
    "exercise_name",
    "guides",
    "is_lesson",
    "named_cells",
    "normalise",
    "parsed",
    "read",
    "solutions",
    "sources",
    "stub",
    "student_path",
    "student_version",
    "tags",
    "texts",
    "where",
    "write",
]

ABSOLUTE = re.compile(
    r"(?<![\w:./~<-])/(?:home|tmp|Users|root|work|workspace|var|usr|opt|mnt|private|srv)/[\w.+-]+[^\s'\"`):,]*"
    r"|(?<![\w])[A-Za-z]:\\{1,2}[\w.+-]+\\[^\s'\"`]*"
)
"""An absolute path, which must not appear in a notebook."""

_ANSWER = re.compile(r"^([ \t]*)### BEGIN SOLUTION[^\n]*\n(.*?)^[ \t]*### END SOLUTION[^\n]*$", re.M | re.S)
_LINK = re.compile(r"(\]\()([^)\s]+)")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_KEPT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_RANDOM_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f-]+)?")
_VIEW = "application/vnd.jupyter.widget-view+json"


class CellError(Exception):
    """A problem with a notebook; the message names file, cell, problem and remedy."""


def read(path: Path) -> Any:
    """Return a notebook in format 4; raise CellError if the file is not a notebook."""
    import nbformat

    try:
        return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        raise CellError(f"{path.name}: there is no such file") from None
    except Exception as error:  # not JSON, no cells, unknown format: nbformat has no common base class for these
        raise CellError(
            f"{path.name}: not a notebook ({type(error).__name__}); save it again from JupyterLab"
        ) from None


def write(notebook: Any, path: Path) -> bool:
    """Write a notebook; return False, without writing, if the file already has the same content."""
    import nbformat

    text = nbformat.writes(notebook) + "\n"  # type: ignore[no-untyped-call]
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.write_text(text, encoding="utf-8")
    return True


def is_lesson(path: Path) -> bool:
    """Return whether a notebook is a lesson: its name starts with a number. All others are guides."""
    return re.match(r"\d\d_", path.name) is not None


def guides(folder: Path) -> list[Path]:
    """Return the guides: the notebooks whose names have no number."""
    return [path for path in sorted(folder.glob("*.ipynb")) if not is_lesson(path)]


def solutions(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Return the solution notebooks whose names start with one of `names`, or all if `names` is empty."""
    return _matching(names, sorted((folder / "solutions").glob("[0-9][0-9]_*.ipynb")))


def sources(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Return the notebooks that authors edit, solutions and guides, selected in the same way."""
    return _matching(names, [*solutions(folder), *guides(folder)])


def _matching(names: Sequence[str], paths: list[Path]) -> list[Path]:
    """Return the paths whose names start with one of `names`; raise CellError for a name without a match."""
    unknown = [name for name in names if not any(path.stem.startswith(_stem(name)) for path in paths)]
    if unknown:
        known = ", ".join(path.stem for path in paths) or "none"
        raise CellError(f"no solution notebook is called {', '.join(unknown)}; there are: {known}")
    return [path for path in paths if not names or any(path.stem.startswith(_stem(name)) for name in names)]


def _stem(name: str) -> str:
    return Path(name).name.removesuffix(".ipynb")


def student_path(solution: Path) -> Path:
    """Return the path of the learner's notebook for a solution."""
    return solution.parent.parent / solution.name


def tags(cell: Any) -> list[str]:
    """Return the tags of a cell."""
    return [tag for tag in cell.metadata.get("tags", []) if isinstance(tag, str)]


def exercise_name(cell: Any) -> str | None:
    """Return the `ex-…` tag of an exercise cell, or None for any other cell."""
    if cell.cell_type != "code":
        return None
    return next((tag for tag in tags(cell) if tag.startswith("ex-")), None)


def where(cell: Any, index: int) -> str:
    """Return a cell's number (from 1, counting all cells) and its id, for messages."""
    return f"cell {index + 1} ({cell.get('id', 'no id')})"


def stub(source: str) -> str:
    r"""Return a cell with its answer replaced by the `# stub:` lines after BEGIN SOLUTION, or by `...`.

    >>> print(stub("k = 1\n### BEGIN SOLUTION\n# stub: k = ...\nk = 4\n### END SOLUTION"))
    k = 1
    # your answer here
    k = ...
    """

    def blank(match: re.Match[str]) -> str:
        indent, body = match[1], match[2]
        given = []
        for line in body.splitlines():
            if not line.strip().startswith("# stub:"):
                break
            given.append(line.strip().removeprefix("# stub:").removeprefix(" "))
        return "\n".join(indent + line for line in ["# your answer here", *(given or ["..."])])

    return _ANSWER.sub(blank, source)


def student_version(solution: Any) -> Any:
    """Return the learner's notebook, not yet run: answers and hidden cells removed, links adjusted to its folder."""
    from copy import deepcopy

    notebook = deepcopy(solution)
    notebook.cells = [cell for cell in notebook.cells if "hidden" not in tags(cell)]
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            cell.source = _LINK.sub(lambda match: match[1] + _one_up(match[2]), cell.source)
        if cell.cell_type != "code":
            continue
        if "exercise" in tags(cell):
            if not _ANSWER.search(cell.source) or exercise_name(cell) is None:
                raise CellError(
                    f"{where(cell, index)}: an exercise needs a tag ex-… and an answer between "
                    "### BEGIN SOLUTION and ### END SOLUTION"
                )
            cell.source = stub(cell.source)
        elif "### BEGIN SOLUTION" in cell.source:
            raise CellError(
                f"{where(cell, index)}: holds an answer but not the tag exercise; add it, or the answer leaks"
            )
        cell.outputs, cell.execution_count = [], None
    return notebook


def _one_up(target: str) -> str:
    """Return a relative link of a notebook in `solutions/`, rewritten for the parent folder."""
    if re.match(r"[a-z]+:|#|/", target) or not target.startswith("../"):
        return target
    return posixpath.relpath(posixpath.join("solutions", target))


def normalise(notebook: Any) -> Any:
    """Put an executed notebook into the form that is stored; raise CellError if an output has an absolute path."""
    notebook.metadata = type(notebook.metadata)(
        kernelspec={"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    named_cells(notebook)
    for index, cell in enumerate(notebook.cells):
        kept = tags(cell)
        cell.metadata = type(cell.metadata)({"tags": kept} if kept else {})
        for output in cell.get("outputs", []):
            _plain(output)
            if found := ABSOLUTE.search("\n".join(texts(output))):
                place = where(cell, index)
                raise CellError(f"{place}: its output holds the path {found[0]}; print a name instead: path.name")
    return notebook


def texts(output: Any) -> list[str]:
    """Return the strings of an output: printed, displayed or raised, without pictures."""
    shown = [str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/")]
    return [*shown, str(output.get("text", "")), str(output.get("evalue", "")), *output.get("traceback", [])]


def _plain(output: Any) -> None:
    """Remove from an output what changes between runs: widget ids, and traceback frames outside the cell."""
    if "metadata" in output:
        output.metadata = type(output.metadata)()
    if "data" in output:
        output.data.pop(_VIEW, None)
    if output.output_type == "error":
        frames = [frame for frame in output.traceback if not _ANSI.sub("", frame).startswith("File ")]
        output.traceback = [ABSOLUTE.sub(lambda match: "…/" + match[0].rsplit("/", 1)[-1], frame) for frame in frames]


def named_cells(notebook: Any) -> None:
    """Replace random cell ids by names made from the source, so that diffs between runs stay small."""
    used: set[str] = set()
    for cell in notebook.cells:
        name = str(cell.get("id", ""))
        if not name or _RANDOM_ID.fullmatch(name):
            text = exercise_name(cell) or cell.source.replace("'", "").replace("’", "")
            name = "-".join(re.findall(r"[a-z0-9]+", text.lower())[:5])[:40].strip("-") or cell.cell_type
        base, number = name, 1
        while name in used:
            number += 1
            name = f"{base}-{number}"
        used.add(name)
        cell["id"] = name


# -- cells as code ----------------------------------------------------------------------------------------------------


def parsed(source: str) -> ast.Module:
    """Return a cell's syntax tree; top-level await is allowed, lines with magics are skipped."""
    text = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())
    tree = compile(text, "cell", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert isinstance(tree, ast.Module)
    return tree


def _lenient(source: str) -> ast.Module:
    """Return a cell's syntax tree, or an empty one after a SyntaxError: some lessons show one on purpose."""
    try:
        return parsed(source)
    except SyntaxError:
        return ast.Module([], [])


def definitions(source: str) -> ast.Module:
    """Return the syntax tree of a cell's definitions only: imports, functions, classes, constants."""

    def constant(node: ast.stmt) -> bool:
        if not isinstance(node, ast.Assign):
            return False
        parts = [part for target in node.targets for part in getattr(target, "elts", [target])]
        if not all(isinstance(part, ast.Name) for part in parts):
            return False  # `box.size = 4` changes an object that may not exist
        try:
            return ast.literal_eval(node.value) is not ...
        except ValueError:
            return False

    tree = _lenient(source)
    tree.body = [node for node in tree.body if isinstance(node, _KEPT) or constant(node)]
    return tree


def asked_for(cells: Sequence[Any], name: str) -> ast.expr | None:
    """Return the expression that the notebook passes to `check` as the answer of an exercise, or None."""
    for cell in cells:
        for node in ast.walk(_lenient(cell.source)) if cell.cell_type == "code" else ():
            match node:
                case ast.Call(func=ast.Name(id="check"), args=[ast.Constant(value=value), answer]) if value == name:
                    return answer
    return None
