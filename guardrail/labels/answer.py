"""The labels of an answer that travels as JSON or SSE: what the gateway's `Labeller` protocol asks for."""

from __future__ import annotations

from guardrail.labels import aigc, text
from guardrail.labels.text import CodeEye


class AnswerLabeller:
    """Labels answers of one provider. `position` is where the visible label goes: none, start or end.

    `producer` is the provider's 27-character code; without one the label says UNREGISTERED.
    Raises ValueError for a producer that Annex E does not take.
    """

    def __init__(self, producer: str = "", position: str = "none") -> None:
        self.producer = producer or aigc.UNREGISTERED
        self.position = position
        self._affixes = {language: text.affix(language, position) for language in text.WORDS}
        aigc.payload(self.producer, "1")  # a wrong producer is found at the start, not at the first answer

    def aigc(self, produce_id: str) -> bytes:
        """The implicit label of one answer, as JSON; raises ValueError for an id that Annex E does not take."""
        return aigc.payload(self.producer, produce_id)

    def header(self, aigc_label: bytes) -> bytes:
        """The same for the `AIGC` header."""
        return aigc.header_value(aigc_label)

    def text(self, language: str) -> str:
        """What a client is to show beside the answer."""
        return text.words(language)

    def affix(self, language: str) -> str:
        """What we put into the answer's text ourselves, with its line breaks; empty where nothing goes."""
        return self._affixes.get(language, self._affixes["en"])

    def eye(self) -> CodeEye:
        return CodeEye()
