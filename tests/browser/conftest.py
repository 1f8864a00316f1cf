"""What the browser tests share: a copy of the course, one JupyterLab, one Chromium, and `Lab`, a page to drive.

Guarantees: nothing here waits for a fixed time, each wait is for something the page, the server or a file shows; each
test has a page and a kernel of its own, and its kernel is gone before the next begins; what the page itself throws
fails the test; a test that fails leaves a picture of how the page stood, and says in its report what was on it.
Screenshots go to the folder named by SCREENSHOTS, or to a temporary one whose name is printed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import nbformat
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Response

ROOT = Path(__file__).parents[2]
SECOND = 1000  # playwright counts in milliseconds
PANEL = ".jp-NotebookPanel"
NUMBERED = """
([panel, wanted]) => {
    const prompts = [...document.querySelectorAll(`${panel} .jp-CodeCell .jp-InputPrompt`)];
    return prompts.filter(prompt => /[0-9]/.test(prompt.textContent)).length === wanted;
}
"""  # a star says nothing: an error that is expected takes it from all cells that wait, and they run on without it


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the screenshots go."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"screenshots: {folder}")
    return folder


@pytest.fixture(scope="session")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of notebooks in a copy of the course, so that running them changes nothing here."""
    notebooks = tmp_path_factory.mktemp("course") / "notebooks"
    shutil.copytree(ROOT / "notebooks", notebooks, ignore=shutil.ignore_patterns("solutions", ".*"))
    return notebooks


@dataclass
class Server:
    """JupyterLab as the course opens it."""

    root: str
    """Its address, up to the path."""
    token: str
    log: Path
    """What it and its kernels write."""

    def ask(self, method: str, path: str) -> Any:
        """Call its own interface: `ask("GET", "sessions")`."""
        request = Request(f"{self.root}/api/{path}", headers={"Authorization": f"token {self.token}"}, method=method)
        with urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or "null")

    def end_kernels(self) -> None:
        """Shut down every kernel; a notebook that is opened again gets a fresh one."""
        for session in self.ask("GET", "sessions"):
            self.ask("DELETE", f"sessions/{session['id']}")


@pytest.fixture(scope="session")
def server(course: Path) -> Iterator[Server]:
    """One JupyterLab for all tests, opened by the course's own command."""
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")}
    for kind in ("SETTINGS", "WORKSPACES"):  # the reader's theme and open tabs are not looked at, and not changed
        env[f"JUPYTERLAB_{kind}_DIR"] = str(course.parent / kind.lower())
    command = [sys.executable, "-m", "agentkit.lab.host.notebook", "lab"]
    log = course.parent / "server.log"  # a file, since a pipe that nobody reads is full one day
    with log.open("w") as file, subprocess.Popen(command, cwd=course.parent, env=env, stderr=file) as process:
        try:
            while not (said := re.search(r"^\s*(http://\S+)/lab/tree/\S*\?token=(\w+)\s", log.read_text(), re.M)):
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            yield Server(said[1], said[2], log)
        finally:
            process.terminate()


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


def errors(cells: list[nbformat.NotebookNode]) -> list[str]:
    """Tell the errors of those cells that are not meant to have one."""
    meant = [cell for cell in cells if "raises-exception" not in cell.metadata.get("tags", [])]
    return [f"{o.ename}: {o.evalue}" for cell in meant for o in cell.outputs if o.output_type == "error"]


class Lab:
    """A page of JupyterLab with one notebook open."""

    def __init__(self, page: Page, server: Server, course: Path) -> None:
        self.page, self.server, self.course = page, server, course
        self.file = course
        self.cells = 0  # that can be run

    # -- the notebook ---------------------------------------------------------------------------------------------

    def write(self, name: str, *sources: str) -> None:
        """Make a notebook of these cells and open it."""
        kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), self.course / name)
        self.open(name)

    def open(self, name: str) -> None:
        """Open a notebook in a fresh workspace and wait until its kernel is idle."""
        self.file = self.course / name
        self.cells = len(self.stored())
        url = f"{self.server.root}/lab/tree/notebooks/{quote(name)}?reset&token={self.server.token}"
        for _ in range(100):  # the server prints its address a moment before it listens
            try:
                self.page.goto(url, wait_until="domcontentloaded")
                break
            except Exception as error:
                if "CONNECTION_REFUSED" not in str(error):
                    raise
                self.page.wait_for_timeout(50)
        self.idle()

    def idle(self, seconds: float = 60) -> None:
        """Wait until the kernel has nothing to do."""
        # The toolbar's indicator says idle before there is a kernel; the status bar does not.
        self.page.wait_for_selector('.jp-StatusBar-TextItem:has-text("| Idle")', timeout=seconds * SECOND)

    def menu(self, menu: str, item: str) -> None:
        """Choose from the menu bar."""
        self.page.click(f'.lm-MenuBar-itemLabel:text-is("{menu}")')
        self.page.click(f'.lm-Menu-itemLabel:text-is("{item}")')

    def run_all(self) -> None:
        """Run every cell from a clean sheet: stored numbers would look like cells that have run."""
        self.menu("Edit", "Clear Outputs of All Cells")
        self.menu("Run", "Run All Cells")

    def ended(self, seconds: float = 120) -> None:
        """Wait until every cell has its number."""
        try:
            self.page.wait_for_function(NUMBERED, arg=[PANEL, self.cells], timeout=seconds * SECOND)
        except Exception as error:
            cells = self.saved()
            raise AssertionError(f"not all cells ran: {[c.execution_count for c in cells]}, {errors(cells)}") from error
        self.idle()

    def running(self) -> int:
        """How many cells run or wait to run."""
        prompts = self.page.locator(f"{PANEL} .jp-CodeCell .jp-InputPrompt").all_text_contents()
        return sum("*" in prompt for prompt in prompts)

    def saved(self) -> list[nbformat.NotebookNode]:
        """Save the notebook and read its code cells from the file, on screen or not."""

        def written(response: Response) -> bool:
            return response.request.method == "PUT" and "/api/contents/" in response.url

        with self.page.expect_response(written):
            self.menu("File", "Save Notebook")
        return self.stored()

    def stored(self) -> list[nbformat.NotebookNode]:
        """Read the code cells of the file, empty ones left out."""
        cells: list[nbformat.NotebookNode] = nbformat.read(self.file, as_version=4).cells
        return [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]

    # -- what is on the page --------------------------------------------------------------------------------------

    def output(self, text: str, seconds: float = 60) -> None:
        """Wait until a cell has put out this text."""
        self.page.wait_for_selector(f'{PANEL} .jp-OutputArea-output:has-text("{text}")', timeout=seconds * SECOND)

    def html(self, text: str, seconds: float = 30) -> None:
        """Wait until a widget of text shows this."""
        self.page.wait_for_function(
            "([panel, text]) => [...document.querySelectorAll(`${panel} .widget-html`)]"
            ".some(widget => widget.textContent.includes(text))", arg=[PANEL, text], timeout=seconds * SECOND,
        )  # fmt: skip

    def button(self, name: str) -> Locator:
        """Find the first button with this text."""
        return self.page.locator(f'{PANEL} .jupyter-button:has-text("{name}")').first

    def press(self, name: str) -> None:
        """Press a button."""
        self.button(name).click()

    def around(self, text: str) -> Locator:
        """Find the first output that has this button or label in it."""
        inside = f'.jupyter-button:has-text("{text}"), label:text-is("{text}")'
        return self.page.locator(f".jp-NotebookPanel .jp-OutputArea-output:has({inside})").first

    def drag(self, label: str, share: float) -> None:
        """Move a slider by the mouse to a share of its length."""
        slider = self.page.locator(f'{PANEL} .widget-hslider:has(label:text-is("{label}"))').first
        rail = slider.locator(".noUi-target")
        box = rail.bounding_box()
        assert box
        to: Any = {"x": min(max(1, share * box["width"]), box["width"] - 1), "y": box["height"] / 2}
        # It waits until the handle stands still: cells above that come into view move everything below them.
        slider.locator(".noUi-handle").drag_to(rail, target_position=to, steps=4)


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Tell the fixtures of a test whether it failed."""
    report = yield
    if call.when == "call":
        item.stash[FAILED] = report.failed  # type: ignore[attr-defined]
    return report


@pytest.fixture
def lab(
    browser: Browser, server: Server, course: Path, pictures: Path, request: pytest.FixtureRequest
) -> Iterator[Lab]:
    """A window of its own; what the page itself throws fails the test."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    thrown: list[str] = []
    page.on("pageerror", lambda error: thrown.append(str(error)))
    before = len(server.log.read_text())
    yield Lab(page, server, course)
    if request.node.stash.get(FAILED, True):
        page.screenshot(path=pictures / f"failed_{request.node.name}.png")
        print(f"page threw: {thrown}\nserver wrote:\n{server.log.read_text()[before:]}")
    page.close()
    server.end_kernels()
    assert not thrown
