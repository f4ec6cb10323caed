"""Labelled rows from incidents that a person has reviewed, to train on. Pure: whoever asks opens what is sealed.

An appeal that was granted says that the text was safe, one that was denied that it was not. Nothing else here is a
label: what nobody has looked at says only what the guard thinks already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from guardrail.core.appeals import Appeal, State

SOURCE = "cases"
"""What the rows call their source, by which a training file's quota names them."""

Span = tuple[int, int, str]

_CLASSIFIER = "classifier"
_HAN = re.compile("[\u3400-\u9fff]")
_LATIN = re.compile("[A-Za-z]")


class LeftOut(StrEnum):
    """Why a reviewed incident becomes no row."""

    OPEN = "an appeal is open"
    EMPTY = "no excerpt was kept"
    PHRASE = "the excerpt is a matched phrase alone, without what was said around it"
    CUT = "the excerpt is the beginning of a longer text, and may lack what made it unsafe"
    PERSONAL = "personal data could not be taken out"


@dataclass(frozen=True, slots=True)
class Case:
    """A row for training: the fields of `training.rows.Row` that are known. `id` is the incident's."""

    id: str
    text: str
    label: str
    lang: str
    kind: str
    cls: str
    source: str = SOURCE


def label_of(appeals: Sequence[Appeal]) -> str | None:
    """What the appeals against an incident say of its text: safe, unsafe, or none while one is open."""
    states = {appeal.state for appeal in appeals}
    if State.GRANTED in states:
        return "safe"
    return "unsafe" if states == {State.DENIED} else None


def make_case(
    incident: Mapping[str, Any],
    appeals: Sequence[Appeal],
    excerpt: str,
    *,
    classes: Mapping[str, str],
    find: Callable[[str], Sequence[Span]],
    phrases: bool = False,
) -> Case | LeftOut:
    """A row from an incident (its stored row), or why there is none.

    `classes` names the class of harm of a rule's category, where it has one. `find` gives the personal data in a text
    (start, end, type), which `[TYPE]` takes the place of. `phrases` lets excerpts through that are a phrase alone.
    """
    label = label_of(appeals)
    if label is None:
        return LeftOut.OPEN
    if not excerpt.strip():
        return LeftOut.EMPTY
    hit = _shown_by(incident, excerpt)
    covered = 0 if hit is None else hit["end"] - hit["start"]
    if hit is not None and hit["detector"] != _CLASSIFIER and covered == len(excerpt) and not phrases:
        return LeftOut.PHRASE
    if label == "unsafe" and covered > len(excerpt):
        return LeftOut.CUT
    text = scrub(excerpt, find)
    if text is None:
        return LeftOut.PERSONAL
    return Case(
        id=str(incident["id"]),
        text=text,
        label=label,
        lang=language(text),
        kind="response" if incident["direction"] == "completion" else "prompt",
        cls="safe" if label == "safe" else classes.get(hit["category"], "") if hit else "",
    )


def scrub(text: str, find: Callable[[str], Sequence[Span]]) -> str | None:
    """The text with personal data replaced by its type, `[EMAIL]`; none where some is found even then."""
    for start, end, kind in sorted(find(text), reverse=True):
        text = f"{text[:start]}[{kind}]{text[end:]}"
    return None if find(text) else text


def language(text: str) -> str:
    """Which letters there are more of, a Han character counting twice: "zh" or "en", empty where there are neither."""
    han, latin = len(_HAN.findall(text)), len(_LATIN.findall(text))
    return "" if not han and not latin else "zh" if 2 * han >= latin else "en"


def _shown_by(incident: Mapping[str, Any], excerpt: str) -> Mapping[str, Any] | None:
    """The hit whose span the excerpt is, or begins; the classifier's where several are."""
    hits: list[Mapping[str, Any]] = list(incident["hits"])
    size = len(excerpt)
    fitting = (
        [hit for hit in hits if hit.get("digest") and hit["digest"] == incident.get("digest")]
        or [hit for hit in hits if hit["end"] - hit["start"] == size]
        or [hit for hit in hits if hit["end"] - hit["start"] > size]
        or hits
    )
    return min(fitting, key=lambda hit: hit["detector"] != _CLASSIFIER, default=None)
