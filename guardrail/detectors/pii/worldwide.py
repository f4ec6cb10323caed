"""Recognisers for what is the same everywhere: e-mail, IP addresses, payment cards, IBANs, numbers in dialling form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

import phonenumbers
from phonenumbers import Leniency, PhoneNumberMatcher, PhoneNumberType
from stdnum import iban, luhn

from guardrail.detectors.pii import context
from guardrail.detectors.pii.china import LEFT, RIGHT, plausible_id
from guardrail.detectors.pii.labels import BANK_CARD, CERTAIN, EMAIL, IBAN, IP, LANDLINE, LIKELY, PHONE, SURE, WEAK, Hit

_EMAIL: Final = re.compile(
    r"[A-Za-z0-9_%+-](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_%+-])?"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,6}([A-Za-z]{2,24}|xn--[a-z0-9-]{1,59})(?![A-Za-z0-9_-])"
)
# "logo@2x.png" has the shape of an address; none of these is a top-level domain.
_FILE_ENDINGS: Final = frozenset("png jpg jpeg gif webp svg bmp tif tiff ico css js ts html json xml pdf mp4".split())
_IPV4: Final = re.compile(r"(?<![0-9A-Za-z_])(?<![0-9A-Za-z]\.)[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\.?[0-9A-Za-z_])")
_IPV6: Final = re.compile(r"(?<![0-9A-Za-z_:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![0-9A-Za-z_:])")
_CARD: Final = re.compile(
    LEFT + r"(?:[0-9]{13,19}|[0-9]{4}([ \u00a0-])[0-9]{4}\1[0-9]{4}\1[0-9]{1,4}(?:\1[0-9]{1,3})?"
    r"|3[47][0-9]{2}([ -])[0-9]{6}\2[0-9]{5}|6[0-9]{5}[ -][0-9]{13})" + RIGHT
)
_IBAN: Final = re.compile(
    r"(?<![0-9A-Za-z_])[A-Za-z]{2}[0-9]{2}"
    r"(?:[A-Za-z0-9]{11,30}|(?:[ \u00a0][A-Za-z0-9]{4}){2,7}(?:[ \u00a0][A-Za-z0-9]{1,3})?)(?![0-9A-Za-z_])"
)
_NANP: Final = re.compile(
    r"(?<![0-9A-Za-z_(+])(?<![0-9A-Za-z][-.])(?:\+?1[-. ]?)?(?:\(([2-9][0-9]{2})\)[ -]?|([2-9][0-9]{2})([-. ]))"
    r"[2-9][0-9]{2}[-. ][0-9]{4}(?:x[0-9]{1,6})?" + RIGHT
)
_GROUPED: Final = re.compile(
    r"(?<![0-9A-Za-z_.(+-])\(?[0-9]{2,5}\)?(?:[ \u00a0.-]?\(?[0-9]{2,8}\)?){1,4}(?:x[0-9]{1,6})?(?![-.]?[0-9A-Za-z_])"
)
_DATED: Final = re.compile(
    r"(?:19|20)[0-9]{2}[-.][0-9]{1,2}[-.][0-9]{1,2}|[0-9]{1,2}[-.][0-9]{1,2}[-.](?:19|20)[0-9]{2}"
)
# Calls to these cost the caller nothing, or pay the callee: companies' numbers, nobody's own. (400 is China's.)
_NOBODYS: Final = frozenset("400 800 822 833 844 855 866 877 888 900".split())
_NOBODYS_TYPES: Final = frozenset(
    (PhoneNumberType.TOLL_FREE, PhoneNumberType.PREMIUM_RATE, PhoneNumberType.SHARED_COST, PhoneNumberType.UAN)
)


def emails(text: str, begin: int, after: str) -> Iterator[Hit]:
    """E-mail addresses in the common form of RFC 5321 (no quoted local parts, no address literals)."""
    for match in _EMAIL.finditer(text, begin):
        ending = match[1].lower()
        # git@host:path is how Git names a remote over SSH.
        remote = match[0].startswith("git@") and text[match.end() : match.end() + 1] == ":"
        if ending not in _FILE_ENDINGS and not remote:
            yield Hit(match.start(), match.end(), EMAIL, CERTAIN)


def ipv4_addresses(text: str, begin: int, after: str) -> Iterator[Hit]:
    """Addresses of IPv4, but loopback, unspecified ones and masks; four single digits may be a version."""
    for match in _IPV4.finditer(text, begin):
        try:
            address = IPv4Address(match[0])
        except AddressValueError:
            continue
        if address.is_loopback or match[0].startswith(("0.", "255.")):
            continue
        if context.impersonal(text, match.start(), match.end(), ""):
            score = WEAK
        elif len(match[0]) > len("1.2.3.4") or context.named(context.IP, text, match.start()):
            score = SURE
        else:
            score = WEAK
        yield Hit(match.start(), match.end(), IP, score)


def ipv6_addresses(text: str, begin: int, after: str) -> Iterator[Hit]:
    """Addresses of IPv6 (RFC 4291, in hexadecimal throughout), but loopback and unspecified ones."""
    for match in _IPV6.finditer(text, begin):
        groups = [group for group in match[0].split(":") if group]
        # "add::fee" is a name in C++, "12:30:45" a time: an address has eight groups or begins with a full one.
        if len(groups) < 8 and not (groups and len(groups[0]) >= 3 and any(char.isdigit() for char in match[0])):
            continue
        try:
            address = IPv6Address(match[0])
        except AddressValueError:
            continue
        if not address.is_loopback and not address.is_unspecified:
            yield Hit(match.start(), match.end(), IP, SURE)


def bank_cards(text: str, begin: int, after: str) -> Iterator[Hit]:
    """Payment cards of ISO/IEC 7812: issuer prefix, length and the Luhn check digit."""
    for match in _CARD.finditer(text, begin):
        number = "".join(char for char in match[0] if char.isdigit())
        if not luhn.is_valid(number):
            continue
        named = context.named(context.BANK_CARD, text, match.start())
        taken = len(number) == 18 and plausible_id(number)
        if named:
            score = SURE if _issued(number, named=True) else WEAK
        elif taken or context.impersonal(text, match.start(), match.end(), after) or not _issued(number, named=False):
            score = WEAK
        else:
            score = SURE
        yield Hit(match.start(), match.end(), BANK_CARD, score)


def _issued(number: str, *, named: bool) -> bool:
    """Whether some network issues numbers of this length under this prefix; `named` admits the rarer ones."""
    length, two, four = len(number), int(number[:2]), int(number[:4])
    if two == 62 or two == 81 or number.startswith(("4367", "4563", "9558", "9559", "60", "65", "68")):
        return 16 <= length <= 19
    if number[0] == "4":
        return length == 16 or (named and length in (13, 19))
    if 51 <= two <= 55 or 2221 <= four <= 2720 or 3528 <= four <= 3589:
        return length == 16
    if two in (34, 37):
        return length == 15
    if two in (36, 38, 39, 30):
        return named and length == 14
    return named and length >= 16 and number[0] in "5689"


def ibans(text: str, begin: int, after: str) -> Iterator[Hit]:
    """International bank account numbers, ISO 13616, with the check of ISO 7064 MOD 97-10 and the country's form.

    One with wrong check digits is likely right after the word IBAN, and nothing elsewhere.
    """
    for match in _IBAN.finditer(text, begin):
        value = match[0]
        end = match.end()
        # In groups, the last may belong to what comes after.
        while " " in value and not iban.is_valid(value):
            value = value[: value.rindex(" ")]
            end = match.start() + len(value)
        if iban.is_valid(value.replace("\u00a0", "")):
            yield Hit(match.start(), end, IBAN, CERTAIN)
        elif context.named(context.IBAN, text, match.start(), 24):
            yield Hit(match.start(), match.end(), IBAN, LIKELY)


def international(text: str, begin: int, after: str) -> Iterator[Hit]:
    """Telephone numbers with + and country code (ITU-T E.164), possible ones that are not in use included."""
    for found in PhoneNumberMatcher(text[begin:], None, leniency=Leniency.POSSIBLE):
        start, end = begin + found.start, begin + found.end
        kind = phonenumbers.number_type(found.number)
        if text[start] != "+" or kind in _NOBODYS_TYPES:
            continue
        label = LANDLINE if found.number.country_code == 86 and kind == PhoneNumberType.FIXED_LINE else PHONE
        valid = phonenumbers.is_valid_number(found.number)
        digits = sum(char.isdigit() for char in text[start:end])
        yield Hit(start, end, label, SURE if valid else LIKELY if digits >= 10 else WEAK)


def north_american(text: str, begin: int, after: str) -> Iterator[Hit]:
    """Telephone numbers as the North American Numbering Plan writes them, area codes not in use included."""
    for match in _NANP.finditer(text, begin):
        area = match[1] or match[2]
        if area in _NOBODYS:
            continue
        named = context.named(context.PHONE, text, match.start())
        if named:
            score = SURE
        elif match[3] == " " or context.impersonal(text, match.start(), match.end(), after):
            score = WEAK
        else:
            score = LIKELY
        yield Hit(match.start(), match.end(), PHONE, score)


def grouped(text: str, begin: int, after: str) -> Iterator[Hit]:
    """Digits in groups right after a word such as "phone": how they are grouped differs from country to country."""
    for match in _GROUPED.finditer(text, begin):
        digits = [char for char in match[0] if char.isdigit()]
        if (
            len(digits) < len(match[0])  # a plain integer is for presidio to check against numbering plans
            and 7 <= len(digits) <= 15
            and "".join(digits[:3]) not in _NOBODYS
            and not _DATED.match(match[0])
            and context.named(context.DIAL, text, match.start(), 24)
            and not context.impersonal(text, match.start(), match.end(), after)
        ):
            yield Hit(match.start(), match.end(), PHONE, LIKELY)
