"""Classes of characters that normalising and matching ask about, each with the standard it comes from. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from unicodedata import category

IGNORABLE = (
    # Default_Ignorable_Code_Point (Unicode, DerivedCoreProperties): zero-width and bidi controls, soft hyphen, fillers,
    # variation selectors, tags ...
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    # ... interlinear annotation, and the control codes that are not white space: nothing of them is ever seen.
    "\ufff9-\ufffb\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
)
"""Inside of a regular expression's `[...]`: characters that a reader does not see."""

WHITE_SPACE = "\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""Inside of `[...]`: what `str.isspace` calls white space."""

SURROGATE = "\ud800-\udfff"
"""Inside of `[...]`: halves of a broken pair, which JSON can carry and UTF-8 cannot."""

# Blocks that hold combining marks. Looking at these only keeps the import under 2 ms; a test walks all of Unicode.
_MARK_BLOCKS = (
    (0x0300, 0x1E00), (0x20D0, 0x2100), (0x2CE0, 0x2E00), (0x3000, 0x3100), (0xA600, 0xAC00), (0xFB00, 0xFE30),
    (0x10100, 0x12000), (0x13400, 0x13500), (0x16A00, 0x17000), (0x1BC00, 0x1BD00), (0x1CF00, 0x1D250),
    (0x1DA00, 0x1DB00), (0x1E000, 0x1E960),
)  # fmt: skip


def _ranges(points: Iterable[int]) -> str:
    """Code points in rising order as the inside of `[...]`."""
    runs: list[list[int]] = []
    for point in points:
        if runs and runs[-1][1] == point - 1:
            runs[-1][1] = point
        else:
            runs.append([point, point])
    return "".join(f"{chr(low)}-{chr(high)}" for low, high in runs)


_MARKS = [point for low, high in _MARK_BLOCKS for point in range(low, high) if category(chr(point))[0] == "M"]

EXTENDING_BMP = (
    _ranges(point for point in _MARKS if point < 0x10000)
    # Vowels and finals of Hangul, the compatibility and half-width forms that NFKC turns into such, and Thai and Lao
    # SARA AM, which NFKC splits into a mark and a vowel.
    + "\u1161-\u11ff\ud7b0-\ud7fb\u3131-\u3163\u3165-\u318e\uff9e\uff9f\uffa1-\uffdc\u0e33\u0eb3"
)
"""Inside of `[...]`: characters that may compose or reorder with those before them (UAX #15)."""

EXTENDING = EXTENDING_BMP + _ranges(point for point in _MARKS if point >= 0x10000)
"""The same in all planes; regular expressions are slower by a tenth of a microsecond a character for them."""

MARKED_PLANES = "\U00010000-\U0001efff"
"""Inside of `[...]`: where those outside the basic plane are, and much else."""

CLOSED = (
    " !-;?@\\[-`{-~"
    "\u2010-\u201f\u2026\u2030\u3000-\u3029\u3030\u3400-\u9fff\uf900-\ufaff"
    "\uff01-\uff1b\uff1f\uff20\uff3b-\uff40\uff5b-\uff65\ufffd\U0001f300-\U0001faff\U00020000-\U0003ffff"
)
"""Inside of `[...]`: characters with which nothing that follows can compose: digits, punctuation, Han, emoji."""

_CLOSED = re.compile(f"[{CLOSED}]")
_SPACED = re.compile(
    "[\x00-\u058f\u10a0-\u10ff\u1c80-\u1cbf\u1d00-\u1dbf\u1e00-\u1fff\u2c00-\u2d2f\ua640-\ua7ff\uab30-\uab6f]"
)

NEUTRAL, SPACED, JOINED = 0, 1, 2


@cache
def _extends() -> re.Pattern[str]:
    return re.compile(f"[{EXTENDING}]")


def is_extending(character: str) -> bool:
    """Whether `character` may compose or reorder with those before it."""
    return not character.isascii() and _extends().match(character) is not None


def is_closed(character: str) -> bool:
    """Whether no later character can change how `character` normalises."""
    return _CLOSED.match(character) is not None


@lru_cache(maxsize=8192)
def word_class(character: str) -> int:
    """NEUTRAL (no part of a word), SPACED (alphabets whose words have spaces between, digits) or JOINED (the others).

    A word boundary lies between two characters unless both are of one class that is not NEUTRAL: so it does between
    Latin and Han, as Unicode's UAX #29 has it. Marks that did not compose count as JOINED, so that a Latin word with
    marks strewn over it still ends where its letters end.
    """
    if character.isalnum():
        return SPACED if _SPACED.match(character) else JOINED
    return JOINED if category(character).startswith("M") else NEUTRAL


def is_boundary(before: int, after: int) -> bool:
    """Whether a word boundary lies between neighbours of these two word classes."""
    return before != after or before == NEUTRAL
