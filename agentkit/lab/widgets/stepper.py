"""The event loop, one step at a time: `Stepper`.

What it holds: `Stepper`, a slider that walks through a run of your own coroutine.
Guarantees: the panel always shows the step of the slider; the `repr` states the same facts, the same in every run.
Strategy: the run is over before the first step is shown (`agentkit.lab.trace`, virtual time), so moving the slider
runs nothing and leaves nothing running. If your coroutine raises, the last step shows the error.
Opened by notebook 02.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import ipywidgets as widgets

from agentkit.base.arguments import whole
from agentkit.lab.loops.task_state import amount
from agentkit.lab.tracer.trace import few, trace
from agentkit.lab.tracer.view import panel

__all__ = ["Stepper"]


class Stepper(widgets.VBox):  # type: ignore[misc]
    """A run of `main(*args)` to step through with a slider.

    >>> import asyncio
    >>> async def agent(seconds):
    ...     await asyncio.sleep(seconds)
    >>> async def team():
    ...     await asyncio.gather(agent(2), agent(1))
    >>> walk = Stepper(team)
    >>> walk.value = 2
    >>> walk
    <Stepper step 2 of 6 at 0 s: agent-1 runs line 2 of agent, sleeps until 2 s; ready: agent-2; timers: agent-1 at 2 s>

    A step is what a task does from the moment the loop takes it from the ready queue to its next `await` that has to
    wait. `.trace` is the whole run, a table. Raises what `trace` raises.
    """

    def __init__(self, main: Callable[..., Awaitable[Any]], *args: Any, seed: int = 0) -> None:
        self.trace = trace(main, *args, seed=seed)
        """The run, as a table."""
        wide = widgets.Layout(width="420px")
        self._slider = widgets.IntSlider(min=1, max=len(self.trace.steps), description="step", layout=wide)
        self._back = widgets.Button(description="◀ back", tooltip="one step back", layout=widgets.Layout(width="90px"))
        self._next = widgets.Button(description="next ▶", tooltip="one step on", layout=widgets.Layout(width="90px"))
        self._panel = widgets.HTML()
        self._back.on_click(lambda _: self._move(-1))
        self._next.on_click(lambda _: self._move(1))
        self._slider.observe(self._changed, names="value")
        super().__init__([widgets.HBox([self._back, self._slider, self._next]), self._panel])
        self._changed(None)

    @property
    def value(self) -> int:
        """Number of the step shown, counted from 1; assign to move without a browser."""
        return int(self._slider.value)

    @value.setter
    def value(self, value: int) -> None:
        self._slider.value = whole("value", value, "it is a step of the run", most=self._slider.max)

    def _move(self, by: int) -> None:
        self._slider.value += by  # the slider keeps the value within its bounds

    def _changed(self, _: object) -> None:
        self._panel.value = panel(self.trace, self.value)
        self._back.disabled, self._next.disabled = self.value == 1, self.value == self._slider.max

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Return the whole repr as text: ipywidgets would cut it after 110 characters."""
        bundle = super()._repr_mimebundle_(**kwargs)
        return bundle | {"text/plain": repr(self)}

    def __repr__(self) -> str:
        step = self.trace.steps[self.value - 1]
        held = f", blocks the loop for {amount(step.blocked)}" if step.blocked else ""
        queues = f"ready: {few(step.ready) or 'nobody'}; timers: {few(step.timers) or 'none'}"
        where = f"step {self.value} of {self._slider.max} at {amount(step.started)}"
        return f"<Stepper {where}: {self.trace.ran(step)}{held}, {step.then}; {queues}>"
