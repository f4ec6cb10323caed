"""The labeller that the gateway is given."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode

import pytest

from guardrail.labels.answer import AnswerLabeller
from guardrail.labels.text import is_labelled
from guardrail.protocols import CodeEye, Labeller

CODE = "001199999999999999999910001"


def test_it_keeps_the_contract_of_a_labeller() -> None:
    labeller = AnswerLabeller(CODE, "end")
    eye: CodeEye = labeller.eye()
    eye.see("An answer.")
    assert isinstance(labeller, Labeller)
    assert eye.allows_label


def test_without_a_code_the_producer_is_unregistered() -> None:
    labeller = AnswerLabeller()
    label = json.loads(urlsafe_b64decode(labeller.header(labeller.aigc("n1"))))
    assert label["ContentProducer"] == "UNREGISTERED"
    assert label["ProduceID"] == "n1"


def test_a_producer_that_annex_e_does_not_take_is_found_at_the_start() -> None:
    with pytest.raises(ValueError, match="ContentProducer"):
        AnswerLabeller("示例公司")


def test_an_unknown_language_is_answered_in_english() -> None:
    labeller = AnswerLabeller(position="end")
    assert labeller.affix("fr") == labeller.affix("en") != labeller.affix("zh")
    assert labeller.text("fr") == labeller.text("en")


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_words_fit_into_json_as_they_are(language: str) -> None:
    text = AnswerLabeller().text(language)
    assert json.loads(f'"{text}"') == text
    assert is_labelled(text)
