"""You are the scheduler: `Scheduler`.

What it holds: `Scheduler`, a button for each agent of a scenario, undo, reset, and a goal to reach.
Guarantees: the panel always shows the result of the choices so far; the same choices give the same panel.
Strategy: the choices, a string like `ABAB`, are the only state. Each change is a run from the start
(`agentkit.lab.play`, virtual time) that is over before the panel shows it: nothing is left running, and undo is exact.
Opened by notebook 04.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import partial
from typing import Any

import ipywidgets as widgets
import traitlets

from agentkit.base.arguments import choice, text
from agentkit.lab.explorer.lost_update import lost_update
from agentkit.lab.explorer.play import Play, play, where
from agentkit.lab.tracer.view import Place, code
from agentkit.plots.style import CALLING, TROUBLE

__all__ = ["GOALS", "Scheduler"]

GOALS: dict[str, Callable[[Play], bool]] = {
    "break the invariant": lambda now: bool(now.broke),
    "lose an update": lambda now: bool(now.outcome and lost_update(now.table)),
    "deadlock": lambda now: now.stuck,
    "keep the invariant": lambda now: now.broke is False,
}
"""The goals, and whether a play has reached them."""


class Scheduler(widgets.VBox):  # type: ignore[misc]
    """The agents of `scenario`, each with a button that runs its next step.

    >>> import asyncio
    >>> async def two_agents():
    ...     counter = 0
    ...     async def agent():
    ...         nonlocal counter
    ...         read = counter
    ...         await asyncio.sleep(0)
    ...         counter = read + 1
    ...     await asyncio.gather(agent(), agent())
    ...     return counter
    >>> hands = Scheduler(two_agents, lambda counter: counter == 2, goal="lose an update")
    >>> hands.step("A")
    >>> hands
    <Scheduler 'A': 1 step; A or B can go next; A ready at line 6, B ready to begin at line 3; goal: lose an update>
    >>> hands.value = "ABBA"
    >>> hands.reached
    True

    `scenario` and `invariant` are those of `explore`; a step runs to the next `await` that has to wait, as in `play`.
    Goals: `break the invariant`, `lose an update`, `deadlock`, `keep the invariant`.
    `.play` is the state after the choices.
    """

    value = traitlets.Unicode("", help="The choices so far: the agents' letters, in the order of their steps.")

    def __init__(
        self,
        scenario: Callable[[], Any],
        invariant: Callable[[Any], Any] | None = None,
        *,
        goal: str = "break the invariant",
        choices: str = "",
    ) -> None:
        choice("goal", goal, GOALS)
        text("choices", choices, "such as 'ABAB'")
        self.scenario, self.invariant, self.goal = scenario, invariant, goal
        self.play: Play = play(scenario, "", invariant)
        """The state after the choices so far."""
        names = [each.task for each in self.play.states]
        if len(names) < 2:
            raise ValueError(f"scenario must make 2 agents or more, it makes {len(names)}; one has no order to choose")
        self._steps = {name: self._button(f"step {name}", partial(self._press, name)) for name in names}
        self._undo = self._button("undo", lambda _: self.undo())
        self._reset = self._button("reset", lambda _: self.reset())
        self._panel = widgets.HTML()
        super().__init__([widgets.HBox([*self._steps.values(), self._undo, self._reset]), self._panel])
        self._show()
        self.value = choices

    @staticmethod
    def _button(name: str, press: Callable[[Any], None]) -> Any:
        button = widgets.Button(description=name, layout=widgets.Layout(width="90px"))
        button.on_click(press)
        return button

    def _press(self, agent: str, _: Any) -> None:
        self.step(agent)

    @property
    def reached(self) -> bool:
        """Whether the choices so far reach the goal."""
        return GOALS[self.goal](self.play)

    def step(self, agent: str) -> None:
        """Run the next step of `agent`; ValueError if it cannot run, naming those that can."""
        self.value += text("agent", agent, "such as 'A'", empty=False)

    def undo(self) -> None:
        """Undo the last step."""
        self.value = self.value[:-1]

    def reset(self) -> None:
        """Undo all steps."""
        self.value = ""

    @traitlets.validate("value")
    def _play_it(self, proposal: Any) -> str:
        """Play the choices; if they are not possible, the value stays as it was."""
        choices = str(proposal["value"]).replace(" ", "")
        self.play = play(self.scenario, choices, self.invariant)
        return choices

    @traitlets.observe("value")
    def _changed(self, _: Any) -> None:
        self._show()

    def _show(self) -> None:
        now = self.play
        for name, button in self._steps.items():
            button.disabled = name not in now.can_run
        self._undo.disabled = self._reset.disabled = not now.choices
        here: dict[Place, list[str]] = {}
        for each in now.states:
            if each.line is not None:
                here.setdefault((each.line.file, each.line.number), []).append(each.task)
        table = now.table._repr_html_() if now.table.steps else ""
        printed = f"<pre>{html.escape(now.printed)}</pre>" if now.printed else ""
        agents = "<br>".join(html.escape(f"{each.task} {where(each)}") for each in now.states)
        self._panel.value = (
            f"<div style='line-height:1.45'>{self._headline()}<div style='display:flex;flex-wrap:wrap;gap:8px 28px'>"
            f"<div>{code(now.source, self._ran(), here)}<div style='margin-top:6px'>{agents}</div>"
            f"{_expanded(now)}</div>"
            f"<div>{table}{printed}</div></div></div>"
        )

    def _ran(self) -> list[Place]:
        """Return the lines of the last step, if all code is in one file: the table does not hold file names."""
        steps = self.play.table.steps
        if len(self.play.source) != 1 or not steps:
            return []
        [file] = self.play.source
        return [(file, each.line) for each in steps if each.number == steps[-1].number]

    def _headline(self) -> str:
        color = CALLING if self.reached else TROUBLE if self.play.outcome else "currentColor"
        sign = "✓ reached" if self.reached else "✗ not this way: undo, or reset" if self.play.outcome else "to reach"
        choices = f"<code>{self.value or '–'}</code>"
        return (
            f"<div style='margin:4px 0 8px'>goal: <b>{html.escape(self.goal)}</b> "
            f"<span style='border-left:4px solid {color};padding-left:6px'>{sign}</span><br>"
            f"{choices} <b>{html.escape(self.play.verdict)}</b></div>"
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Return the whole repr as text: ipywidgets would cut it after 110 characters."""
        return super()._repr_mimebundle_(**kwargs) | {"text/plain": repr(self)}

    def __repr__(self) -> str:
        agents = "" if self.play.outcome else "; " + ", ".join(f"{s.task} {where(s)}" for s in self.play.states)
        reached = "goal reached" if self.reached else "goal missed" if self.play.outcome else "goal"
        return f"<Scheduler {self.value!r}: {self.play.verdict}{agents}; {reached}: {self.goal}>"


def _expanded(now: Play) -> str:
    """Return the parts of lines that read and write, folded."""
    said = ""
    for line, parts in now.parts.items():
        why = "others can come in at the wait" if "wait" in parts else "no await in between: one step, all or nothing"
        said += f"<div>line {line}: {html.escape(' · '.join(parts))} ({why})</div>"
    return f"<details><summary>lines that read and write in one</summary>{said}</details>" if said else ""
