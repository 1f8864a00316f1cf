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


@pytest.mark.parametrize(
    ("number", "picture", "chart"), [(0, "timeline", "report.plot('timeline')"), (2, "orchestration", "chart")]
)
def test_readme_picture_states_its_facts(number, picture, chart, tmp_path, monkeypatch):
    """A picture's alt text is the `repr` of the chart that its example draws today."""
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "readme"}
    exec(EXAMPLES[number], space)
    alt = re.search(rf"!\[([^\]]*)\]\(notebooks/images/{picture}.png\)", TEXT).group(1)
    assert repr(eval(chart, space)) == f"<{alt}>"


def test_readme_lead_makes_more_calls_and_is_sooner(tmp_path, monkeypatch):
    """What the README says of the three patterns is what its example finds."""
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "readme"}
    exec(EXAMPLES[2], space)
    frame = space["chart"].to_frame()
    assert frame.loc["coordinated", "calls"] * 3 == frame.loc["parallel", "calls"] * 4
    assert frame.loc["coordinated", "makespan"] < frame.loc["parallel", "makespan"]


def test_readme_table_of_claims_is_the_ledgers():
    """The ten surprising rows stand in the README as the ledger has them, and so does the number of claims."""
    from agentkit.lab import ledger, surprising

    for row in surprising():
        assert row.claim in TEXT, row.id
        assert row.evidence in TEXT, row.id
    assert f"{len(ledger())} common sentences" in TEXT
