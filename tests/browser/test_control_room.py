"""The control room in a real Chromium: knobs act on a run that is under way, Stop stops it, nothing is in the way.

Run by `make test-browser`. How long a slider takes to show in the figures is printed, and asserted in refreshes of the
panel, of which there are at most ten a second: a busy machine makes each of them late, but not more of them.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CELLS = (
    "from agentkit.lab import setup\nfrom agentkit.lab.control_room.panel import ControlRoom\nsetup()",
    "room = ControlRoom({})\nroom",
    "import asyncio\n"
    "while room.phase in ('ready', 'running', 'paused', 'stopping'):\n"
    "    await asyncio.sleep(0.1)\nprint(repr(room))",
)
ROOMS = {
    "virtual": "2000, speed=1, max_concurrency=100, requests_per_minute=None",
    "real": "2000, clock='real', max_concurrency=100, requests_per_minute=None",
    "http": "40, clock='http', max_concurrency=20, requests_per_minute=None, latency=0.5",
    "finish": "100, speed=20, max_concurrency=20, failure_rate=0.1, timeout=5",
}
REFRESHES = """
() => {
    const room = [...document.querySelectorAll('.jp-NotebookPanel .widget-html')];
    const figures = room.find(panel => panel.textContent.includes('in flight'));
    window.refreshes = 0;
    new MutationObserver(() => { window.refreshes += 1; }).observe(figures, { childList: true, subtree: true });
}
"""


def _open(lab: Lab, name: str) -> None:
    """Open a room, run all cells, and wait until the panel is there and the last cell waits."""
    lab.page.set_viewport_size({"width": 1000, "height": 1150})
    lab.write(f"{name}.ipynb", *(cell.format(ROOMS[name]) for cell in CELLS))
    lab.page.keyboard.press("Control+b")  # the file browser makes room
    lab.run_all()
    lab.button("Start").wait_for()


@pytest.mark.parametrize("name", ["virtual", "real"])
def test_knobs_act_while_a_hundred_agents_run_and_stop_stops(lab: Lab, pictures: Path, name: str) -> None:
    """A slider dragged during the run shows in the figures at once; Stop ends the run with its report."""
    _open(lab, name)
    lab.press("Start")
    lab.html("in flight100of 100waiting")
    lab.page.evaluate(REFRESHES)
    took, refreshes = [], []
    for share, shown in [(0, "of 1"), (1, "of 200")] * 3:
        lab.drag("concurrency", share)
        began, before = time.perf_counter(), lab.page.evaluate("refreshes")
        lab.html(shown + "waiting")
        took.append(1000 * (time.perf_counter() - began))
        refreshes.append(lab.page.evaluate("refreshes") - before)
    lab.page.screenshot(path=pictures / f"room_{name}_running.png")
    print(f"{name}: slider to figures, median {median(took):.0f} ms, {[round(t) for t in took]}, refreshes {refreshes}")
    assert median(refreshes) <= 3
    lab.press("Pause")
    lab.button("Resume").wait_for()
    lab.press("Resume")
    lab.press("Stop")
    lab.html("Try this next")
    lab.output("stopped: <Report")
    lab.page.screenshot(path=pictures / f"room_{name}_stopped.png")
    assert "is-disabled" not in (lab.button("Start").get_attribute("class") or "")


@pytest.mark.parametrize("name", ["finish", "http"])
def test_run_reaches_its_end_with_report_and_advice(lab: Lab, pictures: Path, name: str) -> None:
    """The run ends by itself, the whole of it is shown, with its report and the advice."""
    _open(lab, name)
    lab.press("Start")
    lab.html("Try this next", 60)
    lab.output("finished: <Report")
    lab.page.screenshot(path=pictures / f"room_{name}_end.png")
    shown = lab.page.locator(".jp-NotebookPanel .widget-image").first
    assert shown.evaluate("image => image.naturalWidth") > 500
