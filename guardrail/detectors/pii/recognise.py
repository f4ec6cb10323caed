"""What a run holds: a set matcher that says in one pass that it holds nothing, and the recognisers behind it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import re2

from guardrail.detectors.pii import china, context, worldwide
from guardrail.detectors.pii.labels import THRESHOLDS, Hit, distinct

_Recogniser = Callable[[str, int, str], Iterator[Hit]]

# For each recogniser, in the syntax of re2, a shape that is in every run it finds something in. The edges of the piece
# that is looked at count as boundaries, so that a shape is seen even where only a part of the text is known.
_LEFT: Final = r"(?:\b|(?i:tel|phone|mobile))"
_SHAPES: Final[tuple[tuple[_Recogniser, str], ...]] = (
    (worldwide.emails, r"[A-Za-z0-9_%+\-]@[A-Za-z0-9]"),
    (worldwide.ipv4_addresses, r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b"),
    (worldwide.ipv6_addresses, r"[0-9A-Fa-f]{3,4}:[0-9A-Fa-f]{0,4}:|(?:[0-9A-Fa-f]{0,4}:){7}"),
    (china.id_cards, _LEFT + r"[1-8]\d{5}S?(?:(?:18|19|20)\d{2}[01]\d[0-3]\dS?\d{3}[\dXx]|\d{2}[01]\d[0-3]\d{4})\b"),
    (china.mobiles, _LEFT + r"(?:(?:00)?86S?)?1[3-9]\dS?\d{4}S?\d{4}\b"),
    (china.landlines, _LEFT + r"(?:(?:00)?86[ \-]?\(?0?|0)[1-9]\d{1,2}\)?[ \-]?[2-9]\d{2,3} ?\d{4}\b"),
    (china.travel_documents, r"[A-Za-z]\d{7,10}\b"),
    (china.company_codes, _LEFT + r"[1-9ANYany][0-9A-Za-z]\d{6}[0-9A-Za-z]{10}\b"),
    (worldwide.bank_cards, _LEFT + r"(?:\d{13,19}|\d{4}S\d{4}S\d{4}S\d|3[47]\d{2}S\d{6}S\d{5}|6\d{5}S\d{13})"),
    (worldwide.ibans, r"\b[A-Za-z]{2}\d{2}(?:[A-Za-z0-9]{11,30}\b|[ \x{a0}][A-Za-z0-9]{4}[ \x{a0}])"),
    (worldwide.international, r"\+\(?\d"),
    (worldwide.north_american, r"[2-9]\d{2}\)?[ .\-]?[2-9]\d{2}[ .\-]\d{4}"),
    (worldwide.grouped, r"\d{2}\)?[ \x{a0}.\-]\(?\d{2}|\d\)\d|\d\(\d"),
)
_ASKED_SHAPES: Final = (
    r"\b\d{3}[ .\-]\d{2}[ .\-]\d{4}\b",
    r"\b(?:bc1|BC1|[13])[A-Za-z0-9]{25,59}\b",
    r"\b[A-Za-z]{0,2}\d{6,17}[A-Za-z]{0,2}\b",
)


def _set(*shapes: str) -> re2.Set:
    # re2.Set looks for all of them in one pass: 1 KB takes it 2-6 microseconds, Python's `re` 150-300.
    made = re2.Set.SearchSet()
    for shape in shapes:
        made.Add(shape.replace("S", r"[ \x{a0}\-]"))
    made.Compile()
    return made


_SET: Final = _set(*(shape for _, shape in _SHAPES), *_ASKED_SHAPES)
_FEWEST: Final = 6
"""Characters of the shortest entity."""


def shapes(text: str) -> list[int]:
    """Which shapes `text` has: none means that it holds no entity, some means little. Full-width forms are not seen."""
    if len(text) < _FEWEST:
        return []
    found: list[int] | None = _SET.Match(text if text.isascii() else text.encode("utf-8", "replace"))
    return found or []


def recognise(text: str, begin: int, after: str, seen: Iterable[int]) -> list[Hit]:
    """The entities of the run `text[begin:]` that a check digit or a form decides alone, without overlaps.

    `text[:begin]` is what stands before the run, `after` what is known of what follows, `seen` the run's `shapes`.
    Full-width characters are expected in their ASCII form. Hits below their label's threshold (weak ones) are included.
    """
    hits: list[Hit] = []
    for shape in seen:
        if shape < len(_SHAPES):
            hits.extend(_SHAPES[shape][0](text, begin, after))
    return distinct(hits) if len(hits) > 1 else hits


_SSN: Final = re.compile(r"(?<![0-9A-Za-z_])(?<![0-9A-Za-z][-.])[0-9]{3}([- .])[0-9]{2}\1[0-9]{4}(?![-.]?[0-9A-Za-z_])")
_CRYPTO: Final = re.compile(r"(?<![0-9A-Za-z])(?:bc1|BC1|[13])[A-Za-z0-9]{25,59}(?![0-9A-Za-z])")
_DOCUMENT: Final = re.compile(r"(?<![0-9A-Za-z_.-])[A-Za-z]{0,2}[0-9]{6,17}[A-Za-z]{0,2}(?![0-9A-Za-z_])")


def worth_asking(text: str, begin: int, past: int, hits: list[Hit], seen: Iterable[int]) -> bool:
    """Whether something outside `hits` begins in `text[begin:past]` that only words around it can tell apart.

    That is asked of presidio, whose import costs seconds and 390 MB: a shape that is everyday needs a word beside it.
    """
    if max(seen, default=0) < len(_SHAPES):
        return False
    kept = [hit for hit in hits if hit.score >= THRESHOLDS[hit.label]]

    def free(pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        for match in pattern.finditer(text, begin):
            if match.start() < past and all(match.end() <= hit.start or match.start() >= hit.end for hit in kept):
                yield match

    asked = context.named(context.CONSULT, text, begin, 64)
    if any(asked or match[1] == "-" for match in free(_SSN)) or any(_mixed(match[0]) for match in free(_CRYPTO)):
        return True
    if asked:
        return any(True for _ in free(_DOCUMENT))
    return context.named(context.DIAL, text, begin, 24) and any(len(match[0]) >= 10 for match in free(_DOCUMENT))


def _mixed(address: str) -> bool:
    """Base58 mixes cases, Bech32 begins with bc1; a hash in hexadecimal does neither."""
    return address[:3].lower() == "bc1" or (address != address.lower() and address != address.upper())
