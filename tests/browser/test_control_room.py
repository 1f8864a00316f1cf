"""The control room in a real Chromium: knobs act on a run that is under way, Stop stops it, nothing is in the way.

Run by `make test-browser`; screenshots go to the folder named by SCREENSHOTS, or to a temporary one. Playwright's
calls are made in a thread of their own, since one thread can hold one Playwright only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import nbformat
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

SECOND = 1000  # playwright counts in milliseconds
CELLS = (
    "from agentkit.lab import setup\nfrom agentkit.lab.widgets import ControlRoom\nsetup()",
    "room = ControlRoom({agents}, clock={clock!r}, speed={speed}, {knobs})\nroom",
    "import asyncio\n"
    "while room.phase in ('ready', 'running', 'paused', 'stopping'):\n"
    "    await asyncio.sleep(0.1)\nprint(repr(room))",
)
ROOMS = {
    "virtual": {"agents": 400, "clock": "virtual", "speed": 1, "knobs": "max_concurrency=100, rate_limiter=True"},
    "real": {"agents": 1000, "clock": "real", "speed": 1, "knobs": "max_concurrency=100, requests_per_minute=None"},
    "http": {"agents": 60, "clock": "http", "speed": 1, "knobs": "max_concurrency=20, requests_per_minute=None"},
    "finish": {
        "agents": 100,
        "clock": "virtual",
        "speed": 10,
        "knobs": "max_concurrency=20, failure_rate=0.1, timeout=5",
    },
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the screenshots go."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"screenshots: {folder}")
    return folder


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """JupyterLab on a notebook for each room; its address up to the notebook, and the token."""
    folder = tmp_path_factory.mktemp("rooms")
    (folder / "notebooks").mkdir()
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    for name, room in ROOMS.items():
        cells = [nbformat.v4.new_code_cell(cell.format(**room)) for cell in CELLS]
        book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(book, folder / "notebooks" / f"{name}.ipynb")
    shutil.copy(folder / "notebooks" / "virtual.ipynb", folder / "notebooks" / "00_start_here.ipynb")
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")}
    command = [sys.executable, "-m", "agentkit.lab.notebook", "lab"]
    with subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            url = next(line.strip() for line in server.stderr if line.strip().startswith("http://"))
            place, _, query = url.partition("?")
            yield place.rpartition("/")[0], query
        finally:
            server.terminate()
            server.stderr.read()


class Room:
    """One control room on one page."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def open(self, address: tuple[str, str], name: str) -> None:
        """Open the notebook, run all its cells, and wait until the panel is there."""
        place, query = address
        for _ in range(50):  # the server prints its address a moment before it listens
            try:
                self.page.goto(f"{place}/{name}.ipynb?reset&{query}", wait_until="domcontentloaded")
                break
            except Exception as error:
                if "CONNECTION_REFUSED" not in str(error):
                    raise
                self.page.wait_for_timeout(100)
        self.page.wait_for_selector('.jp-StatusBar-TextItem:has-text("| Idle")', timeout=60 * SECOND)
        self.page.keyboard.press("Control+b")  # the file browser makes room
        self.page.click('.lm-MenuBar-itemLabel:text-is("Run")')
        self.page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')
        self.button("Start").wait_for(timeout=60 * SECOND)

    def button(self, name: str) -> Locator:
        """Find a button of the first panel on the page."""
        return self.page.locator(f'.jp-NotebookPanel .jupyter-button:has-text("{name}")').first

    def press(self, name: str) -> None:
        """Press a button."""
        self.button(name).click()

    def drag(self, label: str, share: float) -> None:
        """Move a slider by the mouse to a share of its length."""
        slider = self.page.locator(f'.jp-NotebookPanel .widget-hslider:has(label:text-is("{label}"))').first
        handle, rail = slider.locator(".noUi-handle").bounding_box(), slider.locator(".noUi-target").bounding_box()
        assert handle
        assert rail
        self.page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
        self.page.mouse.down()
        self.page.mouse.move(rail["x"] + share * rail["width"], handle["y"] + handle["height"] / 2, steps=4)
        self.page.mouse.up()

    def until(self, text: str, seconds: float = 30) -> float:
        """Wait until the panel says so; return the seconds it took."""
        began = time.perf_counter()
        self.page.wait_for_function(
            "text => [...document.querySelectorAll('.jp-NotebookPanel .widget-html')]"
            ".some(panel => panel.textContent.includes(text))", arg=text, timeout=seconds * SECOND, polling=10,
        )  # fmt: skip
        return time.perf_counter() - began


def _in_browser(scenario, *args):
    """Run `scenario(room, *args)` with a page of its own, in a thread; what the page itself throws fails it."""

    def work():
        from playwright.sync_api import sync_playwright

        names = ("chromium", "chromium-browser", "google-chrome")
        program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
        assert program, "no Chromium found; install the package chromium, or name the program in CHROMIUM"
        thrown: list[str] = []
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=program)
            page = chromium.new_page(viewport={"width": 1000, "height": 1150})
            page.on("pageerror", lambda error: thrown.append(str(error)))
            try:
                scenario(Room(page), *args)
            finally:
                chromium.close()
        assert not thrown

    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


@pytest.mark.parametrize("name", ["virtual", "real"])
def test_knobs_act_while_a_hundred_agents_run_and_stop_stops(address, pictures: Path, name: str) -> None:
    """A slider dragged during the run shows in the figures within 0.3 s (median); Stop ends the run with its report."""

    def scenario(room: Room) -> None:
        room.open(address, name)
        room.press("Start")
        room.until("of 100")
        room.page.wait_for_timeout(4 * SECOND)
        took = []
        for share, shown in [(0, "of 1"), (1, "of 200")] * 3:
            room.drag("concurrency", share)
            took.append(room.until(shown + "waiting"))
        room.page.wait_for_timeout(3 * SECOND)
        room.page.screenshot(path=pictures / f"room_{name}_running.png")
        print(f"{name}: slider to figures, median {1000 * median(took):.0f} ms, {[round(1000 * t) for t in took]}")
        assert median(took) < 0.3
        room.press("Pause")
        room.button("Resume").wait_for(timeout=10 * SECOND)
        room.press("Resume")
        room.press("Stop")
        room.until("Try this next", 10)
        room.until("Stopped with")
        room.page.screenshot(path=pictures / f"room_{name}_stopped.png")
        assert "is-disabled" not in (room.button("Start").get_attribute("class") or "")

    _in_browser(scenario)


@pytest.mark.parametrize("name", ["finish", "http"])
def test_run_reaches_its_end_with_report_and_advice(address, pictures: Path, name: str) -> None:
    """The run ends by itself, the whole of it is shown, with its report and the advice."""

    def scenario(room: Room) -> None:
        room.open(address, name)
        room.press("Start")
        room.until("Try this next", 60)
        room.page.wait_for_timeout(SECOND)
        room.page.screenshot(path=pictures / f"room_{name}_end.png")
        shown = room.page.locator(".jp-NotebookPanel .widget-image").first
        assert shown.evaluate("image => image.naturalWidth") > 500
        room.page.wait_for_selector('.jp-OutputArea-output:has-text("finished: <Report")', timeout=10 * SECOND)

    _in_browser(scenario)
