"""What the built-in provider answers: no model, just fixed rules whose answers are useful for teaching.

What it holds: `teaching_answer`, the provider's default `answer=`.
Guarantee: a function of the request alone; no randomness, no clock.
Strategy: three rules, tried in order. Asked to choose one of several labels, it picks the one with the most keywords
in the text: right for most of the course's documents, wrong for a few, so there are mistakes to find. Asked for a
summary, it returns the first sentence. Anything else it echoes.
"""

from __future__ import annotations

import re

from agentkit.lab.provider.request import Request

__all__ = ["first_sentence", "pick_label", "teaching_answer"]

KEYWORDS = {
    "finance": "€ cost costs paid pay payment invoice income spending price quarter month year estimate rate per",
    "incident": "alarm alarms on-call paged fired outage failed errors cause restart rolled gateway call calls root",
    "meeting": "ines halima yuki tomas marek dorota discussed present agreed decided asked review action chair minutes",
    "product": "version you your now can switched shows opens keeps marks folders setting new button choose",
    "research": "effect study measured average samples compared raised lowered than weeks we found trial groups",
    "support": "i my me please help cannot wrong says account thank hello morning tell do whether",
}
"""Keywords of each label of `data/documents.csv`."""

_CHOOSING = re.compile(r"\b(?:one of|labels?|categor(?:y|ies)|classes)\b[^:\n]*:\s*([^.\n]+)", re.IGNORECASE)


def teaching_answer(request: Request) -> str:
    """Answer a request: a label, a summary or an echo."""
    instructions, prompt = request.instructions, request.prompt
    asked = f"{instructions}\n{prompt}".lower()
    if any(word in asked for word in ("classif", "label", "categor", "one of")):
        labels = _labels_named(instructions) or _labels_named(prompt)
        if labels:
            return pick_label(prompt, labels)
    if "summar" in asked:
        return first_sentence(_after_instruction(prompt))
    return prompt


def pick_label(text: str, labels: list[str]) -> str:
    """The label whose keywords occur most often in the text; the first one in a tie.

    >>> pick_label("Please help, I cannot log in to my account.", ["finance", "support"])
    'support'
    """
    words = re.findall(r"[\w-]+|€", text.lower())
    return max(
        labels, key=lambda label: sum(word in KEYWORDS.get(label.lower(), label.lower()).split() for word in words)
    )


def first_sentence(text: str) -> str:
    """The text up to the first full stop or question mark followed by white space or the end.

    >>> first_sentence("It failed at 9.30. It was restarted.")
    'It failed at 9.30.'
    """
    return re.split(r"(?<=[.?])\s", text.strip(), maxsplit=1)[0]


def _labels_named(text: str) -> list[str]:
    """The labels of a list such as "one of: finance, support"; without one, the course's labels found in the text."""
    listed = _CHOOSING.search(text)
    if listed:
        found = re.split(r"\s*[,;|/]\s*|\s+(?:or|and)\s+", listed[1].strip())
        return [re.sub(r"^(?:or|and)\s+", "", label).strip("\"'` ") for label in found if label]
    known = [label for label in KEYWORDS if re.search(rf"\b{label}\b", text.lower())]
    return known if len(known) > 1 else []


def _after_instruction(prompt: str) -> str:
    """The text to summarize: the prompt without a leading "Summarize …:"."""
    return re.sub(r"^[^\n:]*summar[^\n:]*:\s*", "", prompt, flags=re.IGNORECASE)
