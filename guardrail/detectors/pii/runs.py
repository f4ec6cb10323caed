"""Where an entity may begin and end: texts fall into *runs*, and no entity reaches over the end of a run.

A run is a row of compact characters (letters, digits and `._%+-@:()`), continued over a single space where numbers are
written in groups: after a digit or `)` and before a digit, `(` or `+`; after an IBAN's country and check digits; and
after four capitals before a digit. Every rule looks at a few characters around one place, so that runs depend on the
text alone. Han characters and punctuation end a run, so Chinese prose is never held back and English by one word.
"""

from __future__ import annotations

import re
import string
from typing import Final

LONGEST: Final = 64
"""Characters of the longest entity that is found whole (IBAN in groups 42, IPv6 45, Bitcoin address 62)."""
STRIDE: Final = 32
"""A run that goes on is examined in pieces of `HOLD` characters, and released by `STRIDE` characters."""
HOLD: Final = LONGEST + STRIDE
"""The most characters that are ever held back."""
CONTEXT: Final = 100
"""Characters to the left in which words that name a number are looked for."""

SPACES: Final = " \u00a0"
_WIDE: Final = {chr(code + 0xFEE0): chr(code) for code in map(ord, string.ascii_letters + string.digits + "@.")}
_IS_WIDE: Final = re.compile("[Ａ-Ｚａ-ｚ０-９＠．]")
_FOLD: Final = str.maketrans(_WIDE)
COMPACT: Final = string.ascii_letters + string.digits + "._%+-@:()" + "".join(_WIDE)

_CLASS: Final = "A-Za-z0-9._%+\\-@:()Ａ-Ｚａ-ｚ０-９＠．"
_OPENS: Final = re.compile(r"(?<=[0-9０-９)])[ \u00a0]|(?<=[A-Z]{2}[0-9]{2})[ \u00a0]|(?<=[A-Z0-9]{4})[ \u00a0]")
_JOINS: Final = re.compile(
    r"(?<=[0-9０-９)])[ \u00a0](?=[0-9０-９(+])"
    r"|(?<=[A-Z]{2}[0-9]{2})[ \u00a0](?=[A-Z])"
    r"|(?<=[A-Z0-9]{4})[ \u00a0](?=[0-9])"
)
_RUN: Final = re.compile(f"[{_CLASS}]+(?:(?:{_JOINS.pattern})[{_CLASS}]+)*")


def run_end(text: str, inside: int) -> int:
    """The end, so far as `text` shows it, of the run that has the compact character at `inside`."""
    match = _RUN.match(text, inside)
    return match.end() if match else inside


def may_join(text: str, at: int) -> bool:
    """Whether the character at `at` is a space that joins a run on if the right character follows."""
    return 0 <= at < len(text) and text[at] in SPACES and _OPENS.match(text, at) is not None


def run_start(text: str, end: int, floor: int) -> int:
    """The start, not before `floor`, of the run that `text[:end]` ends in; `end` where it ends in none.

    A space at the very end that may yet join what follows belongs to the run.
    """
    if end - 1 > floor and text[end - 1] in SPACES and may_join(text, end - 1):
        end -= 1
    while True:
        start = end
        low = floor
        while start > low:
            # Look back in steps: a run is short, the text before it may be long.
            step = max(floor, start - HOLD)
            kept = len(text[step:start].rstrip(COMPACT))
            start = step + kept
            if kept:
                break
        if start <= floor or start == end or text[start - 1] not in SPACES or not _JOINS.match(text, start - 1):
            return start
        end = start - 1


def fold(text: str) -> str:
    """`text` with full-width letters, digits, `＠` and `．` in their ASCII form; its length stays the same."""
    return text if text.isascii() or not _IS_WIDE.search(text) else text.translate(_FOLD)
