"""Ask presidio-analyzer about numbers that only the words around them tell apart. The one file that imports it.

presidio imports spaCy (some 390 MB, seconds): it is imported at the first question, in the thread that asks it. It runs
with a blank spaCy pipeline, so no model is loaded or downloaded, and with pattern recognisers only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from guardrail.core.frontier import Window
from guardrail.detectors.pii.context import DIAL, impersonal, named
from guardrail.detectors.pii.labels import LIKELY, PHONE, THRESHOLDS, WEAK, Hit, canonical, distinct
from guardrail.detectors.pii.recognise import recognise, shapes
from guardrail.detectors.pii.scanner import settled

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine

# presidio's patterns use \b, which sees no boundary between a digit and a Han character.
_NOT_ASCII: Final = re.compile(r"[^\x00-\x7f]")
# Chinese words that stand where presidio expects English ones.
_TRANSLATIONS: Final = {
    "社保": "ssn",
    "社会安全": "ssn",
    "护照": "passport",
    "護照": "passport",
    "驾照": "license",
    "驾驶证": "license",
    "税号": "tin",
    "银行": "bank",
    "账号": "account",
    "账户": "account",
    "电话": "phone",
    "電話": "phone",
    "手机": "mobile",
    "传真": "fax",
    "联系": "contact",
}
_REACH: Final = 24


def build() -> AnalyzerEngine:
    """An analyzer for English with presidio's pattern recognisers for numbers; takes seconds the first time."""
    import spacy
    from presidio_analyzer import AnalyzerEngine, EntityRecognizer, RecognizerRegistry
    from presidio_analyzer.context_aware_enhancers import LemmaContextAwareEnhancer
    from presidio_analyzer.nlp_engine import SpacyNlpEngine
    from presidio_analyzer.predefined_recognizers import (
        CryptoRecognizer,
        PhoneRecognizer,
        UsBankRecognizer,
        UsItinRecognizer,
        UsLicenseRecognizer,
        UsPassportRecognizer,
        UsSsnRecognizer,
    )
    from spacy.language import Language
    from spacy.tokens import Doc

    def lemmas(doc: Doc) -> Doc:
        # A blank pipeline leaves lemmas empty, and presidio looks for its context words among the lemmas.
        for token in doc:
            token.lemma_ = token.lower_
        return doc

    Language.component("guardrail_lemmas", func=lemmas)
    blank = spacy.blank("en")
    blank.add_pipe("guardrail_lemmas")
    nlp = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": "blank"}])
    nlp.nlp = {"en": blank}
    recognizers: list[EntityRecognizer] = [
        UsSsnRecognizer(),
        UsItinRecognizer(),
        CryptoRecognizer(),
        # Their own words "number", "us", "states", "check" and "save" stand before too much else.
        PhoneRecognizer(context=["phone", "telephone", "tel", "cell", "cellphone", "mobile", "call", "fax", "contact"]),
        UsPassportRecognizer(context=["passport", "passport#", "travel"]),
        UsBankRecognizer(context=["account", "account#", "acct", "bank", "banking", "routing"]),
        UsLicenseRecognizer(context=["driver", "drivers", "driver's", "license", "licence", "dl", "driving"]),
    ]
    return AnalyzerEngine(
        registry=RecognizerRegistry(recognizers=recognizers, supported_languages=["en"]),
        nlp_engine=nlp,
        supported_languages=["en"],
        context_aware_enhancer=LemmaContextAwareEnhancer(context_matching_mode="whole_word"),
    )


def answer(engine: AnalyzerEngine, windows: Sequence[Window]) -> list[list[Hit]]:
    """What presidio finds in each window from its `start` on, where nothing of ours stands. Offsets of the channel."""
    return [[hit._replace(start=hit.start + window.offset, end=hit.end + window.offset) for hit in _ask(engine, window)]
            for window in windows]  # fmt: skip


def _ask(engine: AnalyzerEngine, window: Window) -> list[Hit]:
    text, begin = window.text, window.start - window.offset
    ours = [hit for hit in recognise(text, begin, "", shapes(text[begin:])) if hit.score >= THRESHOLDS[hit.label]]
    past = settled(begin, len(text))
    theirs = []
    before = text[max(0, begin - _REACH) : begin]
    words = [english for word, english in _TRANSLATIONS.items() if word in before]
    for result in engine.analyze(_NOT_ASCII.sub(" ", text), "en", score_threshold=WEAK, context=words):
        start, end, label = result.start, result.end, canonical(result.entity_type)
        if not begin <= start < past or any(end > hit.start and start < hit.end for hit in ours):
            continue
        score = float(result.score)
        if impersonal(text, start, end, ""):
            score = WEAK
        elif label == PHONE:
            # A numbering plan admits many a plain integer, and "call" is a stop word for presidio.
            score = LIKELY if named(DIAL, text, start) else WEAK
        theirs.append(Hit(start, end, label, score))
    return distinct(theirs)
