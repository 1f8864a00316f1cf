'''Coursework: exercises, checks, hints and quizzes, and the commands that make, test and grade notebooks.

`exercise`: the records an author writes. `registry`: finds the lesson files in `lessons/`. `checks`: `check` and
`hint`. `questions`: `quiz`. `cells`: reads, writes and transforms notebooks. `execute`: runs one in a fresh kernel.
`make`, `mutants`, `style` and `grade`: the commands that `__main__` runs. `rules`: the style rules. `submission`,
`sandbox`, `bounded_kernel`: what `grade` takes from a submission, and the limited kernel that runs it.

In a notebook the learner uses three names::

    from agentkit.lab.course import check, hint, quiz
    check("ex-limit", limited)     # one line per case: ok, or todo with what is wrong; never raises
    hint("ex-limit")               # a nudge; again: the idea; again: nearly the answer
    quiz("07")                     # five questions to click, or as text: quiz("07", answers="bacda")

**Add an exercise** in two places. First, in `notebooks/solutions/07_limits_and_rates.ipynb`, add a code cell with the
tags `exercise` and `ex-limit`. Put the answer between two marks; the optional `# stub:` lines are the learner's
starting point, which is `...` otherwise. Put the check in a cell below it::

    async def limited(jobs, k):
        """Run all jobs, at most k at a time; return their results in order."""
        ### BEGIN SOLUTION
        # stub: return await asyncio.gather(*(job() for job in jobs))
        gate = asyncio.Semaphore(k)

        async def one(job):
            async with gate:
                return await job()

        return await asyncio.gather(*map(one, jobs))
        ### END SOLUTION

    check("ex-limit", limited)

The exercise may use what the cells above it define (imports, functions, classes, constants) but not values they
compute; that keeps `mutants` and `grade` fast. A cell with the tag `hidden` is left out of the learner's notebook: put
`check("ex-limit", limited, hidden=True)` there. `make` reports what is missing.

Second, in `lessons/lesson_07.py`, write the cases and the wrong answers they must reject::

    async def at_most_k(limited):
        """At most k jobs are in flight."""            # the learner reads this sentence
        flight = Flight()                              # a helper you wrote
        await limited([flight.job] * 9, 3)             # async cases run in virtual time
        assert flight.peak <= 3, f"{flight.peak} were in flight with k = 3"

    async def unlimited(jobs, k):                      # a wrong answer is an ordinary function,
        return await asyncio.gather(*(job() for job in jobs))

    EXERCISES = {
        "ex-limit": Exercise(
            cases=[at_most_k, in_order],
            hidden=[errors_come_out],
            wrong=[unlimited, swap("Semaphore(k)", "Semaphore(1)"), swap("map(one, jobs)", "map(one, jobs[:-1])")],
            hints=("What counts how many are inside?", "A semaphore: enter it in each job.", "async with gate: ..."),
        )
    }                                                  # swap: the solution with a piece of code replaced
    QUIZ = [Question("…?", right="…", because="…", wrong={"…": "the reason against it", "…": "…"}), ...]

`@case(within=60, seconds=10)` above a case sets its time limits, in virtual and in real seconds. A wrong answer can
also be a string, the source of the whole cell, or a plain value if the exercise asks for a value, which is checked the
same way: `check("ex-total", total)`. Each case must reject at least one wrong answer; otherwise it isn't known to work.

Then, on the command line (see `--help`)::

    python -m agentkit.lab.course make --execute-solutions 07   # run the solution, make and run the learner's notebook
    python -m agentkit.lab.course mutants 07   # unsolved: todo; solution: ok; every wrong answer: rejected
    python -m agentkit.lab.course check        # check the style of all notebooks, without running them
    python -m agentkit.lab.course grade class/*.ipynb           # a table, and a JSON file per submission

A notebook without a number, such as `notebooks/decision_guide.ipynb`, is a guide, a reference page. It has no exercises
and no solution; `make` runs it in place, and the README links to it. A solution notebook links to it as
`../decision_guide.ipynb`.

To add your own lessons without changing this package, put `lesson_NN.py` files in a folder, set the environment
variable AGENTKIT_LESSONS to it, and pass your notebooks to the commands with `--notebooks FOLDER`.
'''

from __future__ import annotations

from agentkit.lab.course.checks import check, hint
from agentkit.lab.course.exercise import Exercise, Question, case, swap
from agentkit.lab.course.questions import Quiz, quiz

__all__ = ["Exercise", "Question", "Quiz", "case", "check", "hint", "quiz", "swap"]
