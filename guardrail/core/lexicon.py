"""What one keyword rule looks for, as data. How it is found is the detector's business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class PhraseList:
    """The phrases of one label. `patterns` are bounded regular expressions; `exceptions` are longer phrases inside
    which a hit does not count. `match` says whether a term may begin and end inside a word: "auto" decides by the
    script of the term (Chinese has no spaces between words), "word" never, "substring" always.
    """

    terms: tuple[str, ...]
    patterns: tuple[str, ...] = ()
    exceptions: tuple[str, ...] = ()
    match: Literal["auto", "word", "substring"] = "auto"
