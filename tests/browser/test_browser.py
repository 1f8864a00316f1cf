"""JupyterLab in a real Chromium: every lesson runs through, Stop ends a waiting cell, a slider moves its picture.

Run by `make test-browser`; each test leaves a screenshot in a folder whose name is printed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
SECOND = 1000  # playwright counts in milliseconds

READY = "from agentkit.lab.notebook import setup\nsetup()"
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
label = widgets.Label("limit is 4")
slider.observe(lambda change: setattr(label, "value", f"limit is {change.new}"), "value")
widgets.VBox([slider, label])
"""


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the screenshots go."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"screenshots: {folder}")
    return folder


@pytest.fixture(scope="session")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the course, so that running it changes nothing here, and a notebook each for Stop and a slider."""
    folder = tmp_path_factory.mktemp("course")
    notebooks = folder / "notebooks"
    ignore = shutil.ignore_patterns("solutions", ".*")
    shutil.copytree(ROOT / "notebooks", notebooks, ignore=ignore)
    cells = [nbformat.v4.new_code_cell(source) for source in (READY, SLIDER, WAITING, "print('next')")]
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    for name in ("stop", "slider"):  # one each, since JupyterLab keeps a notebook's kernel when its tab is gone
        nbformat.write(
            nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), notebooks / f"{name}.ipynb"
        )
    return folder


@pytest.fixture(scope="session")
def address(course: Path) -> Iterator[tuple[str, str]]:
    """JupyterLab, opened by the course's own command; its address up to the notebook, and the token."""
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")}
    command = [sys.executable, "-m", "agentkit.lab.notebook", "lab"]
    with subprocess.Popen(command, cwd=course, env=env, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            url = next(line.strip() for line in server.stderr if line.strip().startswith("http://"))
            place, _, query = url.partition("?")
            yield place.rpartition("/")[0], query
        finally:
            server.terminate()
            server.stderr.read()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    assert program, (
        "no Chromium found; install the package chromium, or name the program: CHROMIUM=/path make test-browser"
    )
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A window of its own, tall enough to show a lesson's beginning; what the page itself throws fails the test."""
    tab = browser.new_page(viewport={"width": 1280, "height": 1000})
    thrown: list[str] = []
    tab.on("pageerror", lambda error: thrown.append(str(error)))
    yield tab
    tab.close()
    assert not thrown


def _open(page: Page, address: tuple[str, str], name: str) -> None:
    """Open a notebook in a fresh workspace and wait until its kernel is idle."""
    place, query = address
    for _ in range(50):  # the server prints its address a moment before it listens
        try:
            page.goto(f"{place}/{name}?reset&{query}", wait_until="domcontentloaded")
            break
        except Exception as error:
            if "CONNECTION_REFUSED" not in str(error):
                raise
            page.wait_for_timeout(100)
    _idle(page)


def _idle(page: Page, seconds: int = 60) -> None:
    # The toolbar's indicator says idle before there is a kernel; the status bar does not.
    page.wait_for_selector('.jp-StatusBar-TextItem:has-text("| Idle")', timeout=seconds * SECOND)


def _menu(page: Page, menu: str, item: str) -> None:
    page.click(f'.lm-MenuBar-itemLabel:text-is("{menu}")')
    page.click(f'.lm-Menu-itemLabel:text-is("{item}")')


def _run_all(page: Page) -> None:
    """Run every cell from a clean sheet: stored numbers would look like cells that have run."""
    _menu(page, "Edit", "Clear Outputs of All Cells")
    _menu(page, "Run", "Run All Cells")


def _wait_for_the_end(page: Page, seconds: int = 120) -> None:
    """Wait until every cell has its number, or until an error ended it: two seconds without a busy or queued cell."""
    quiet = 0
    for _ in range(seconds * 10):
        prompts = page.locator(".jp-NotebookPanel .jp-CodeCell .jp-InputPrompt").all_text_contents()
        quiet = 0 if "[*]:" in prompts else quiet + 1
        if quiet == 20 or all(any(character.isdigit() for character in prompt) for prompt in prompts):
            _idle(page)
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"still running after {seconds} s: {prompts}")


def _wait_for_output(page: Page, text: str) -> None:
    page.wait_for_selector(f'.jp-NotebookPanel .jp-OutputArea-output:has-text("{text}")', timeout=60 * SECOND)


def _saved(page: Page, path: Path) -> nbformat.NotebookNode:
    """Save, wait until that is done, and read the file: it has every cell, on screen or not."""
    before = path.stat().st_mtime_ns
    _menu(page, "File", "Save Notebook")
    for _ in range(100):
        page.wait_for_timeout(100)
        if path.stat().st_mtime_ns != before:
            return nbformat.read(path, as_version=4)
    raise AssertionError("the notebook was not saved")


def _code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def _unexpected_errors(cells: list[nbformat.NotebookNode]) -> list[str]:
    meant = [cell for cell in cells if "raises-exception" not in cell.metadata.get("tags", [])]
    return [f"{o.ename}: {o.evalue}" for cell in meant for o in cell.outputs if o.output_type == "error"]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_lesson_runs_through(page: Page, address: tuple[str, str], course: Path, pictures: Path, lesson: Path) -> None:
    """Run All reaches the end: every code cell has its number, none has an error it is not meant to have."""
    _open(page, address, lesson.name)
    _run_all(page)
    _wait_for_the_end(page)
    page.screenshot(path=pictures / f"{lesson.stem}.png")
    cells = _code_cells(_saved(page, course / "notebooks" / lesson.name))
    assert _unexpected_errors(cells) == []
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


def test_stop_button_ends_a_waiting_cell(page: Page, address: tuple[str, str], course: Path, pictures: Path) -> None:
    """The cell ends with CancelledError, the agents clean up, and the cells after it do not run."""
    _open(page, address, "stop.ipynb")
    _run_all(page)
    _wait_for_output(page, "three agents began")
    page.click('.jp-NotebookPanel [title^="Interrupt the kernel"]')
    _wait_for_the_end(page, seconds=10)
    page.screenshot(path=pictures / "stop.png")
    waiting, after = _code_cells(_saved(page, course / "notebooks" / "stop.ipynb"))[-2:]
    assert [o.ename for o in waiting.outputs if o.output_type == "error"] == ["CancelledError"]
    assert "".join(o.text for o in waiting.outputs if o.output_type == "stream").count("cleaned up") == 3
    assert after.execution_count is None


def test_slider_moves_while_a_cell_waits(page: Page, address: tuple[str, str], pictures: Path) -> None:
    """A drag on a slider reaches the kernel, and what it changed comes back, though a cell is still waiting."""
    _open(page, address, "slider.ipynb")
    _run_all(page)
    _wait_for_output(page, "three agents began")
    handle = page.locator(".jp-NotebookPanel .widget-slider .noUi-handle").first
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 400, box["y"] + box["height"] / 2, steps=8)
    page.mouse.up()
    page.screenshot(path=pictures / "slider.png")
    page.wait_for_selector('.jp-NotebookPanel .widget-label:has-text("limit is 10")', timeout=10 * SECOND)
    page.screenshot(path=pictures / "slider.png")
    assert "[*]:" in page.locator(".jp-NotebookPanel .jp-CodeCell .jp-InputPrompt").all_text_contents()


def test_first_lesson_opens_without_anything_in_the_way(page: Page, address: tuple[str, str], pictures: Path) -> None:
    """No toast covers the lesson, and the file browser shows the course."""
    _open(page, address, "00_start_here.ipynb")
    page.wait_for_timeout(3 * SECOND)  # a toast comes a moment after the page
    page.screenshot(path=pictures / "opened.png")
    assert page.locator(".Toastify__toast").count() == 0
    assert page.locator(".jp-DirListing").first.is_visible()
