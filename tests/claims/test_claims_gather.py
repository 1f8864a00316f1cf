"""gather, tasks and the loop: what is true of running several agents at once."""

import asyncio
import gc
import random
import weakref

import pytest

from agentkit.lab import simulate
from agentkit.lab.claims import claim

model_call = asyncio.sleep  # to the program a model call is a wait: model_call(seconds, reply)


def now():
    """The running loop's clock, in virtual seconds."""
    return asyncio.get_running_loop().time()


@claim("gather-order")
def test_gather_returns_results_in_argument_order():
    """The slowest agent is named first: it finishes last, and its result still comes first."""
    finished = []

    async def agent(name, seconds):
        await model_call(seconds)
        finished.append(name)
        return name

    async def main():
        return await asyncio.gather(agent("slow", 3), agent("middle", 2), agent("fast", 1))

    assert simulate(main) == ["slow", "middle", "fast"]
    assert finished == ["fast", "middle", "slow"]


@claim("gather-stops-others")
def test_gather_leaves_the_others_running_after_a_failure():
    """B fails at 2 s. C, due at 3 s, still finishes, and is still billed."""
    log = []

    async def agent(name, seconds):
        await model_call(seconds)
        if name == "B":
            raise ValueError(name)
        log.append(f"{name} at {now():g}")

    async def main():
        try:
            await asyncio.gather(agent("A", 1), agent("B", 2), agent("C", 3))
        except ValueError:
            log.append(f"error at {now():g}")
        await asyncio.sleep(9)  # the program goes on

    simulate(main)
    assert log == ["A at 1", "error at 2", "C at 3"]


@claim("gather-fails-any")
def test_gather_raises_the_first_error_in_time():
    """B is named first and fails at 2 s; C fails at 1 s. The caller sees C's error, at 1 s."""

    async def failing(seconds, error):
        await model_call(seconds)
        raise error

    async def main():
        try:
            await asyncio.gather(failing(2, KeyError("B")), failing(1, ValueError("C")))
        except Exception as error:
            return type(error), now()

    assert simulate(main) == (ValueError, 1)


@claim("return-exceptions")
def test_return_exceptions_puts_errors_among_the_replies():
    """One of three agents fails, and a plain truth test still counts three replies."""

    async def failing():
        raise ValueError("quota")

    async def main():
        return await asyncio.gather(model_call(1, "a"), failing(), model_call(2, "c"), return_exceptions=True)

    rows = simulate(main)
    assert [type(row) for row in rows] == [str, ValueError, str]
    assert len([row for row in rows if row]) == 3  # an exception is truthy


@claim("all-tasks-complete")
def test_gather_under_a_deadline_throws_finished_results_away():
    """Agents of 1 s and 5 s, deadline 2 s: gather hands over nothing, asyncio.wait the one that is done."""

    async def with_gather():
        try:
            both = asyncio.gather(model_call(1, "a"), model_call(5, "b"), return_exceptions=True)
            return await asyncio.wait_for(both, 2)
        except TimeoutError:
            return []

    async def with_wait():
        tasks = [asyncio.create_task(model_call(seconds, reply)) for seconds, reply in ((1, "a"), (5, "b"))]
        done, _ = await asyncio.wait(tasks, timeout=2)
        return [task.result() for task in done]

    assert simulate(with_gather) == []
    assert simulate(with_wait) == ["a"]


@claim("return-exceptions-never")
def test_gather_flag_makes_no_difference_to_agents_that_catch():
    """Where each agent catches its own errors, both settings give the same, but for a cancellation."""

    async def agent(error):
        try:
            raise error
        except Exception as caught:
            return repr(caught)

    async def main(error, flag):
        return await asyncio.gather(agent(error), return_exceptions=flag)

    for flag in (False, True):
        assert simulate(main, ValueError("x"), flag) == ["ValueError('x')"]
    with pytest.raises(asyncio.CancelledError):
        simulate(main, asyncio.CancelledError(), False)
    assert isinstance(simulate(main, asyncio.CancelledError(), True)[0], asyncio.CancelledError)


@claim("executor-continues")
def test_except_Exception_keeps_a_batch_alive_but_for_cancellation():
    """One of 20 agents raises: 19 results after a ValueError or TimeoutError, none after a CancelledError."""

    async def main(error):
        async def agent(number):
            try:
                if number == 3:
                    raise error
                return await model_call(1, "ok")
            except Exception:
                return "failed"

        return (await asyncio.gather(*(agent(n) for n in range(20)))).count("ok")

    assert simulate(main, ValueError()) == 19
    assert simulate(main, TimeoutError()) == 19
    with pytest.raises(asyncio.CancelledError):
        simulate(main, asyncio.CancelledError())


@claim("results-are-successes")
def test_length_of_the_results_counts_the_failures_too():
    """20 agents, one fails: the list has 20 entries and 19 successes."""

    async def agent(number):
        if number == 0:
            raise ValueError
        return "positive"

    async def main():
        return await asyncio.gather(*(agent(n) for n in range(20)), return_exceptions=True)

    rows = simulate(main)
    assert len(rows) == 20
    assert rows.count("positive") == 19


@claim("as-they-finish")
def test_gather_hands_over_nothing_before_the_last_is_done():
    """Agents of 3, 1 and 2 s: gather delivers once, at 3 s; as_completed at 1, 2 and 3 s."""

    async def with_gather():
        await asyncio.gather(*map(model_call, (3, 1, 2)))
        return [now()]

    async def with_as_completed():
        times = []
        for next_done in asyncio.as_completed([model_call(s) for s in (3, 1, 2)]):
            await next_done
            times.append(now())
        return times

    assert simulate(with_gather) == [3]
    assert simulate(with_as_completed) == [1, 2, 3]


@claim("gather-same-twice")
def test_gather_runs_one_coroutine_object_once():
    """The same coroutine object given twice runs once; its result is listed twice."""
    calls = []

    async def agent():
        calls.append("billed")
        return await model_call(1, "reply")

    async def main():
        call = agent()
        return await asyncio.gather(call, call)

    assert simulate(main) == ["reply", "reply"]
    assert calls == ["billed"]


@claim("await-switches")
def test_await_switches_only_when_it_has_to_wait():
    """Two agents, two steps each: a free semaphore or an unbounded queue lets nobody else in."""

    async def order(step):
        log = []

        async def agent(name):
            for _ in range(2):
                log.append(name)
                await step()

        await asyncio.gather(agent("a"), agent("b"))
        return "".join(log)

    assert simulate(order, asyncio.Semaphore(9).acquire) == "aabb"
    assert simulate(order, lambda: asyncio.Queue().put("message")) == "aabb"
    assert simulate(order, lambda: asyncio.sleep(0)) == "abab"


@claim("coroutine-lazy")
def test_coroutine_runs_nothing_until_it_is_awaited():
    """Calling the function makes an object; a forgotten await is a warning, no error."""
    log = []

    async def agent():
        log.append("ran")

    async def main():
        call = agent()
        before = list(log)
        await call
        return before, list(log)

    assert simulate(main) == ([], ["ran"])
    with pytest.warns(RuntimeWarning, match="never awaited"):
        agent()  # made, and dropped at once


@claim("one-at-a-time")
def test_gather_runs_one_agent_at_a_time():
    """20 agents of one loop: at no moment are two of them between two awaits."""
    inside, seen = 0, []

    async def agent():
        nonlocal inside
        for _ in range(50):
            inside += 1
            seen.append(inside)
            inside -= 1
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(*(agent() for _ in range(20)))

    simulate(main)
    assert (len(seen), max(seen)) == (1000, 1)


@claim("two-waits")
def test_gather_overlaps_waits():
    """Two waits of 1 s take 1 s together and 2 s one after the other."""

    async def together():
        await asyncio.gather(model_call(1), model_call(1))
        return now()

    async def in_turn():
        await model_call(1)
        await model_call(1)
        return now()

    assert (simulate(together), simulate(in_turn)) == (1, 2)


@claim("create-task-starts")
def test_create_task_starts_at_the_next_wait():
    """The new task has not begun when create_task returns; it begins when its creator waits."""
    log = []

    async def agent():
        log.append("agent")

    async def main():
        task = asyncio.create_task(agent())
        log.append("after create_task")
        await asyncio.sleep(0)
        log.append("after sleep(0)")
        await task

    simulate(main)
    assert log == ["after create_task", "agent", "after sleep(0)"]


@claim("eager-tasks")
def test_eager_tasks_start_at_once():
    """From 3.12 a task factory can start tasks inside create_task; 3.11 has none."""
    if not hasattr(asyncio, "eager_task_factory"):  # 3.11
        return
    log = []

    async def agent():
        log.append("agent")

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        task = asyncio.create_task(agent())
        log.append("after create_task")
        await task

    asyncio.run(main())
    assert log == ["agent", "after create_task"]


@claim("task-gc")
def test_untracked_task_is_collected_only_if_nothing_will_wake_it():
    """A task that waits on a timer survives without a reference; one that waits on a lone event does not."""

    async def main():
        destroyed = []
        asyncio.get_running_loop().set_exception_handler(lambda _, said: destroyed.append(said["message"]))
        on_timer = weakref.ref(asyncio.create_task(model_call(5)))
        on_event = weakref.ref(asyncio.create_task(asyncio.Event().wait()))
        await asyncio.sleep(1)
        gc.collect()
        return on_timer() is not None, on_event() is not None, destroyed

    assert simulate(main) == (True, False, ["Task was destroyed but it is pending!"])


@claim("silent-failure")
def test_failed_background_task_is_silent_while_it_is_referenced():
    """The loop reports a crash when the task object is collected: at once if dropped, never if kept."""

    async def failing():
        raise ValueError

    async def main(keep):
        reports, kept = [], []
        asyncio.get_running_loop().set_exception_handler(lambda _, said: reports.append(said["message"]))
        task = asyncio.create_task(failing())
        if keep:
            kept.append(task)
        del task
        await asyncio.sleep(5)
        return len(reports)

    assert (simulate(main, False), simulate(main, True)) == (1, 0)


@claim("run-leftovers")
def test_run_cancels_what_is_still_running():
    """A background task of 5 s; main returns after 1 s: the task is cancelled at 1 s."""
    log = []

    async def background():
        try:
            await model_call(5)
        except asyncio.CancelledError:
            log.append(f"cancelled at {now():g}")
            raise

    async def main():
        log.append(asyncio.create_task(background()))
        await model_call(1)

    simulate(main)
    assert log[1:] == ["cancelled at 1"]


@claim("taskgroup-cancels")
def test_TaskGroup_cancels_the_others_after_a_failure():
    """B fails at 2 s: C is cancelled at 2 s, and nothing runs on."""
    log = []

    async def agent(name, seconds):
        try:
            await model_call(seconds)
        except asyncio.CancelledError:
            log.append(f"{name} cancelled at {now():g}")
            raise
        if name == "B":
            raise ValueError(name)
        log.append(f"{name} at {now():g}")

    async def main():
        async with asyncio.TaskGroup() as group:
            for name, seconds in (("A", 1), ("B", 2), ("C", 3)):
                group.create_task(agent(name, seconds))

    with pytest.raises(ExceptionGroup):
        simulate(main)
    assert log == ["A at 1", "C cancelled at 2"]


@claim("taskgroup-except")
def test_TaskGroup_errors_pass_a_plain_except():
    """`except ValueError` does not see an agent's ValueError: it comes inside a group. `except*` does."""

    async def failing():
        raise ValueError

    async def group():
        async with asyncio.TaskGroup() as group:
            group.create_task(failing())

    async def main():
        try:
            try:
                await group()
            except ValueError:
                return "caught by except"
        except* ValueError:
            found = "caught by except*"
        return found

    assert simulate(main) == "caught by except*"


@claim("shield-protects")
def test_shield_keeps_the_work_but_not_the_caller():
    """A shielded agent outlives the timeout of its caller; it does not outlive the program."""

    async def main(stay):
        done = []

        async def agent():
            done.append(await model_call(5, "answer"))

        task = asyncio.create_task(agent())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), 2)
        await asyncio.sleep(stay)
        return done

    assert simulate(main, 9) == ["answer"]
    assert simulate(main, 1) == []


@claim("nondeterministic")
def test_seeded_agents_finish_in_the_same_order_every_time():
    """Six agents with random latencies: one seed gives one order in 20 runs, other seeds other orders."""

    async def main(seed):
        rng, log = random.Random(seed), []

        async def agent(number):
            await model_call(rng.random())
            log.append(number)

        await asyncio.gather(*map(agent, range(6)))
        return tuple(log)

    assert len({simulate(main, 1) for _ in range(20)}) == 1
    assert len({simulate(main, seed) for seed in range(20)}) == 20


@claim("loop-variable")
def test_closures_in_a_loop_share_the_loop_variable():
    """Three agents made by a loop that read its variable later: all three see the last value."""

    async def main(bind):
        agents = []
        for prompt in ("a", "b", "c"):

            async def by_name():
                return prompt  # noqa: B023 - read when it runs, not when it was made

            async def by_argument(own=prompt):
                return own

            agents.append(by_argument() if bind else by_name())
        return await asyncio.gather(*agents)

    assert simulate(main, False) == ["c", "c", "c"]
    assert simulate(main, True) == ["a", "b", "c"]


@claim("await-twice")
def test_coroutine_cannot_be_awaited_twice_but_a_task_can():
    """A retry that awaits the same coroutine object again gets a RuntimeError; a task keeps its result."""

    async def main():
        call = model_call(1, "reply")
        first = await call
        with pytest.raises(RuntimeError, match="already awaited"):
            await call
        task = asyncio.create_task(model_call(1, "reply"))
        return first, await task, await task

    assert simulate(main) == ("reply", "reply", "reply")


@claim("awaiting-in-turn")
def test_await_in_a_loop_is_sequential():
    """Ten calls of 1 s awaited one by one in an async function take 10 s; async alone overlaps nothing."""

    async def in_a_loop():
        for _ in range(10):
            await model_call(1)
        return now()

    async def as_tasks():
        tasks = [asyncio.create_task(model_call(1)) for _ in range(10)]
        for task in tasks:
            await task
        return now()

    assert (simulate(in_a_loop), simulate(as_tasks)) == (10, 1)
