"""Timeouts and cancellation: what they stop, what they do not, and who pays."""

import asyncio
import concurrent.futures
import threading

import pytest

from agentkit.lab import simulate
from agentkit.lab.claims import claim

model_call = asyncio.sleep  # to the program a model call is a wait: model_call(seconds, reply)


def now():
    """The running loop's clock, in virtual seconds."""
    return asyncio.get_running_loop().time()


@claim("timeouts-cascade")
def test_short_timeout_with_retries_multiplies_the_bill():
    """The answer takes 8 s, three tries: a 5 s timeout buys three bills and no answer, a 10 s one the answer."""

    async def main(timeout):
        bills = []

        async def provider():
            bills.append(1)  # it goes on generating after we hang up
            return await model_call(8, "answer")

        for _ in range(3):
            try:
                answer = await asyncio.wait_for(asyncio.shield(asyncio.create_task(provider())), timeout)
                return answer, len(bills), now()
            except TimeoutError:
                pass
        return None, len(bills), now()

    assert simulate(main, 5) == (None, 3, 15)
    assert simulate(main, 10) == ("answer", 1, 8)


@claim("timeout-inside-sem")
def test_timeout_inside_the_semaphore_does_not_count_queueing():
    """100 agents of 20 s, limit 5, timeout 30: inside the slot the last ends at 400 s; around the queue 95 fail."""

    async def main(around_the_queue):
        semaphore = asyncio.Semaphore(5)

        async def agent():
            try:
                if around_the_queue:
                    async with asyncio.timeout(30), semaphore:
                        await model_call(20)
                else:
                    async with semaphore, asyncio.timeout(30):
                        await model_call(20)
            except TimeoutError:
                return "failed"
            return "ok"

        rows = await asyncio.gather(*(agent() for _ in range(100)))
        return rows.count("ok"), now()

    assert simulate(main, False) == (100, 400)
    assert simulate(main, True) == (5, 30)


@claim("partial-results")
def test_one_timeout_leaves_the_other_results():
    """Agents of 1, 9 and 2 s, timeout 5 s each: two answers and one None, at 5 s."""

    async def agent(seconds):
        try:
            return await asyncio.wait_for(model_call(seconds, "answer"), 5)
        except TimeoutError:
            return None

    async def main():
        return await asyncio.gather(agent(1), agent(9), agent(2)), now()

    assert simulate(main) == (["answer", None, "answer"], 5)


@claim("production-crash")
def test_slicing_the_reply_of_a_timed_out_agent_raises():
    """The usual result of a timeout is None, and the usual next line, reply[:100], raises TypeError."""

    async def agent(seconds):
        try:
            return await asyncio.wait_for(model_call(seconds, "a long answer"), 5)
        except TimeoutError:
            return None

    async def main():
        return await asyncio.gather(agent(1), agent(9), agent(2))

    with pytest.raises(TypeError, match="not subscriptable"):
        print([reply[:100] for reply in simulate(main)])


@claim("wait-for-deadline")
def test_wait_for_waits_until_the_cancelled_agent_has_ended():
    """Timeout 5 s: an agent with 10 s of clean-up ends at 15 s; one that swallows the cancel answers at 25 s."""

    async def slow_to_clean():
        try:
            await model_call(60)
        finally:
            await model_call(10)

    async def deaf():
        try:
            return await model_call(60)
        except asyncio.CancelledError:
            return await model_call(20, "late answer")

    async def main(agent):
        try:
            return await asyncio.wait_for(agent(), 5), now()
        except TimeoutError:
            return "timeout", now()

    assert simulate(main, slow_to_clean) == ("timeout", 15)
    assert simulate(main, deaf) == ("late answer", 25)


@claim("error-message")
def test_timeout_has_no_message():
    """str() of the commonest failure is empty; str() of a KeyError is only the key, in quotes."""

    async def message(call):
        try:
            await call()
        except Exception as error:
            return str(error), type(error).__name__

    async def slow():
        await asyncio.wait_for(model_call(9), 1)

    async def missing():
        return {}["label"]

    assert simulate(message, slow) == ("", "TimeoutError")
    assert simulate(message, missing) == ("'label'", "KeyError")


@claim("timeout-names")
def test_the_three_TimeoutErrors_are_one_class():
    """Since 3.11 asyncio's and concurrent.futures' are the built-in one, and asyncio.timeout exists."""
    assert asyncio.TimeoutError is TimeoutError
    assert concurrent.futures.TimeoutError is TimeoutError
    assert hasattr(asyncio, "timeout")


@claim("swallow-cancel")
def test_agent_that_catches_everything_cannot_be_cancelled():
    """Cancelled at 2.5 s: `except Exception` ends at 2.5 s, `except BaseException` at 9.5 s."""

    async def main(caught):
        async def agent():
            for _ in range(10):
                try:
                    await model_call(1)
                except caught:
                    pass

        task = asyncio.create_task(agent())
        await asyncio.sleep(2.5)
        task.cancel()
        await asyncio.wait([task])
        return now()

    assert simulate(main, Exception) == 2.5
    assert simulate(main, BaseException) == 9.5


@claim("cancel-is-a-request")
def test_cancel_takes_effect_at_the_next_turn():
    """After task.cancel() the task is not done; it runs once more, and cleans up, when its canceller waits."""
    log = []

    async def agent():
        try:
            await model_call(9)
        finally:
            log.append("cleaned up")

    async def main():
        task = asyncio.create_task(agent())
        await asyncio.sleep(1)
        task.cancel()
        log.append(f"cancelled: {task.cancelled()}")
        await asyncio.wait([task])
        log.append(f"cancelled: {task.cancelled()}")

    simulate(main)
    assert log == ["cancelled: False", "cleaned up", "cancelled: True"]


@claim("cancel-before-start")
def test_task_cancelled_before_it_starts_runs_nothing():
    """Cancelled in the same turn it was made: neither its body nor its `finally` runs."""
    log = []

    async def agent():
        try:
            log.append("began")
        finally:
            log.append("cleaned up")

    async def main():
        task = asyncio.create_task(agent())
        task.cancel()
        await asyncio.wait([task])

    simulate(main)
    assert log == []


@claim("wait-timeout")
def test_asyncio_wait_neither_raises_nor_cancels():
    """asyncio.wait with a 2 s timeout returns at 2 s; the 5 s agent runs on and ends at 5 s."""

    async def main():
        task = asyncio.create_task(model_call(5, "answer"))
        done, _ = await asyncio.wait([task], timeout=2)
        returned = now()
        return len(done), returned, await task, now()

    assert simulate(main) == (0, 2, "answer", 5)


@claim("nested-timeouts")
def test_inner_timeout_cannot_outlast_the_outer():
    """An inner timeout of 60 s inside an outer one of 5 s: the call ends at 5 s."""

    async def main():
        try:
            async with asyncio.timeout(5):
                async with asyncio.timeout(60):
                    await model_call(30)
        except TimeoutError:
            return now()

    assert simulate(main) == 5


@claim("timeout-needs-await")
def test_timeout_cannot_interrupt_code_without_await():
    """A timeout of no time at all: the calculation runs to its end, and the error comes at the await after it."""
    steps = []

    async def main():
        async with asyncio.timeout(0):
            steps.extend(range(1000))
            await model_call(1)
            steps.append("never reached")

    with pytest.raises(TimeoutError):
        simulate(main)
    assert steps == list(range(1000))


@claim("timeout-per-attempt")
def test_timeout_per_attempt_bounds_no_call():
    """Three attempts of 5 s with waits of 1 and 2 s between them: a `timeout=5` call takes 18 s."""

    async def main():
        for pause in (1, 2, 0):
            try:
                return await asyncio.wait_for(model_call(60), 5)
            except TimeoutError:
                await asyncio.sleep(pause)
        return now()

    assert simulate(main) == 18


@claim("wait-for-thread")
def test_timeout_does_not_stop_a_thread():
    """The caller gets its TimeoutError, the tool runs on, and its side effect lands afterwards."""
    started, carry_on, charged = threading.Event(), threading.Event(), []

    def tool():
        started.set()
        carry_on.wait(5)
        charged.append("card")

    async def main():
        call = asyncio.create_task(asyncio.to_thread(tool))
        await asyncio.to_thread(started.wait, 5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 0.01)
        assert charged == []
        carry_on.set()

    asyncio.run(main())  # its exit waits for the thread
    assert charged == ["card"]
