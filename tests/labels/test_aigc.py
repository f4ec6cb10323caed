"""The implicit label is Annex E's, byte for byte."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64decode

import pytest

from guardrail.labels import aigc

CODE = "00" + "1" + "1" + "9" * 18 + "1" + "0001"
KEYS = ["Label", "ContentProducer", "ProduceID", "ReservedCode1", "ContentPropagator", "PropagateID", "ReservedCode2"]


def test_the_payload_of_a_known_code_and_number_has_the_known_bytes() -> None:
    label = aigc.payload(CODE, "P-0001")
    assert len(label) == 193
    assert hashlib.sha256(label).hexdigest() == "4bbd3db7c663480e5f30301c9d94c64baf79d944fafe5cd719da491793ef469a"


def test_the_payload_has_the_seven_keys_in_order_and_strings_alone() -> None:
    pairs = json.loads(aigc.payload(CODE, "01JD0000000000000000000000"), object_pairs_hook=list)
    assert [key for key, _ in pairs] == KEYS
    assert all(type(value) is str for _, value in pairs)


def test_the_propagator_of_a_first_writer_is_the_producer() -> None:
    label = json.loads(aigc.payload("ACME", "n1"))
    assert label["ContentPropagator"] == label["ContentProducer"] == "ACME"
    assert label["PropagateID"] == label["ProduceID"] == "n1"


@pytest.mark.parametrize("value", ["", " ", "a b", 'a"b', "a\\b", "示例公司", "a\n", "\x7f", "\x20x", "é"])
def test_a_value_outside_the_character_set_is_refused_by_name(value: str) -> None:
    with pytest.raises(ValueError, match="ContentProducer: got"):
        aigc.payload(value, "n1")
    with pytest.raises(ValueError, match="ProduceID: got"):
        aigc.payload(CODE, value)


def test_every_character_that_annex_e_takes_is_taken_and_no_other() -> None:
    taken = {0x21, *range(0x23, 0x5C), *range(0x5D, 0x7F)}
    for point in range(0x110):
        character = chr(point)
        if point in taken:
            assert json.loads(aigc.payload(character, "n"))["ContentProducer"] == character
        else:
            with pytest.raises(ValueError):
                aigc.payload(character, "n")


def test_the_header_is_base64url_that_a_strict_decoder_takes() -> None:
    for length in range(1, 8):
        label = aigc.payload("p" * length, "n" * length)
        value = aigc.header_value(label)
        assert urlsafe_b64decode(value) == label
        assert value.isascii()
        assert not set(value) & set(b"+/\r\n ")
