"""OpenAI moderations, answered from our own verdicts: which of its categories a text falls into by our rules.

Fields and categories follow the API reference for `POST /v1/moderations`. A list of texts has a result each; a list of
content parts has one. Pictures are refused: nothing here sees them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from guardrail.core.content import Path
from guardrail.core.policy import Action
from guardrail.core.surface import Prompt, Screened
from guardrail.core.verdict import Match, Verdict
from guardrail.errors import MalformedRequest, Unreadable
from guardrail.wire import json
from guardrail.wire.textless import Textless

MODEL = "guardrail"
"""What answers, whatever model the request names."""

CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
"""OpenAI's, in the order of its reference."""

_SAME = {
    # What the shipped classifier reports: known more closely than by a rule that listens to several labels.
    "violence_terror": ("violence", "illicit/violent"),
    "hate": ("hate",),
    "sexual": ("sexual",),
    "insult": ("harassment",),
    "illegal": ("illicit",),
    "fraud_misinfo": ("illicit",),
    "self_harm": ("self-harm",),
    # The hazards of MLCommons AILuminate 1.0.
    "vcr": ("violence", "illicit/violent"),
    "ncr": ("illicit",),
    "src": ("sexual", "illicit"),
    "cse": ("sexual", "sexual/minors"),
    "iwp": ("illicit", "illicit/violent"),
    "ssh": ("self-harm",),
    "hte": ("hate",),
    "dfm": ("harassment",),
    "sxc": ("sexual",),
    # The risks of GB/T 45654-2025, Annex A. A1f is violence and obscenity in one; phrases of it say no more.
    "A1d": ("violence", "illicit/violent"),
    "A1e": ("hate",),
    "A1f": ("violence", "sexual"),
    "A1h": ("illicit",),
    "A2": ("hate",),
    "A4a": ("self-harm",),
    "A4c": ("harassment",),
    "A4d": ("harassment",),
}
"""The categories of our rules, and the labels of our classifier, that OpenAI has words for. What is missing here
(privacy, property, attacks on the model, political classes) is in the `guardrail` object of a result alone."""


class OpenAIModerations(Textless):
    """The dialect of `/v1/moderations`, which no upstream is asked for."""

    surface = "openai_moderations"
    paths: tuple[str, ...] = ("/v1/moderations",)
    screened = Screened(
        prompt=("input", "input[]", "input[].text", "*"), answer=(), blocked="never: the verdict is the answer"
    )
    media = "text"
    inputs = ("input",)
    words = frozenset({"model"})
    streams = False

    def input_texts(self, request: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
        """The texts to judge; raises `MalformedRequest`, or `Unreadable` for a part that is no text."""
        value = request.get("input")
        if isinstance(value, str):
            yield ("input",), value
            return
        if not isinstance(value, list) or not value:
            raise MalformedRequest("input: expected text, a list of texts or a list of text parts", param="input")
        plain = isinstance(value[0], str)
        for index, item in enumerate(value):
            at: Path = ("input", index)
            if isinstance(item, str) is not plain:
                raise MalformedRequest(f"input[{index}]: expected a list of texts, or one of parts", param="input")
            if isinstance(item, str):
                # An empty text is a text here: it has a result of its own.
                yield at, item
            elif isinstance(item, dict) and item.get("type") == "text" and isinstance(item.get("text"), str):
                yield from json.strings({key: below for key, below in item.items() if key != "type"}, at)
            else:
                where = f"input[{index}]"
                raise Unreadable(f"{where}: this kind of part cannot be screened; accepted: text", param=where)

    def read_prompt(self, body: bytes) -> Prompt:
        """Read a request body; `choices` is how many results it asks for."""
        prompt = super().read_prompt(body)
        asked = json.decode(body)["input"]
        return prompt._replace(choices=len(asked) if isinstance(asked, list) and isinstance(asked[0], str) else 1)

    def moderate(self, prompt: Prompt, verdict: Verdict, ident: str) -> bytes:
        """One result for each text of a list, else one for all there is."""
        found: list[list[Match]] = [[] for _ in range(prompt.choices)]
        for match in verdict.matches:
            path = prompt.content.segments[match.finding.segment].path
            if prompt.choices > 1 and path[:1] == ("input",):
                found[int(path[1])].append(match)
            else:  # text beside the input counts for all of it
                for matches in found:
                    matches.append(match)
        results = [_result(matches) for matches in found]
        return json.encode({"id": f"modr-{ident}", "model": MODEL, "results": results})


def _result(matches: list[Match]) -> dict[str, Any]:
    """One text's result. A score is that of the surest finding that a rule listens for, and 0 where there is none."""
    scores = dict.fromkeys(CATEGORIES, 0.0)
    flagged = dict.fromkeys(CATEGORIES, False)
    enforced = [match for match in matches if match.rule.enforced]
    for match in matches:
        for name in same(match):
            scores[name] = max(scores[name], match.finding.score)
            flagged[name] = flagged[name] or match.rule.enforced
    action = max((match.rule.action for match in enforced), default=Action.ALLOW)
    return {
        "flagged": action >= Action.ANSWER or any(flagged.values()),
        "categories": flagged,
        "category_scores": scores,
        "category_applied_input_types": {name: ["text"] for name in CATEGORIES},
        "guardrail": {
            "action": action.word,
            "rules": list(dict.fromkeys(match.rule.id for match in enforced)),
            "categories": list(dict.fromkeys(match.rule.category for match in enforced)),
        },
    }


def same(match: Match) -> tuple[str, ...]:
    """OpenAI's words for what a rule found, as closely as they are known."""
    return _SAME.get(match.finding.category) or _SAME.get(match.rule.category, ())
