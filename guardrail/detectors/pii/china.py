"""Recognisers for numbers that mainland China issues: resident ID, mobile, landline, passport, permit, company code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from typing import Final

import phonenumbers
from phonenumbers import PhoneNumberType
from stdnum.cn import ric, uscc

from guardrail.detectors.pii import context
from guardrail.detectors.pii.labels import (
    CERTAIN,
    HK_MACAU_PERMIT,
    ID_CARD,
    LANDLINE,
    LIKELY,
    PASSPORT,
    PHONE,
    SURE,
    USCC,
    WEAK,
    Hit,
)

# `\b` knows no boundary between a digit and a Han character: what may stand beside a number is spelt out. A number is
# not the tail of another word or of a hyphenated or decimal one, except after "tel" and the like.
LEFT: Final = (
    r"(?:(?<![0-9A-Za-z_])(?<![0-9A-Za-z][-.])|(?<=[0-9]{11}-)|(?<=(?i:tel))|(?<=(?i:phone))|(?<=(?i:mobile)))"
)
RIGHT: Final = r"(?![-.]?[0-9A-Za-z_])"

_ID_CARD: Final = re.compile(
    LEFT + r"[1-8][0-9]{5}([ \u00a0-]?)(?:18|19|20)[0-9]{2}[01][0-9][0-3][0-9]\1[0-9]{3}[0-9Xx]" + RIGHT
)
_OLD_ID_CARD: Final = re.compile(LEFT + r"[1-8][0-9]{7}[01][0-9][0-3][0-9]{4}" + RIGHT)
_MOBILE: Final = re.compile(LEFT + r"(?:(?:\+|00)?86[ \u00a0-]?)?(1[3-9][0-9]([ \u00a0-]?)[0-9]{4}\2[0-9]{4})" + RIGHT)
_LANDLINE: Final = re.compile(
    r"(?:(?<![0-9A-Za-z_])(?<![0-9A-Za-z][-.])|(?<=(?i:tel)))"
    r"(?:(?:\+|00)86[ -]?\(?0?([1-9][0-9]{1,2})\)?|\(0([1-9][0-9]{1,2})\)|0([1-9][0-9]{1,2}))"
    r"([ -]?)[2-9][0-9]{2,3} ?[0-9]{4}" + RIGHT
)
_TRAVEL: Final = re.compile(LEFT + r"[A-Za-z][A-Za-z]?[0-9]{7,10}" + RIGHT)
_USCC: Final = re.compile(LEFT + r"[1-9ANYany][0-9A-Za-z][0-9]{6}[0-9A-HJ-NPQRTUWXYa-hj-npqrtuwxy]{10}" + RIGHT)

# GB/T 2260: the first two digits of a division code.
_PROVINCES: Final = frozenset(
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83".split()
)
_BIRTH_YEARS: Final = range(1880, 2050)


def id_cards(text: str, begin: int, after: str) -> Iterator[Hit]:
    """Resident identity numbers, GB 11643-1999: region, birth date, sequence and a check digit of ISO 7064 MOD 11-2.

    One with a wrong check digit is likely beside a word that names it (a typing error is personal information too),
    weak elsewhere. Numbers of 15 digits, issued until 1999, have no check digit and need such a word.
    """
    for match in _ID_CARD.finditer(text, begin):
        number = "".join(char for char in match[0] if char.isalnum()).upper()
        if not plausible_id(number):
            continue
        if ric.calc_check_digit(number) == number[-1]:
            score = CERTAIN
        else:
            score = LIKELY if context.named(context.ID_CARD, text, match.start()) else WEAK
        yield Hit(match.start(), match.end(), ID_CARD, score)
    for match in _OLD_ID_CARD.finditer(text, begin):
        number = match[0][:6] + "19" + match[0][6:]
        if plausible_id(number) and context.named(context.ID_CARD, text, match.start()):
            yield Hit(match.start(), match.end(), ID_CARD, LIKELY)


def plausible_id(number: str) -> bool:
    """Whether a compact number of 17 or 18 characters begins with a province and a possible birth date."""
    if number[:2] not in _PROVINCES or int(number[6:10]) not in _BIRTH_YEARS:
        return False
    try:
        date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    return True


def mobiles(text: str, begin: int, after: str) -> Iterator[Hit]:
    """Mobile numbers of the mainland, with or without +86, in one piece or as 3-4-4, in a range that is in use."""
    for match in _MOBILE.finditer(text, begin):
        parsed = phonenumbers.parse(match[1], "CN")
        if phonenumbers.number_type(parsed) != PhoneNumberType.MOBILE:
            continue
        personal = match.start() < match.start(1) or not context.impersonal(text, match.start(), match.end(), after)
        yield Hit(match.start(), match.end(), PHONE, SURE if personal else WEAK)


def landlines(text: str, begin: int, after: str) -> Iterator[Hit]:
    """Fixed lines of the mainland: area code and number. Unseparated ones look like other numbers and need a word."""
    for match in _LANDLINE.finditer(text, begin):
        parsed = phonenumbers.parse(match[0].replace("(", "").replace(")", ""), "CN")
        area = match[1] or match[2] or match[3]
        if phonenumbers.number_type(parsed) != PhoneNumberType.FIXED_LINE or (
            match[4] and phonenumbers.length_of_geographical_area_code(parsed) != len(area)
        ):
            continue
        if context.named(context.PHONE, text, match.start()) or match[0][0] in "+(":
            score = SURE
        elif match[4] and not context.impersonal(text, match.start(), match.end(), after):
            score = LIKELY
        else:
            score = WEAK
        yield Hit(match.start(), match.end(), LANDLINE, score)


def travel_documents(text: str, begin: int, after: str) -> Iterator[Hit]:
    """Passports (a letter or two, then digits) and Hong Kong and Macau permits, beside a word that names them."""
    for match in _TRAVEL.finditer(text, begin):
        value = match[0].upper()
        if context.named(context.PERMIT, text, match.start()) and value[0] in "HMCW":
            yield Hit(match.start(), match.end(), HK_MACAU_PERMIT, SURE)
        elif len(value) == 9 and value[0] in "EGDSPHKM" and context.named(context.PASSPORT, text, match.start()):
            yield Hit(match.start(), match.end(), PASSPORT, SURE)


def company_codes(text: str, begin: int, after: str) -> Iterator[Hit]:
    """Unified social credit codes, GB 32100-2015: 18 characters with a check character."""
    for match in _USCC.finditer(text, begin):
        value = match[0].upper()
        if uscc.is_valid(value) and not (value[:17].isdigit() and plausible_id(value)):
            yield Hit(match.start(), match.end(), USCC, CERTAIN)
        elif context.named(context.USCC, text, match.start()):
            yield Hit(match.start(), match.end(), USCC, LIKELY)
