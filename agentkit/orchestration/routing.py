"""A plan as data: which specialist works on what, checked before any of them starts.

What it holds: `briefs_of`, which reads what a router returned, and `RoutingError`; `by_name`, which names the
specialists; `routed` and `joined_by`, which call a lead that is a function or an agent.
Guarantees: an error says what is wrong and lists the specialists; a plan that passes can be executed.
Strategy: a plan is a mapping or a list of pairs; a string is read as JSON, for routers that are models.
Opened by the decision guide.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from agentkit.agent import Reply
from agentkit.base.arguments import items, refusal, shown
from agentkit.orchestration.turns import ask

__all__ = ["RoutingError", "briefs_of", "by_name", "joined_by", "routed"]


class RoutingError(ValueError):
    """A router's plan cannot be executed. Remedy: correct it, or retry with `RetryPolicy(on=RoutingError)`."""


def briefs_of(plan: Any, specialists: Mapping[str, Any], number: int = 1) -> dict[str, str]:
    """Check the plan of round `number` and return it; from round 2 it may be empty.

    >>> briefs_of('Here it is: {"lawyer": "Is it allowed?"}', {"lawyer": None})
    {'lawyer': 'Is it allowed?'}
    """
    known = ", ".join(map(repr, specialists))
    pairs = _pairs(plan, known)
    if not pairs and number == 1:
        raise RoutingError(f"the router named nobody, got {plan!r:.120}; name at least one of {known}")
    briefs: dict[str, str] = {}
    for name, brief in pairs:
        if name not in specialists:
            raise RoutingError(f"the router named a stranger, {name!r}; the specialists are {known}")
        if name in briefs:
            raise RoutingError(f"the router named {name!r} twice; write one brief for each specialist")
        if not isinstance(brief, str) or not brief.strip():
            raise RoutingError(f"the brief for {name!r} must be a text that is not empty, got {brief!r:.60}")
        briefs[name] = brief
    return briefs


async def routed(router: Any, name: str, question: Any, state: Any, specialists: Mapping[str, Any]) -> Any:
    """Return the router's plan, unchecked; an agent gets a list of the specialists and is asked for JSON."""
    if hasattr(router, "process"):
        known = "\n".join(f"- {who}: {getattr(agent, 'instructions', '')}" for who, agent in specialists.items())
        prompt = f"{question}\n\nSpecialists:\n{known}\n\nAnswer with a JSON object: name to brief."
        return await ask(router, name, prompt, state)
    plan = router(question, state)
    return await plan if inspect.isawaitable(plan) else plan


async def joined_by(synthesizer: Any, name: str, question: Any, answers: dict[str, Any], state: Any) -> Any:
    """Return the synthesizer's answer; without a synthesizer, one line per specialist."""
    listed = "\n".join(f"{who}: {answer}" for who, answer in answers.items())
    if synthesizer is None:
        return listed
    if hasattr(synthesizer, "process"):
        return await ask(synthesizer, name, f"{question}\n\n{listed}", state)
    joined = synthesizer(question, answers)
    return await joined if inspect.isawaitable(joined) else joined


def by_name(specialists: Any, lead: str) -> dict[str, Any]:
    """Return the specialists by name; the names differ from each other and from `lead`."""
    if isinstance(specialists, Mapping):
        found = dict(specialists)
    else:
        listed = items("specialists", specialists, "give agents, or {name: agent}")
        names = [getattr(agent, "name", None) for agent in listed]
        if None in names:
            place, remedy = names.index(None), "derive it from agentkit.Agent, or hand in {name: agent}"
            raise refusal(f"specialists[{place}]", "must have a name", listed[place], remedy, TypeError)
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"specialists must have different names, got {', '.join(twice)} more than once")
        found = dict(zip(names, listed, strict=True))
    for name, agent in found.items():
        if not callable(getattr(agent, "process", agent)):
            rule = "must be an agent or a function of the brief"
            raise refusal(f"specialists[{shown(name)}]", rule, agent, kind=TypeError)
    if not found or lead in found:
        rule = f"none of the name of the lead, {lead!r}" if found else "at least one"
        raise ValueError(f"specialists must be {rule}, got {', '.join(found) or 'nobody'}; give name= or rename it")
    return found


def _pairs(plan: Any, known: str) -> list[tuple[Any, Any]]:
    """Return a plan as pairs; a string is read as JSON, also inside a code fence."""
    said = plan
    if isinstance(plan, Reply):
        plan = plan.text
    if isinstance(plan, str):
        try:
            plan = json.loads(plan[plan.index("{") : plan.rindex("}") + 1] if "{" in plan else plan)
        except ValueError:
            raise RoutingError(f"the router's answer is not JSON: {said!r:.120}; it must name {known}") from None
    if plan is None:
        return []
    pairs = list(plan.items()) if isinstance(plan, Mapping) else plan
    if not isinstance(pairs, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        raise RoutingError(f"the router must return {{name: brief}} or pairs (name, brief), got {said!r:.120}")
    return [(name, brief) for name, brief in pairs]
