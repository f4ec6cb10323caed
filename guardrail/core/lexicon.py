"""What a phrase list says: the terms, patterns and exceptions that one label of the keyword detector stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from guardrail.errors import PolicyError

MatchMode = Literal["auto", "word", "substring"]
"""Where a term may match inside a longer word.

`auto`: an edge that is a letter of a spaced alphabet (Latin, Greek, Cyrillic ...) or a digit needs a word boundary, so
that `AV` does not hit `java`; any other edge (Han, kana, Thai ...) does not. `word`: both edges need one. `substring`:
neither does.
"""

Part = Literal["terms", "patterns", "exceptions"]


@dataclass(frozen=True, slots=True)
class PhraseList:
    """One list, as a person wrote it: nothing here is normalised yet.

    `terms` are phrases; `patterns` regular expressions of bounded length in the syntax that RE2 and Python share, read
    without regard to case on normalised text; a match that lies inside a match of one of the `exceptions` (phrases)
    does not count. `match` holds for terms and exceptions.
    """

    terms: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    exceptions: tuple[str, ...] = ()
    match: MatchMode = "auto"


class PhraseError(PolicyError):
    """One entry of a list cannot be used. `label`, `part` and `index` (from 0) say which, so that a loader can name the
    file and line; `problem` says why and what would be accepted. The entry itself is not quoted."""

    def __init__(self, label: str, part: Part, index: int, problem: str) -> None:
        super().__init__(f'keywords list "{label}": {part}[{index}] {problem}')
        self.label = label
        self.part = part
        self.index = index
        self.problem = problem
