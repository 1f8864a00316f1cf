"""Stop, through the kernel protocol: a real kernel of this interpreter, a cell that waits, an interrupt."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Iterator
from queue import Empty

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from agentkit.lab.host import notebook

LINE = "agentkit 0.1: embedded provider, no key, no network. Stop works on waiting cells.\n"
BOUND = 5.0  # seconds; only a hang reaches it

BEGIN = """
import asyncio
finished = []
async def agent(i):
    try:
        await asyncio.sleep(60)
    finally:
        finished.append(i)
asyncio.get_running_loop().call_later(0.1, print, "waiting")
"""
WAITS = {
    "sleep": "await agent(0)",
    "gather": "await asyncio.gather(*map(agent, range(100)))",
    "TaskGroup": """
async with asyncio.TaskGroup() as group:
    for i in range(100):
        group.create_task(agent(i))
""",
    "executor": """
from agentkit import ParallelAgentExecutor
await ParallelAgentExecutor(max_concurrency=100).execute(range(1000), agent)
""",
    "timeout": """
async with asyncio.timeout(50):
    await agent(0)
""",
}
AGENTS = {"sleep": 1, "timeout": 1}


class Kernel:
    """A kernel of the running interpreter, driven as a notebook drives it."""

    def __init__(self, **env: str) -> None:
        # No folders: what is left is the kernel of the interpreter at work, whatever is installed on the machine.
        self.manager = KernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
        self.manager.start_kernel(env=os.environ | env)
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def close(self) -> None:
        """Kill it: some tests leave a cell waiting."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()

    def run(self, code: str) -> str:
        """Run a cell to its end; return what it printed. A cell that fails fails the test."""
        printed: list[str] = []

        def collect(message: dict[str, dict[str, str]]) -> None:
            printed.append(message["content"].get("text", ""))

        reply = self.client.execute_interactive(code, timeout=60, output_hook=collect)
        assert reply["content"]["status"] == "ok", reply["content"]
        return "".join(printed)

    def begin(self, code: str) -> None:
        """Start a cell and return when it waits, which it says by printing `waiting`."""
        self._cell = self.client.execute(
            BEGIN + code, stop_on_error=False
        )  # else the kernel may drop the cell that comes next
        printed = ""  # the word and the end of its line may come in two messages
        while "waiting" not in printed:
            printed += self.client.get_iopub_msg(timeout=60)["content"].get("text", "")
        time.sleep(0.2)  # the loop goes to sleep just after it printed; the kernel gives no sign of that

    def stop(self, timeout: float) -> tuple[str, float]:
        """Press Stop; return the name of the error the cell ends with, and the seconds that took."""
        began = time.perf_counter()
        self.manager.interrupt_kernel()
        while (reply := self.client.get_shell_msg(timeout=timeout))["parent_header"]["msg_id"] != self._cell:
            pass  # an answer to one of the questions whether the kernel is ready
        return reply["content"]["ename"], time.perf_counter() - began


@pytest.fixture(scope="module")
def ready() -> Iterator[Kernel]:
    """A kernel in which `setup` has been called, once for all tests."""
    kernel = Kernel(OPENAI_API_KEY="a-key-that-must-not-show")
    try:
        assert kernel.run("from agentkit.lab.host.notebook import setup\nsetup()") == LINE
        yield kernel
    finally:
        kernel.close()


@pytest.fixture
def fresh() -> Iterator[Kernel]:
    """A kernel in which nothing has been called."""
    kernel = Kernel()
    try:
        yield kernel
    finally:
        kernel.close()


SLIDER = """
import ipywidgets
slider, label = ipywidgets.IntSlider(4), ipywidgets.Label()
slider.observe(lambda change: setattr(label, "value", f"limit is {change.new}"), "value")
print(slider.comm.comm_id)
"""


def _turn(kernel: Kernel, comm: str, value: int, timeout: float) -> list[str]:
    """Turn the slider as a browser does; return what the kernel said about it until it was idle again."""
    content = {"comm_id": comm, "data": {"method": "update", "state": {"value": value}, "buffer_paths": []}}
    message = kernel.client.session.msg("comm_msg", content)
    kernel.client.shell_channel.send(message)
    said: list[str] = []
    while not said or said[-1] != "idle":
        answer = kernel.client.get_iopub_msg(timeout=timeout)
        if answer["parent_header"].get("msg_id") == message["header"]["msg_id"]:
            content = answer["content"]
            said.append(content.get("execution_state") or content["data"]["state"].get("value"))
    return said


def test_setup_without_it_a_slider_is_heard_once_while_a_cell_waits(fresh: Kernel) -> None:
    """The broken version: the kernel acts on the change and never says it is done, so a browser sends no other."""
    comm = fresh.run(SLIDER).strip()
    fresh.begin(WAITS["sleep"])
    with pytest.raises(Empty):
        _turn(fresh, comm, 7, timeout=2)


def test_setup_makes_a_slider_work_while_a_cell_waits(ready: Kernel) -> None:
    """Each change is acted upon and reported done; the cell is still busy and can still be stopped."""
    comm = ready.run(SLIDER).strip()
    ready.begin(WAITS["gather"])
    for value in (5, 9, 2):
        assert _turn(ready, comm, value, timeout=BOUND) == [value, f"limit is {value}", "idle"]
    name, _ = ready.stop(timeout=BOUND)
    assert name == "CancelledError"
    assert ready.run("print(slider.value, label.value, len(finished))") == "2 limit is 2 100\n"


def test_setup_without_it_stop_does_not_reach_a_waiting_cell(fresh: Kernel) -> None:
    """The broken version: two seconds after Stop the cell still waits."""
    fresh.begin(WAITS["sleep"])
    with pytest.raises(Empty):
        fresh.stop(timeout=2)
    assert fresh.manager.is_alive()


@pytest.mark.parametrize("kind", WAITS)
def test_setup_makes_stop_end_a_waiting_cell(ready: Kernel, kind: str) -> None:
    """Stop ends the wait, every agent's `finally` runs, and the kernel keeps its variables."""
    seconds = []
    for _ in range(3):
        ready.begin(WAITS[kind])
        name, took = ready.stop(timeout=BOUND)
        assert name == "CancelledError"
        seconds.append(took)
        assert ready.run("print(len(finished), len(set(finished)))") == "{0} {0}\n".format(AGENTS.get(kind, 100))
    print(f"{kind}: stopped after {statistics.median(seconds):.3f} s (median of {len(seconds)})")


def test_setup_holds_when_nest_asyncio_is_applied_afterwards(fresh: Kernel) -> None:
    """The lesson that patches the loop does not lose Stop by it."""
    fresh.run("from agentkit.lab.host.notebook import setup\nsetup()\nimport nest_asyncio; nest_asyncio.apply()")
    fresh.begin(WAITS["gather"])
    name, _ = fresh.stop(timeout=BOUND)
    assert name == "CancelledError"
    assert fresh.run("print(len(finished))") == "100\n"


def test_setup_leaves_stop_on_a_simulation_as_it_was(ready: Kernel) -> None:
    """A cell that runs a simulation without end is stopped, and the agents in it are cancelled."""
    code = """
import threading
from agentkit.lab import simulate
async def for_ever():
    try:
        while True:
            await asyncio.sleep(1)
    finally:
        finished.append("cancelled")
threading.Timer(0.1, print, ("waiting",)).start()
simulate(for_ever)
"""
    ready.begin(code)
    name, _ = ready.stop(timeout=BOUND)
    assert name == "KeyboardInterrupt"
    assert ready.run("print(finished)") == "['cancelled']\n"


def test_setup_again_changes_nothing(ready: Kernel) -> None:
    """A second call prints the same line and adds no task."""
    count = "import asyncio; print(len(asyncio.all_tasks()))"
    before = ready.run(count)
    assert ready.run("setup()") == LINE
    assert ready.run(count) == before


def test_setup_loads_no_pyplot_and_no_client(ready: Kernel) -> None:
    """The first cell stays light: drawing and the client load when they are used."""
    code = "import sys; print([m for m in ('matplotlib.pyplot', 'pandas', 'openai', 'starlette') if m in sys.modules])"
    assert ready.run(code) == "[]\n"


def test_setup_in_a_thread_of_a_kernel_says_that_stop_does_not_reach_it(ready: Kernel) -> None:
    """Signals arrive in the main thread only; a simulation runs in another."""
    code = "from agentkit.lab import simulate\nasync def main(): setup()\nsimulate(main)"
    assert ready.run(code) == LINE.replace("Stop works on waiting cells.", "Stop does not reach this thread.")


def test_setup_without_signal_handlers_uses_one_heartbeat(fresh: Kernel) -> None:
    """Where a loop takes no signal handlers, as on Windows, a single task wakes it and Stop works too."""
    fresh.run("import signal; del signal.SIGURG")
    assert fresh.run("from agentkit.lab.host.notebook import setup\nsetup(); setup()") == LINE * 2
    names = "print([task.get_name() for task in asyncio.all_tasks() if 'heartbeat' in task.get_name()])"
    assert fresh.run(f"import asyncio; {names}") == "['agentkit-heartbeat']\n"
    fresh.begin(WAITS["gather"])
    name, _ = fresh.stop(timeout=BOUND)
    assert name == "CancelledError"
    assert fresh.run("print(len(finished))") == "100\n"


def test_setup_outside_a_notebook_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """In a script it prints its line and does nothing, whether or not a loop is running."""

    async def main() -> None:
        notebook.setup()

    notebook.setup()
    asyncio.run(main())
    line = LINE.replace("Stop works on waiting cells.", "Not in a notebook: nothing to set up.")
    assert capsys.readouterr().out == line * 2


@pytest.mark.parametrize(("version", "advised"), [("6.31.0", True), ("7.3.1", True), ("7.4.0", False), ("8.0", False)])
def test_setup_tells_what_to_upgrade(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], version: str, advised: bool
) -> None:
    """An ipykernel older than 7.4 is named, with the command that upgrades it."""
    monkeypatch.setattr(notebook, "_kernel", object)
    monkeypatch.setattr(notebook.metadata, "version", lambda name: version)
    notebook.setup()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + advised
    assert (f"ipykernel {version} is too old" in lines[-1] and "ipykernel>=7.4" in lines[-1]) is advised


def test_notebook_reads_no_environment() -> None:
    """The module that sets a lesson up has no way to find a key: it does not touch the environment."""
    with open(notebook.__file__, encoding="utf-8") as file:
        source = file.read()
    assert "environ" not in source.replace("environment", "")
    assert "getenv" not in source
    assert "os" not in sys.modules[notebook.__name__].__dict__


@pytest.mark.parametrize("agent", ["def agent(task): sys.exit(2)", "async def agent(task): sys.exit(2)"])
def test_kernel_survives_an_agent_that_exits(ready: Kernel, agent: str):
    """The cell fails, with the report on its error; the variables of the notebook are still there."""
    ready.run("import sys\nfrom agentkit import ParallelAgentExecutor\nkept = 5\n" + agent)
    cell = "try:\n    await ParallelAgentExecutor(2).map([1, 2], agent)\nexcept SystemExit as error:\n    "
    assert ready.run(cell + "print(error.code, len(error.report))") == "2 2\n"
    reply = ready.client.execute_interactive(
        "await ParallelAgentExecutor(2).map([1, 2], agent)", timeout=60, output_hook=print
    )
    assert reply["content"]["status"] == "error"
    assert ready.run("print(kept)") == "5\n"
