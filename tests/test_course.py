"""What a learner and a teacher call: `check`, `hint`, `quiz`, and the records of a lesson file."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from pathlib import Path

import pytest

from agentkit.lab import course
from agentkit.lab.course import Exercise, Question, Quiz, case, check, hint, quiz, swap
from agentkit.lab.course.checks import NOT_YET, run_cases
from agentkit.lab.course.registry import exercise, lesson, lessons

HINTS = ("a", "b", "c")


@pytest.fixture(autouse=True)
def _sample_lesson(monkeypatch):
    monkeypatch.setenv("AGENTKIT_LESSONS", str(Path(__file__).parent / "course_samples"))


def holds(answer):
    """It holds."""


def task(*cases, hidden=(holds,)):
    """An exercise of these cases."""
    return Exercise(cases=cases or [holds], hidden=hidden, wrong=[1, 2, 3], hints=HINTS)


def message(function, answer=1):
    """What a case says about an answer."""
    (verdict,) = run_cases("ex-t", task(function), answer, hidden=False)
    assert not verdict.ok
    return verdict.message


async def right(jobs, k):
    """A right answer to ex-limit, in another way than the solution."""
    results, waiting = {}, list(enumerate(jobs))

    async def worker():
        while waiting:
            index, job = waiting.pop(0)
            results[index] = await job()

    await asyncio.gather(*(worker() for _ in range(k)))
    return [results[index] for index in range(len(jobs))]


# check


def test_check_right_answer_prints_one_ok_line_per_case(capsys):
    """Each case is a line, in the words of its docstring."""
    check("ex-limit", right)
    assert capsys.readouterr().out == (
        "ok    At most k jobs are in flight\n"
        "ok    Three jobs with k = 3 take as long as one\n"
        "ok    The results come in the order of the jobs\n"
    )


def test_check_wrong_answer_says_what_was_found(capsys):
    """A todo line holds the case and the finding."""

    async def unlimited(jobs, k):
        return await asyncio.gather(*(job() for job in jobs))

    check("ex-limit", unlimited)
    assert capsys.readouterr().out.startswith("todo  At most k jobs are in flight: 9 were in flight with k = 3\nok ")


def test_check_hidden_runs_only_the_hidden_cases(capsys):
    """The solution notebook shows them, the learner's does not."""
    check("ex-limit", right, hidden=True)
    assert capsys.readouterr().out == "ok    An error of a job comes out of the call\n"


def test_check_works_while_a_loop_is_running(capsys):
    """A notebook cell runs on a loop; check needs no await there."""

    async def cell():
        check("ex-limit", right)

    asyncio.run(cell())
    assert capsys.readouterr().out.count("ok ") == 3


def test_check_unknown_exercise_names_the_nearest():
    """A slip in the name is the notebook's mistake, and is named as such."""
    with pytest.raises(ValueError, match="there is no exercise 'ex-limt'; did you mean 'ex-limit'"):
        check("ex-limt", right)


@pytest.mark.parametrize("name", ["...", "None", "NotImplemented", "stub", "async stub", "documented stub"])
def test_check_blank_answer_is_not_yet(name):
    """Whatever the stub is, no case runs and each says so."""

    def stub(a, b=1): ...

    async def async_stub(*args, **kwargs): ...

    async def documented(jobs, k):
        """With a docstring."""
        # your answer here
        ...  # noqa: PIE790 - as in the notebook

    blanks = {"...": ..., "None": None, "NotImplemented": NotImplemented}
    blanks |= {"stub": stub, "async stub": async_stub, "documented stub": documented}
    verdicts = run_cases("ex-limit", exercise("ex-limit"), blanks[name])
    assert [verdict.message for verdict in verdicts] == [NOT_YET] * 4


def test_check_function_that_returns_none_is_not_a_blank():
    """A wrong answer is told what is wrong with it."""

    def answer(n):
        return print(end="")

    def gives_two(answer):
        """It gives 2."""
        assert answer(1) == 2, f"got {answer(1)}"

    assert message(gives_two, answer).startswith("got None")


def test_check_not_implemented_error_is_not_yet():
    """A stub that raises is a blank too."""

    def raises(answer):
        """It is there."""
        raise NotImplementedError

    assert message(raises) == NOT_YET


def test_check_virtual_time_bound_is_the_case_s_own():
    """An answer that never finishes waiting is stopped on the virtual clock, at once."""

    @case(within=60)
    async def done(answer):
        """It is done."""
        while True:  # noqa: ASYNC110 - the mistake under test
            await asyncio.sleep(1)

    assert message(done) == "it was not done after 60 virtual seconds"


def test_check_timeout_of_the_answer_is_not_the_bound():
    """A TimeoutError of the answer's own is reported as raised."""

    async def done(answer):
        """It is done."""
        async with asyncio.timeout(1):
            await asyncio.sleep(2)

    assert message(done) == "raised TimeoutError"


@pytest.mark.parametrize("kind", ["busy", "never awaits", "turns on the spot", "catches everything"])
def test_check_endless_loop_comes_back(kind):
    """A loop that never ends is stopped in its thread, and the thread is gone."""

    @case(seconds=0.1)
    def busy(answer):
        """It ends."""
        while True:
            pass

    @case(seconds=0.1)
    async def never_awaits(answer):
        """It ends."""
        while True:
            pass

    @case(seconds=0.1)
    async def turns(answer):
        """It ends."""

        async def other():
            while True:  # noqa: ASYNC110 - the mistake under test
                await asyncio.sleep(0)

        await asyncio.gather(other(), other())

    @case(seconds=0.1)
    def catches(answer):
        """It ends."""
        while True:
            try:
                while True:
                    pass
            except Exception:
                continue

    kinds = {"busy": busy, "never awaits": never_awaits, "turns on the spot": turns, "catches everything": catches}
    assert message(kinds[kind]).startswith("it did not end within 0.1 s of real time")
    assert not [thread for thread in threading.enumerate() if thread.name == "agentkit-case"]


def test_check_after_an_endless_case_the_rest_is_not_tried():
    """The same loop is not waited for once per case."""

    @case(seconds=0.1)
    def loops(answer):
        """It ends."""
        while True:
            pass

    first, second, third = run_cases("ex-t", task(loops, holds), 1)
    assert not first.ok
    assert {second.message, third.message} == {"not tried, since a case before it did not end"}


def test_check_deadlock_names_the_line():
    """Waiting for what can never come is an answer in words, not a hang."""

    async def waits(answer):
        """It ends."""
        await asyncio.Event().wait()

    text = message(waits)
    assert text.startswith("every task waits for something that can never come: task-0 in waits, line ")
    assert text.endswith("await asyncio.Event().wait()")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SystemExit(1), "the answer called sys.exit; return a value instead"),
        (MemoryError(), "it asked for more memory than is allowed"),
        (AssertionError(), "does not hold yet"),
        (AssertionError("two\n  lines"), "two; lines"),
        (KeyError("k"), "raised KeyError: 'k'"),
        (asyncio.CancelledError(), "raised CancelledError"),
        (KeyboardInterrupt(), "raised KeyboardInterrupt"),
        (AssertionError("got <function f at 0x7f00aa>"), "got <function f>"),
        (AssertionError("x" * 1000), "x" * 299 + "…"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_check_never_raises(error, words):
    """Whatever an answer raises becomes one line, the same on every machine."""

    def raises(answer):
        """It is quiet."""
        raise error

    assert message(raises) == words


def test_check_error_without_a_readable_text_is_a_line_too():
    """An exception whose text raises does not break the check."""

    class Odd(Exception):
        def __str__(self):
            raise RuntimeError

    def raises(answer):
        """It is quiet."""
        raise Odd

    assert message(raises) == "raised Odd"


def test_check_sys_exit_in_an_async_answer_is_a_line():
    """SystemExit passes through the event loop and still ends at the check."""

    async def leaves(answer):
        """It stays."""
        sys.exit()

    assert message(leaves) == "the answer called sys.exit; return a value instead"


def test_check_keeps_the_afterthoughts_of_asyncio_out(caplog, recwarn):
    """Coroutines never awaited and errors never read belong to the wrong answer, not to the cell's output."""

    async def broken():
        raise ValueError

    async def forgets(answer):
        """It awaits."""
        broken()
        asyncio.create_task(broken())  # noqa: RUF006 - the mistake under test
        await asyncio.sleep(1)
        raise AssertionError("no")

    assert message(forgets) == "no"
    assert not caplog.records
    assert not recwarn.list


def test_check_blocking_call_is_left_behind():
    """A thread stuck in a blocking call cannot be stopped; check comes back without it."""
    done = threading.Event()

    @case(seconds=0.05)
    def blocks(answer):
        """It ends."""
        done.wait()

    assert message(blocks).startswith("it did not end within 0.05 s")
    done.set()
    for thread in [thread for thread in threading.enumerate() if thread.name == "agentkit-case"]:
        thread.join()


# hint


def test_hint_grows_stronger_with_each_call(capsys):
    """Three strengths in turn, then the third again."""
    course.checks._shown.clear()
    for _ in range(4):
        hint("ex-limit")
    lines = capsys.readouterr().out.splitlines()
    assert [line[:9] for line in lines] == ["hint 1 of", "hint 2 of", "hint 3 of", "hint 3 of"]
    assert lines[0] == "hint 1 of 3: What counts how many are inside?"


def test_hint_strength_can_be_asked_for(capsys):
    """A number gives that hint, and does not move the turn."""
    course.checks._shown.clear()
    hint("ex-limit", 2)
    hint("ex-limit")
    assert [line[5] for line in capsys.readouterr().out.splitlines()] == ["2", "1"]


def test_hint_strength_out_of_range_is_refused():
    """There are three."""
    with pytest.raises(ValueError, match="strength must be from 1 to 3, got 4"):
        hint("ex-limit", 4)


# quiz


def test_quiz_text_is_its_repr_and_has_all_choices():
    """Without widgets the questions are still there."""
    text = repr(quiz("90"))
    assert text.splitlines()[0] == "1. Three waits of 2, 3 and 5 s in one gather take"
    assert len(re.findall(r"^   [abc]\) ", text, re.M)) == 6


def test_quiz_answers_print_a_reason_for_every_letter(capsys):
    """Right or wrong, each choice has a reason, and the right ones are counted."""
    questions = lesson("90").quiz
    assert quiz("90", answers=questions[0].letter + "-") is None
    assert capsys.readouterr().out == (
        f"1. {questions[0].letter} is right: they wait together, and the longest ends last\n1 of 2 right\n"
    )
    for letter in "abc":
        quiz("90", letter + letter)
        assert len(re.findall(r"^\d\. . is (?:not )?right: \w+", capsys.readouterr().out, re.M)) == 2


def test_quiz_widget_works_without_a_browser():
    """Choosing a button changes `value` and shows the reason; setting `value` chooses the buttons."""
    questions = quiz("90")
    _, button, reason = questions.widget.children[:3]
    button.index = 0
    assert questions.value == "a-"
    assert reason.value == questions.reason(1)
    questions.value = "-b"
    assert button.index is None
    assert reason.value == ""
    assert questions.widget.children[4].index == 1
    assert questions._repr_mimebundle_()["text/plain"] == repr(questions)


@pytest.mark.parametrize(("letters", "words"), [("a", "2 letters"), ("az", "question 2 has the choices a, b, c")])
def test_quiz_bad_letters_are_refused(letters, words):
    """The error says how many letters, or which."""
    with pytest.raises(ValueError, match=words):
        quiz("90", letters)


def test_Question_order_of_choices_is_fixed_and_mixed():
    """The right choice is not always the first, and its letter is the same on every run."""
    letters = [Question(f"question {n}", "yes", "so", {"no": "not", "maybe": "no"}).letter for n in range(30)]
    assert set(letters) == {"a", "b", "c"}
    assert letters[:6] == [
        Question(f"question {n}", "yes", "so", {"no": "not", "maybe": "no"}).letter for n in range(6)
    ]


def test_Question_without_a_reason_is_refused():
    """A wrong choice without its reason teaches nothing."""
    with pytest.raises(ValueError, match="gives no reason"):
        Question("q", right="a", because="x", wrong={"b": " "})


def test_Quiz_right_counts():
    """`right` is the number of right letters."""
    questions = Quiz([Question("q", "a", "x", {"b": "y"})])
    questions.value = questions.questions[0].letter.upper()
    assert questions.right == 1


# lesson files


def test_Exercise_case_without_words_is_refused():
    """A case must say what must hold."""

    def silent(answer):
        pass

    with pytest.raises(ValueError, match="case silent has no docstring"):
        task(silent)


def test_Exercise_needs_three_hints_and_a_case():
    """The record is checked when it is made."""
    with pytest.raises(ValueError, match="three texts"):
        Exercise(cases=[holds], hidden=[], wrong=[], hints=("a", "b"))
    with pytest.raises(ValueError, match="at least one function"):
        Exercise(cases=[], hidden=[], wrong=[], hints=HINTS)


def test_swap_of_a_text_that_is_not_there_is_refused():
    """A mutant that changes nothing would prove nothing."""
    with pytest.raises(ValueError, match="holds no such text"):
        swap("Semaphore(3)", "Semaphore(4)").apply("gate = Semaphore(k)")


def test_lessons_two_exercises_of_one_name_are_refused(tmp_path, monkeypatch):
    """Names are unique, since a notebook asks by name alone."""
    source = (Path(__file__).parent / "course_samples" / "lesson_90.py").read_text(encoding="utf-8")
    for number in ("90", "91"):
        (tmp_path / f"lesson_{number}.py").write_text(source, encoding="utf-8")
    monkeypatch.setenv("AGENTKIT_LESSONS", str(tmp_path))
    with pytest.raises(ValueError, match="'ex-limit' is in lesson 90 and 91"):
        lessons()


def test_lesson_without_a_file_names_those_there_are():
    """The error lists the numbers."""
    with pytest.raises(ValueError, match=r"no lesson file for '77'; lesson files exist for: .*90"):
        lesson("77")


def test_check_takes_no_wall_time_for_virtual_waiting():
    """An hour of virtual waiting does not wait."""

    async def hour(answer):
        """It is quick."""
        await asyncio.sleep(3000)
        assert asyncio.get_running_loop().time() == 3000
        raise AssertionError(f"cpu {time.process_time() - began < 60}")

    began = time.process_time()
    assert message(hour) == "cpu True"
