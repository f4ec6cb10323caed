"""What is screened: texts, whose they are, and where in the body they live. Offsets are code points throughout."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Direction(StrEnum):
    """Which way a text travels."""

    PROMPT = "prompt"
    COMPLETION = "completion"


Path = tuple[str | int, ...]
"""Where a text lives in its JSON body, e.g. `("messages", 0, "content", 1, "text")`, so that it can be put back."""


class Segment(NamedTuple):
    """One text of a body.

    `role` is the surface's own word (system, user, assistant, tool ...). `latest` is true for what the end user
    added in this request, false for history and for what the operator wrote: only the former can be a strike.
    """

    text: str
    role: str = "user"
    path: Path = ()
    latest: bool = True


class Content(NamedTuple):
    """All texts of one body that travel in one direction."""

    direction: Direction
    segments: tuple[Segment, ...]
