"""The implicit label of GB 45438-2025, Annex E: seven strings of JSON that say that a model made something, and whose.

Pure. Where the label is put (a header, a file's metadata) is for others.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode

UNREGISTERED = "UNREGISTERED"
"""The producer when the operator has named none: honest, and no verifier takes it for a provider's code."""

GENERATED = "1"
"""`Label`: this is generated. (`2` possibly, `3` suspected are for those who pass on what others made.)"""

# Annex E, item j: no space, quote, backslash or anything beyond ASCII, so that nothing ever needs an escape.
_VALUE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


def payload(producer: str, produce_id: str) -> bytes:
    """The label as a first writer puts it: propagator and producer are the same (Annex E, note 1).

    `producer` is the provider's 27-character code or `UNREGISTERED`, `produce_id` the number of this one content.
    Keys come in the standard's order, without spaces; both reserved codes are empty.
    Raises ValueError when a value is empty or has a character that Annex E does not take.
    """
    return (
        f'{{"Label":"{GENERATED}","ContentProducer":"{_checked("ContentProducer", producer)}",'
        f'"ProduceID":"{_checked("ProduceID", produce_id)}","ReservedCode1":"",'
        f'"ContentPropagator":"{producer}","PropagateID":"{produce_id}","ReservedCode2":""}}'
    ).encode("ascii")


def header_value(label: bytes) -> bytes:
    """The label for an HTTP header: base64url with padding (RFC 4648, section 5)."""
    return urlsafe_b64encode(label)


def _checked(key: str, value: str) -> str:
    if _VALUE.fullmatch(value) is None:
        raise ValueError(
            f"{key}: got {value!r}; expected one or more printable ASCII characters without space, quote or backslash"
        )
    return value
