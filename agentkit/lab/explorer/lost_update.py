"""Whether a run lost an update, and how, according to the table of its lines.

What it holds: `lost_update`.
Guarantee: it reports only what the table shows: a write of a value that was read before another task's write.
Strategy: for each write, find the previous write if another task made it, and the last line before that one in which
the writer read the name, if it has not read it again since. Used by `agentkit.lab.explorer.play`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from agentkit.lab.loops.interleaving import Interleaving, Step

__all__ = ["lost_update"]

_ASSIGNMENT = re.compile(r"(?<![-+*/%|&^<>!=:])=(?!=)")  # but not +=, == or :=


def lost_update(table: Interleaving) -> str:
    """Return which task overwrote which write, and when it had read the value; an empty string if no update was lost.

    >>> def step(number, task, source, before, after):
    ...     return Step(number, task, 1, source, True, {"n": before}, {"n": after})
    >>> lost_update(Interleaving((step(1, "A", "old = n", "0", "0"), step(2, "B", "n += 1", "0", "1"),
    ...                           step(3, "A", "n = old + 1", "1", "1")), ("n",), "1"))
    'A wrote n in step 3 from what it had read in step 1, so what B wrote in step 2 is lost'
    """
    for name in table.shared:
        writes = [i for i, step in enumerate(table.steps) if step.touches(name)]
        for first, second in itertools.pairwise(writes):
            over, lost = table.steps[second], table.steps[first]
            read = _read_before(table.steps, name, first, second) if over.task != lost.task else None
            if read is not None:
                return (
                    f"{over.task} wrote {name} in step {over.number} from what it had read in step {read.number}, "
                    f"so what {lost.task} wrote in step {lost.number} is lost"
                )
    return ""


def _read_before(steps: Sequence[Step], name: str, first: int, second: int) -> Step | None:
    """Return the line before `first` in which the writer of `second` last read `name`; None if it has done so since."""
    writer = steps[second].task
    mine = [(i, step) for i, step in enumerate(steps[: second + 1]) if step.task == writer]
    begun = [step for i, step in mine if i < first and not step.ended and step.line == steps[second].line]
    since = [i for i, step in mine if i > first and _reads(step.source, name)]
    if since and not (begun and since == [second]):  # a line that resumed had read before it waited
        return None
    return next((step for i, step in reversed(mine) if i < first and _reads(step.source, name)), None)


def _reads(source: str, name: str) -> bool:
    """Whether a line uses a name other than as the target of an assignment."""
    value = _ASSIGNMENT.split(source, maxsplit=1)[-1]
    return re.search(rf"(?<![\w.]){re.escape(name)}\b", value) is not None
