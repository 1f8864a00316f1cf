"""Notebooks and loops: what runs where, and what nest_asyncio does to it.

The rows about a kernel use a real one, started once; the rows about patched loops use a fresh interpreter.
"""

import asyncio
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentkit.lab.claims import claim


@functools.cache
def kernel():
    """A Jupyter kernel, started at the first use."""
    pytest.importorskip("ipykernel")
    from jupyter_client.manager import start_new_kernel

    return start_new_kernel(kernel_name="python3", stderr=subprocess.DEVNULL)


def teardown_module():
    """Stop the kernel, if one was started."""
    if kernel.cache_info().currsize:
        manager, client = kernel()
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        kernel.cache_clear()


def cell(code):
    """Run one cell: its result as text, or the name of its error."""
    outputs = []
    _, client = kernel()
    client.execute_interactive(code, output_hook=lambda message: outputs.append(message["content"]), timeout=60)
    for content in outputs:
        if "ename" in content:
            return content["ename"]
    return next((content["data"]["text/plain"] for content in outputs if "data" in content), None)


def fresh(code):
    """Run code in a new interpreter, warnings as errors: what it printed, or the name of its error."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1].split(":")[0]
    return done.stdout.strip()


@claim("notebook-run")
def test_asyncio_run_fails_in_a_cell_and_await_works():
    """In a cell asyncio.run raises; await main() gives 7, and so does asyncio.run in a helper thread."""
    cell("import asyncio, concurrent.futures\nasync def main(): return 7")
    assert cell("asyncio.run(main())") == "RuntimeError"
    assert cell("await main()") == "7"
    assert (
        cell("with concurrent.futures.ThreadPoolExecutor(1) as pool: r = pool.submit(asyncio.run, main())\nr.result()")
        == "7"
    )


@claim("notebook-one-loop")
def test_cells_share_one_loop():
    """A module-level lock, contended in two cells, works in both: a notebook hides what a second run shows."""
    cell("import asyncio\nlock = asyncio.Lock()\nasync def use():\n  async with lock: await asyncio.sleep(0)\n")
    assert cell("await asyncio.gather(use(), use()); 'ok'") == "'ok'"
    assert cell("await asyncio.gather(use(), use()); 'ok'") == "'ok'"


@claim("notebook-background")
def test_background_task_makes_no_step_while_a_cell_computes():
    """A task that counts its turns: no step during a cell without await, at least one during an await."""
    cell("import asyncio\nturns = []\nasync def count():\n  while True: turns.append(1); await asyncio.sleep(0)\n")
    cell("counting = asyncio.create_task(count())")
    assert cell("before = len(turns); sum(range(1_000_000)); len(turns) - before") == "0"
    assert cell("before = len(turns); await asyncio.sleep(0); await asyncio.sleep(0); len(turns) > before") == "True"
    cell("counting.cancel()")


@claim("notebook-silent-task")
def test_error_of_a_background_task_is_no_error_of_any_cell():
    """A task made in one cell fails while the next one waits: neither cell fails, until somebody asks the task."""
    cell("import asyncio\nasync def failing(): raise ValueError")
    assert cell("task = asyncio.create_task(failing()); 'made'") == "'made'"
    assert cell("await asyncio.sleep(0); await asyncio.sleep(0); task.done()") == "True"
    assert cell("task.result()") == "ValueError"


@claim("notebook-processes")
def test_function_of_a_cell_cannot_be_sent_to_a_spawned_process():
    """With spawn (macOS, Windows) a pool breaks on a function defined in a cell; a forked one (Linux) runs it."""
    cell("import multiprocessing, concurrent.futures\ndef square(x): return x * x")
    pool = "with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context({!r})) as pool:\n"
    job = "  job = pool.submit(square, 3)\njob.result(30)"
    assert cell(pool.format("fork") + job) == "9"
    assert cell(pool.format("spawn") + job) == "BrokenProcessPool"


@claim("run-in-run")
def test_asyncio_run_works_twice_in_a_row_but_not_inside_itself():
    """Two runs one after the other are fine; one inside a running loop raises RuntimeError."""

    async def seven():
        return 7

    async def inside():
        call = seven()
        try:
            return asyncio.run(call)
        except RuntimeError as error:
            call.close()
            return str(error)

    assert asyncio.run(seven()) + asyncio.run(seven()) == 14
    assert "cannot be called from a running event loop" in asyncio.run(inside())


@claim("get-event-loop")
def test_get_event_loop_is_fine_only_inside_a_coroutine():
    """With no loop running: 3.11 makes one, 3.12 and 3.13 warn; after asyncio.run all of them raise."""
    inside = fresh("import asyncio\nasync def main(): asyncio.get_event_loop()\nasyncio.run(main()); print('fine')")
    outside = fresh("import asyncio\nasyncio.get_event_loop().close(); print('fine')")
    after = fresh("import asyncio\nasync def main(): pass\nasyncio.run(main()); asyncio.get_event_loop()")
    assert inside == "fine"
    assert outside == ("fine" if sys.version_info < (3, 12) else "DeprecationWarning")
    assert after == "RuntimeError"


@claim("nest-asyncio")
def test_nest_asyncio_lets_run_nest():
    """After apply(), asyncio.run inside a running loop gives 7, and a timeout in it still works (not on 3.14)."""
    pytest.importorskip("nest_asyncio")
    assert (
        fresh("""
import asyncio, nest_asyncio
nest_asyncio.apply()
async def slow():
    try: await asyncio.wait_for(asyncio.sleep(9), 0.01)
    except TimeoutError: return 7
async def main(): return asyncio.run(slow())
print(asyncio.run(main()))""")
        == "7"
    )


@claim("nest-asyncio-atomic")
def test_nest_asyncio_lets_others_run_inside_a_plain_function():
    """After apply() a function without await can be interrupted: two agents count 1, not 2."""
    pytest.importorskip("nest_asyncio")
    assert (
        fresh("""
import asyncio, nest_asyncio
nest_asyncio.apply()
count = 0
def increment():  # no await in here
    global count
    seen = count
    asyncio.run(asyncio.sleep(0))  # a tool that calls asyncio.run, as nest_asyncio allows
    count = seen + 1
async def agent(): increment()
async def main(): await asyncio.gather(agent(), agent())
asyncio.run(main())
print(count)""")
        == "1"
    )


@claim("stdlib-asyncio")
def test_asyncio_comes_with_Python():
    """It is imported from the standard library: there is nothing to install."""
    assert Path(asyncio.__file__).parents[1] == Path(os.__file__).parent


@claim("file-reads")
def test_asyncio_cannot_wait_for_a_file():
    """The loop refuses to watch a regular file (Linux), and asyncio has no function that reads one."""

    async def main(file):
        with pytest.raises(PermissionError):
            asyncio.get_running_loop().add_reader(file, print)

    with Path(__file__).open() as file:
        asyncio.run(main(file))
    assert [name for name in asyncio.__all__ if "file" in name.lower()] == ["SendfileNotAvailableError"]


@claim("runner-keeps-loop")
def test_every_asyncio_run_makes_a_new_loop():
    """Two runs, two loops; one asyncio.Runner keeps its loop, and what is bound to it, from run to run."""

    async def loop():
        return asyncio.get_running_loop()

    assert asyncio.run(loop()) is not asyncio.run(loop())
    with asyncio.Runner() as runner:
        assert runner.run(loop()) is runner.run(loop())
