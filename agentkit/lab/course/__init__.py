'''Coursework that proves itself: exercises, checks, hints, quizzes, and the commands that make and grade notebooks.

In a notebook the learner uses three names::

    from agentkit.lab.course import check, hint, quiz
    check("ex-limit", limited)     # one line per case: ok, or todo with what was found; never raises
    hint("ex-limit")               # a nudge; again: the idea; again: nearly the answer
    quiz("07")                     # five questions to click; quiz("07", answers="bacda") in text

**Add an exercise** in two places. First, in `notebooks/solutions/07_limits_and_rates.ipynb`, a code cell with the tags
`exercise` and `ex-limit`, the answer between two marks (the optional `# stub:` lines are what the learner starts from;
without them it is `...`), and in a cell below it the check::

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

The exercise may use what the cells above it define (imports, functions, classes, constants), not what they computed:
that keeps proofs and grading quick. A cell with the tag `hidden` stays out of the learner's notebook: put
`check("ex-limit", limited, hidden=True)` there. `make` says what is missing.

Second, in `lessons/lesson_07.py`, what must hold and what must not pass::

    async def at_most_k(limited):
        """At most k jobs are in flight."""            # these words are what the learner reads
        flight = Flight()                              # any helper of yours
        await limited([flight.job] * 9, 3)             # async cases run on the virtual clock, in no time
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
    }                                                  # swap: the solution's text with a piece changed
    QUIZ = [Question("…?", right="…", because="…", wrong={"…": "the reason against it", "…": "…"}), ...]

`@case(within=60, seconds=10)` above a case changes its bounds: virtual seconds, real seconds. A wrong answer may
also be a string, the text of the whole cell, and any value if the exercise asks for a value; such an answer is
checked the same way: `check("ex-total", total)`. Each case must reject one of the wrong answers, else it is not
known to work.

Then, on the command line (`--help` tells more)::

    python -m agentkit.lab.course make --execute-solutions 07   # run the solution, make and run the learner's notebook
    python -m agentkit.lab.course mutants 07   # unsolved: todo; solution: ok; every wrong answer: rejected
    python -m agentkit.lab.course check        # the style of all notebooks, without running them
    python -m agentkit.lab.course grade class/*.ipynb           # a table, and a JSON file per submission

A notebook without a number, such as `notebooks/decision_guide.ipynb`, is a guide: a page to look things up in. It has
neither exercises nor a solution; `make` runs it where it lies, and the README links it. From a solution notebook it is
`../decision_guide.ipynb`.

Lessons of your own need no change here: put `lesson_NN.py` in a folder, name it in the variable AGENTKIT_LESSONS, and
give the commands your notebooks with `--notebooks FOLDER`.
'''

from __future__ import annotations

from agentkit.lab.course.checks import check, hint
from agentkit.lab.course.exercise import Exercise, Question, case, swap
from agentkit.lab.course.questions import Quiz, quiz

__all__ = ["Exercise", "Question", "Quiz", "case", "check", "hint", "quiz", "swap"]
