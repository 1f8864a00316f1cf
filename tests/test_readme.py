"""The README keeps its word: its examples run, its links lead somewhere, its picture is what it says."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_readme_example_runs(number, tmp_path, monkeypatch):
    """Each Python block runs by itself, from top to bottom."""
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[number], f"README example {number}", "exec"), {"__name__": "readme"})


def test_readme_has_an_example_for_each_way():
    """There are three ways to use the kit and an example for each; experiments have a second one."""
    assert len(EXAMPLES) == 4


def test_readme_links_lead_somewhere():
    """Every relative link names a file that exists."""
    links = [link for link in re.findall(r"\]\(([^)#]+)", TEXT) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert len(links) > 3


def test_readme_picture_states_its_facts():
    """The picture's alt text is the `repr` of the chart that the first example draws today."""
    space = {"__name__": "readme"}
    code, _, last = EXAMPLES[0].rpartition("report.plot")
    exec(code, space)
    alt = re.search(r"!\[([^\]]*)\]", TEXT).group(1)
    assert repr(space["report"].plot("timeline")) == f"<{alt}>", last


def test_readme_table_of_claims_is_the_ledgers():
    """The ten surprising rows stand in the README as the ledger has them, and so does the number of claims."""
    from agentkit.lab import ledger, surprising

    for row in surprising():
        assert row.claim in TEXT, row.id
        assert row.evidence in TEXT, row.id
    assert f"{len(ledger())} common sentences" in TEXT
