"""The names of what is found, the scores that count, and which finding stays when two cover the same characters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

ID_CARD: Final = "ID_CARD"
PHONE: Final = "PHONE"
LANDLINE: Final = "LANDLINE"
BANK_CARD: Final = "BANK_CARD"
EMAIL: Final = "EMAIL"
IP: Final = "IP"
IBAN: Final = "IBAN"
PASSPORT: Final = "PASSPORT"
HK_MACAU_PERMIT: Final = "HK_MACAU_PERMIT"
USCC: Final = "USCC"
US_SSN: Final = "US_SSN"
US_ITIN: Final = "US_ITIN"
US_BANK_NUMBER: Final = "US_BANK_NUMBER"
US_DRIVER_LICENSE: Final = "US_DRIVER_LICENSE"
CRYPTO: Final = "CRYPTO"

ALIASES: Final[Mapping[str, str]] = {
    "CREDIT_CARD": BANK_CARD,
    "CN_BANK_CARD": BANK_CARD,
    "CN_ID_CARD": ID_CARD,
    "PHONE_NUMBER": PHONE,
    "CN_MOBILE": PHONE,
    "EMAIL_ADDRESS": EMAIL,
    "IP_ADDRESS": IP,
    "IBAN_CODE": IBAN,
    "US_PASSPORT": PASSPORT,
    "CN_PASSPORT": PASSPORT,
    "US_BANK_ACCOUNT_NUMBER": US_BANK_NUMBER,
}
"""Other names of the same types (presidio's, and those of common data sets), for reading data and for evaluation."""

CONSULTED: Final = frozenset({US_SSN, US_ITIN, US_BANK_NUMBER, US_DRIVER_LICENSE, CRYPTO, PASSPORT, PHONE})
"""What presidio may answer; of these, PASSPORT and PHONE are mostly decided without it."""

CERTAIN: Final = 1.0
"""A check digit, or a grammar that little else satisfies."""
SURE: Final = 0.9
"""A distinctive shape, or a looser one beside a word that names it."""
LIKELY: Final = 0.7
"""A shape beside a word that names it, where a check digit is wrong, absent or unknown."""
WEAK: Final = 0.3
"""A shape that much else has too, or one that the text calls something else ("order number ...")."""

THRESHOLDS: Final[Mapping[str, float]] = {
    **dict.fromkeys((ID_CARD, PHONE, LANDLINE, BANK_CARD, EMAIL, IP, IBAN, HK_MACAU_PERMIT, USCC, CRYPTO), 0.5),
    # presidio scores these 0.4 beside a word of theirs and at most 0.3 without one
    **dict.fromkeys((US_SSN, US_ITIN, PASSPORT, US_BANK_NUMBER, US_DRIVER_LICENSE), 0.4),
}
"""For each label that can be reported, the least score that counts unless a rule names another."""

# Where two types with equal scores claim the same characters, the one named first stays.
_PRECEDENCE: Final = {label: rank for rank, label in enumerate(THRESHOLDS)}


class Hit(NamedTuple):
    """`label` in `text[start:end]` of the text examined, with `score` in [0, 1]."""

    start: int
    end: int
    label: str
    score: float


def canonical(name: str) -> str:
    """The project's name of an entity type that others call `name`; an unknown name stays as it is."""
    return ALIASES.get(name, name)


def distinct(hits: Iterable[Hit]) -> list[Hit]:
    """Keep, of hits that overlap, the one with the higher score, then the longer, then the more specific type.

    Hits below their label's threshold give way to every hit above its own. The result is in the order of the text.
    """
    kept: list[Hit] = []
    for hit in sorted(hits, key=_strength):
        if all(hit.end <= other.start or hit.start >= other.end for other in kept):
            kept.append(hit)
    return sorted(kept)


def _strength(hit: Hit) -> tuple[bool, float, int, int]:
    counts = hit.score >= THRESHOLDS[hit.label]
    return (not counts, -hit.score, hit.start - hit.end, _PRECEDENCE[hit.label])
