"""What a run holds: a set matcher that says in one pass that it holds nothing, and the recognisers behind it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

import re2

from guardrail.detectors.pii import china, context, worldwide
from guardrail.detectors.pii.labels import THRESHOLDS, Hit, distinct

_Recogniser = Callable[[str, int, str], Iterator[Hit]]

_NUMBERS: Final[tuple[_Recogniser, ...]] = (
    china.id_cards,
    china.mobiles,
    china.landlines,
    china.travel_documents,
    china.company_codes,
    worldwide.bank_cards,
    worldwide.ibans,
    worldwide.dialled,
)
_FEWEST_DIGITS: Final = 7

# Every entity contains a match of one of these (full-width forms included); what else does is for the recognisers to
# refuse. re2.Set passes over 1 KB in 2-6 microseconds, Python's `re` with the same alternatives takes 150-300.
_SHAPES: Final = (
    r"[A-Za-z0-9Ａ-Ｚａ-ｚ０-９_%+\-][@＠][A-Za-z0-9Ａ-Ｚａ-ｚ０-９]",
    r"D\.D{1,3}\.D{1,3}\.D".replace(r"\.", "[.．]"),
    r"[0-9A-Fa-f]{3,4}:[0-9A-Fa-f]{0,4}:|(?:[0-9A-Fa-f]{0,4}:){7}",
    r"D(?:[ \x{a0}().\-]{0,3}D){7}",
    r"[A-Za-zＡ-Ｚａ-ｚ]D{7}",
    r"[A-Za-zＡ-Ｚａ-ｚ]{2}D{2}(?:[ \x{a0}]?[A-Za-z0-9Ａ-Ｚａ-ｚ０-９]{4}){2}",
    r"D{6}[0-9A-Za-zＡ-Ｚａ-ｚ０-９]{10}",
    r"(?:bc1|BC1|[13])[A-Za-z0-9]{25}",
)


def _gate() -> re2.Set:
    gate = re2.Set.SearchSet()
    for shape in _SHAPES:
        gate.Add(shape.replace("D", "[0-9０-９]"))
    gate.Compile()
    return gate


_GATE: Final = _gate()


def may_hold(text: str) -> bool:
    """Whether `text` holds the shape of any entity: false means that it holds none, true means little."""
    return bool(_GATE.Match(text if text.isascii() else text.encode("utf-8", "replace")))


def recognise(text: str, begin: int, after: str = "") -> list[Hit]:
    """The entities of the run `text[begin:]` that a check digit or a form decides alone, without overlaps.

    `text[:begin]` is what stands before the run, `after` what is known of what follows. Full-width characters are
    expected in their ASCII form. Hits below the threshold of their label are weak; they are included.
    """
    run = text[begin:]
    hits: list[Hit] = []
    if "@" in run:
        hits.extend(worldwide.emails(text, begin, after))
    if run.count(".") >= 3 or run.count(":") >= 2:
        hits.extend(worldwide.ip_addresses(text, begin, after))
    if len(_DIGIT.findall(run)) >= _FEWEST_DIGITS:
        for recogniser in _NUMBERS:
            hits.extend(recogniser(text, begin, after))
    return distinct(hits) if len(hits) > 1 else hits


_DIGIT: Final = re.compile("[0-9]")
_SSN: Final = re.compile(r"(?<![0-9A-Za-z_])(?<![0-9A-Za-z][-.])[0-9]{3}([- .])[0-9]{2}\1[0-9]{4}(?![-.]?[0-9A-Za-z_])")
_CRYPTO: Final = re.compile(r"(?<![0-9A-Za-z])(?:bc1|BC1|[13])[A-Za-z0-9]{25,59}(?![0-9A-Za-z])")
_DOCUMENT: Final = re.compile(r"(?<![0-9A-Za-z_.-])[A-Za-z]{0,2}[0-9]{6,17}[A-Za-z]{0,2}(?![0-9A-Za-z_])")


def worth_asking(text: str, begin: int, hits: list[Hit]) -> bool:
    """Whether the run `text[begin:]` holds something outside `hits` that only words around it can tell apart.

    That is asked of presidio, whose import costs seconds and 390 MB: a shape that is everyday needs a word beside it.
    """
    if len(_DIGIT.findall(text, begin)) < _FEWEST_DIGITS:
        return False
    kept = [hit for hit in hits if hit.score >= THRESHOLDS[hit.label]]

    def free(pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        for match in pattern.finditer(text, begin):
            if all(match.end() <= hit.start or match.start() >= hit.end for hit in kept):
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


