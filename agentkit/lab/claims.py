"""The claims ledger: what is said about concurrency in Python, and what is true.

What it holds: `ledger()`, every claim of `data/claims.csv`; `claim(id)`, one of them with the experiment
that decides it; `surprising()`, the ten that most readers get wrong.
Guarantee: each row has exactly one experiment in `tests/claims`, which asserts its verdict on the running Python;
the column `versions` lists the Python versions on which it has passed.
Strategy: a row is a frozen record. Used as a decorator, it marks the test that decides it; its `experiment` property
loads that test from the checkout.
Opened by notebook 00; cited by claim id in all the others.
"""

from __future__ import annotations

import csv
import difflib
import functools
import importlib.util
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agentkit.base.arguments import shown, text
from agentkit.lab.data import data_path

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ClaimLedger", "ClaimRecord", "claim", "ledger", "surprising"]

Test = TypeVar("Test", bound=Callable[..., Any])

VERDICTS = ("false", "caveat", "holds")
KINDS = ("exact", "version", "ratio", "chance")
_SAYS = {"false": "is false", "caveat": "holds with a caveat", "holds": "holds"}


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """One row of the ledger: a common statement, and what an experiment shows.

    >>> claim("sem-rpm")
    <sem-rpm is false: A semaphore keeps you within a requests-per-minute limit.>
    >>> claim("sem-rpm").evidence
    'Semaphore(5) starts 600, 150 or 30 requests in the first minute at 0.5, 2 or 10 s per call'
    """

    id: str
    """Its short name, cited in the lessons."""
    claim: str
    """The sentence, as it is commonly said."""
    commonly_said: str
    """Where you meet it, in general terms."""
    verdict: str
    """`false`, `caveat` (true, but not as meant) or `holds`."""
    evidence: str
    """What the experiment showed: one line, with the number."""
    kind: str
    """`exact`: the same figure always; `version`: the same on one Python version; `ratio`, `chance`: never compare."""
    source: str
    """The documentation page or the module that confirms it."""
    versions: str
    """The Python versions on which the experiment has passed."""
    theme: str
    """gather, locks, timeouts, threads, limits, state, retries or notebook."""
    surprising: str
    """Rank among the ten most surprising, 1 first; empty for the rest."""

    def __call__(self, test: Test) -> Test:
        """Mark a test as the experiment that decides this claim."""
        test.claim = self  # type: ignore[attr-defined]
        return test

    @property
    def experiment(self) -> Callable[[], None]:
        """The test that decides the claim; raises FileNotFoundError if the tests are not installed."""
        return _experiments(self.theme)[self.id]

    @property
    def code(self) -> str:
        """The source code of the experiment."""
        return inspect.getsource(self.experiment)

    def check(self) -> str:
        """Run the experiment on this Python and return the finding; uses a thread, so that it works in a notebook cell.

        >>> claim("gather-order").check()
        'gather-order is false: seen again'

        Raises AssertionError if the verdict does not hold on this Python.
        """
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self.experiment).result()
        return f"{self.id} {_SAYS[self.verdict]}: seen again"

    def __repr__(self) -> str:
        return f"<{self.id} {_SAYS[self.verdict]}: {self.claim}>"

    def _repr_html_(self) -> str:
        """The row as a small table, with its experiment below if the tests are installed."""
        rows = zip(_COLUMNS, astuple(self), strict=True)
        cells = "".join(f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in rows if value)
        try:
            code = f"<pre>{escape(self.code)}</pre>"
        except FileNotFoundError as error:
            code = f"<p>{escape(str(error))}</p>"
        return f"<table>{cells}</table>{code}"


_COLUMNS = tuple(f.name for f in fields(ClaimRecord))


class ClaimLedger(tuple[ClaimRecord, ...]):
    """A tuple of claims that you can filter, and that a notebook shows as a table.

    >>> ledger().where(theme="locks", verdict="caveat")
    <ClaimLedger: 7 claims, 0 false, 7 with a caveat, 0 hold>
    >>> ledger().where(theme="locks")[0].id
    'async-counter'
    """

    __slots__ = ()

    def where(self, **columns: str) -> ClaimLedger:
        """The claims whose columns have these values, for example `where(theme="locks", verdict="false")`."""
        unknown = sorted(columns.keys() - set(_COLUMNS))
        if unknown:
            raise ValueError(f"where takes names of columns, got {unknown[0]!r}; use one of {', '.join(_COLUMNS)}")
        return ClaimLedger(row for row in self if all(getattr(row, name) == value for name, value in columns.items()))

    def frame(self) -> pd.DataFrame:
        """The claims as a pandas frame, one row each, indexed by id."""
        import pandas as pd

        return pd.DataFrame([astuple(row) for row in self], columns=_COLUMNS).set_index("id")

    def __repr__(self) -> str:
        false, caveat, holds = (sum(row.verdict == verdict for row in self) for verdict in VERDICTS)
        return f"<ClaimLedger: {len(self)} claims, {false} false, {caveat} with a caveat, {holds} hold>"

    def _repr_html_(self) -> str:
        """One line per claim: the statement, the verdict, the evidence."""
        shown = ("claim", "verdict", "evidence", "id")
        head = "".join(f"<th>{name}</th>" for name in shown)
        lines = "".join(
            "<tr>" + "".join(f"<td>{escape(getattr(row, name))}</td>" for name in shown) + "</tr>" for row in self
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


@functools.cache
def ledger() -> ClaimLedger:
    """Every claim, in the order of the file: by theme, then in the order of the course.

    >>> len(ledger()) > 100
    True
    """
    with data_path("claims.csv").open(encoding="utf-8", newline="") as file:
        return ClaimLedger(ClaimRecord(**row) for row in csv.DictReader(file))


def claim(id: str) -> ClaimRecord:
    """The claim with this id.

    >>> claim("self-wait").verdict
    'holds'
    >>> claim("self-weight")
    Traceback (most recent call last):
    KeyError: "no claim 'self-weight' in the ledger; did you mean 'self-wait'?"

    Written above a test, `@claim("self-wait")` marks it as the experiment that decides the claim.
    """
    text("id", id)
    for row in ledger():
        if row.id == id:
            return row
    near = difflib.get_close_matches(id, [row.id for row in ledger()], 1)
    raise KeyError(f"no claim {shown(id)} in the ledger; " + (f"did you mean {near[0]!r}?" if near else "see ledger()"))


def surprising() -> ClaimLedger:
    """The ten claims that most readers get wrong, the most surprising first.

    >>> [row.surprising for row in surprising()]
    ['1', '2', '3', '4', '5', '6', '7', '8', '9', '10']
    """
    return ClaimLedger(sorted((row for row in ledger() if row.surprising), key=lambda row: int(row.surprising)))


@functools.cache
def _experiments(theme: str) -> dict[str, Callable[[], None]]:
    """Load the test module of a theme and list its experiments by claim id."""
    path = Path(__file__).parents[2] / "tests" / "claims" / f"test_claims_{theme}.py"
    if not path.is_file():
        raise FileNotFoundError(
            f"the experiments are in a checkout of agentkit-lab, under tests/claims: no {path.name}"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {
        test.claim.id: test for test in vars(module).values() if isinstance(getattr(test, "claim", None), ClaimRecord)
    }
