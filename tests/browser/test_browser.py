"""JupyterLab in a real Chromium: every lesson runs through, its widgets act, Stop ends a waiting cell.

Run by `make test-browser`; each test leaves a screenshot in a folder whose name is printed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import errors

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

LESSONS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))

READY = "from agentkit.lab.host.notebook import setup\nsetup()"
WAITING = """\
import asyncio
async def agent():
    try:
        await asyncio.sleep(300)
    finally:
        print("cleaned up")
print("three agents began")
await asyncio.gather(*(agent() for _ in range(3)))
"""
SLIDER = """\
import ipywidgets as widgets
slider = widgets.IntSlider(value=4, min=1, max=10, description="limit")
label = widgets.HTML("limit is 4")
slider.observe(lambda change: setattr(label, "value", f"limit is {change.new}"), "value")
widgets.VBox([slider, label])
"""


def _tune(lab: Lab) -> None:
    """Dragged, the slider of 00 shows another picture."""
    picture = lab.around("max_concurrency").locator("img")
    before = picture.get_attribute("src")
    lab.drag("max_concurrency", 1)
    lab.html("<Timeline: 6 agents, at most 6 in flight")
    assert picture.get_attribute("src") != before
    assert picture.evaluate("image => image.width") == 700


def _walk(lab: Lab) -> None:
    """Dragged, the stepper of 02 shows its last step; `back` shows the one before, `next` the last again."""
    from playwright.sync_api import expect

    panel = lab.around("step")
    heading = panel.locator(".widget-html b").first
    expect(heading).to_contain_text("At 0 s")
    lab.drag("step", 1)
    expect(heading).not_to_contain_text("At 0 s")
    expect(lab.button("next")).to_be_disabled()
    last = heading.inner_text()
    lab.press("back")
    expect(heading).not_to_have_text(last)
    lab.press("next")
    expect(heading).to_have_text(last)
    assert "team returned" in last


def _schedule(lab: Lab) -> None:
    """The buttons of 04 lead to a lost update, and the panel says who lost it and why; undo takes a step back."""
    from playwright.sync_api import expect

    panel = lab.around("step A")
    expect(panel).to_contain_text("0 steps")
    lab.press("step A")
    expect(panel).to_contain_text("1 step;")
    lab.press("step B")
    lab.press("undo")
    expect(panel).to_contain_text("1 step;")
    for agent in "BBA":
        lab.press(f"step {agent}")
    expect(panel).to_contain_text("✓ reached")
    expect(panel).to_contain_text("so what B wrote in step 3 is lost")
    expect(lab.button("step A")).to_be_disabled()


ACTS: dict[str, Callable[[Lab], None]] = {
    "00_start_here": _tune,
    "02_inside_the_event_loop": _walk,
    "04_race_conditions": _schedule,
}


def test_each_act_has_its_lesson() -> None:
    """A lesson that was renamed would leave its widget without a test."""
    assert {*ACTS} <= {lesson.stem for lesson in LESSONS}


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_lesson_runs_through(lab: Lab, pictures: Path, lesson: Path) -> None:
    """Run All reaches the end: every code cell has its number, none has an error it is not meant to have.

    No toast covers the lesson, the file browser shows the course, and the lesson's widget does what it is for.
    """
    lab.open(lesson.name)
    lab.run_all()
    lab.ended()
    lab.page.screenshot(path=pictures / f"{lesson.stem}.png")
    cells = lab.saved()
    assert errors(cells) == []
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    if lesson.stem in ACTS:
        ACTS[lesson.stem](lab)
        lab.page.screenshot(path=pictures / f"{lesson.stem}_{ACTS[lesson.stem].__name__.strip('_')}.png")
    assert lab.page.locator(".Toastify__toast").count() == 0
    assert lab.page.locator(".jp-DirListing").first.is_visible()


def test_stop_button_ends_a_waiting_cell(lab: Lab, pictures: Path) -> None:
    """The cell ends with CancelledError, the agents clean up, and the cells after it do not run."""
    lab.write("stop.ipynb", READY, WAITING, "print('next')")
    lab.run_all()
    lab.output("three agents began")
    lab.page.click('.jp-NotebookPanel [title^="Interrupt the kernel"]')
    lab.output("CancelledError")
    lab.idle()
    lab.page.screenshot(path=pictures / "stop.png")
    cells = lab.saved()
    waiting, after = cells[-2:]
    assert [error.partition(":")[0] for error in errors(cells)] == ["CancelledError"]
    assert "".join(o.text for o in waiting.outputs if o.output_type == "stream").count("cleaned up") == 3
    assert after.execution_count is None


def test_slider_moves_while_a_cell_waits(lab: Lab, pictures: Path) -> None:
    """Each drag on a slider reaches the kernel, and what it changed comes back, though a cell is still waiting."""
    lab.write("slider.ipynb", READY, SLIDER, WAITING)
    lab.run_all()
    lab.output("three agents began")
    for share, limit in ((1, 10), (0, 1)):  # the second is not sent before the kernel is done with the first
        lab.drag("limit", share)
        lab.html(f"limit is {limit}")
    lab.page.screenshot(path=pictures / "slider.png")
    assert lab.running() == 1
