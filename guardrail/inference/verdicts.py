"""Read a guard model's answer: its verdict's probability from one token's alternatives, and the categories it names.

An answer is OpenAI's JSON of a chat completion or a completion with `logprobs`. Everything that is not a verdict is a
`DetectorError`: a text about which a model said something else has not been screened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from guardrail.errors import DetectorError
from guardrail.inference.guardmodels import GuardModel

LEAST_MASS = 0.5
"""The least probability that all words of a verdict have together where a model gives one."""


class Step(NamedTuple):
    """One token of an answer, and the natural logarithms of the probabilities of what could have stood there."""

    token: str
    top: Mapping[str, float]


class Answer(NamedTuple):
    """An answer's tokens, and whether it was cut off before its end."""

    steps: Sequence[Step]
    cut: bool


class Verdict(NamedTuple):
    """How probable it is that the text is unsafe, 0 to 1, and the model's own names of the categories that it gave."""

    unsafe: float
    categories: tuple[str, ...]


def read(model: GuardModel, answer: Answer, *, led: bool, controversial: float = 1.0) -> Verdict:
    """The verdict in an answer. `led`: the prompt ended right before it; else it comes after the model's `mark`.

    `controversial`: how unsafe a verdict between the two is, 0 or 1. Raises DetectorError when there is none.
    """
    mark = "" if led else model.mark
    before = ""
    for index, step in enumerate(answer.steps):
        here = before.strip().endswith(mark) if mark else not before.strip()
        if here and step.token.strip():
            rest = "".join(later.token for later in answer.steps[index + 1 :])
            return Verdict(_unsafe(model, step, controversial), _named(model, rest, answer.cut))
        before += step.token
    raise DetectorError(
        f"the guard model's answer has no verdict; expected one of {', '.join(model.words)}"
        + (f" after {mark!r}" if mark else " at its beginning")
        + ": is it the model that `template` names?"
    )


def _unsafe(model: GuardModel, step: Step, controversial: float) -> float:
    if len(step.top) < 2:
        raise DetectorError(
            f"the guard model's server gave {len(step.top)} alternatives to the verdict; expected at least 2 "
            "(a server such as vLLM, with top_logprobs allowed)"
        )
    whole = unsafe = 0.0
    for token, logarithm in step.top.items():
        if not logarithm <= 1e-3:  # NaN compares to nothing
            raise DetectorError("the guard model's server gave a probability above 1")
        if (word := _word(model, token)) is not None:
            share = math.exp(logarithm)
            weight = model.words[word]
            whole += share
            unsafe += share * (controversial if weight is None else weight)
    if whole < LEAST_MASS:
        raise DetectorError(
            f"the guard model gave no verdict: {', '.join(model.words)} have {whole:.0%} of the probability together; "
            f"expected at least {LEAST_MASS:.0%}: is it the model that `template` names?"
        )
    return min(1.0, unsafe / whole)


def _word(model: GuardModel, token: str) -> str | None:
    """The verdict that a token begins: a tokenizer may split a word, and spaces and capitals differ between models."""
    start = token.strip().casefold()
    begun = [word for word in model.words if start and word.startswith(start)]
    return begun[0] if len(begun) == 1 else None


def _named(model: GuardModel, text: str, cut: bool) -> tuple[str, ...]:
    """The model's categories in what follows its verdict, as it names them. The last one of an answer that was cut off
    may be half a name (S1 of S10), and does not count unless it is whole by itself."""
    known = {name.casefold(): name for name in model.categories}
    # The token that ends an answer is one of its tokens: no name holds "<".
    plain = re.sub(r"(?i)categor(y|ies):", ",", text)
    words = [word.strip().casefold() for word in re.split(r"[,\n<]", plain)]
    if cut and words:
        last = words.pop()
        if last in known and not any(name != last and name.startswith(last) for name in known):
            words.append(last)
    return tuple(dict.fromkeys(known[word] for word in words if word in known))


# -- the two forms of an answer -----------------------------------------------------------------------------------


class _Alternative(msgspec.Struct):
    token: str
    logprob: float


class _Token(msgspec.Struct):
    token: str
    logprob: float
    top_logprobs: list[_Alternative] = []


class _ChatLogprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _ChatChoice(msgspec.Struct):
    logprobs: _ChatLogprobs | None = None
    finish_reason: str | None = None


class _Chat(msgspec.Struct):
    choices: list[_ChatChoice]


class _TextLogprobs(msgspec.Struct):
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None


class _TextChoice(msgspec.Struct):
    logprobs: _TextLogprobs | None = None
    finish_reason: str | None = None


class _Text(msgspec.Struct):
    choices: list[_TextChoice]


_CHAT = msgspec.json.Decoder(_Chat)
_TEXT = msgspec.json.Decoder(_Text)

_NONSENSE = "the guard model's server answered with something that is no completion"
_SILENT = "the guard model's server gave no logprobs; expected a server that does, such as vLLM"


def chat_answer(body: bytes) -> Answer:
    """The first choice of a chat completion. Raises DetectorError for what is none, and for one without logprobs."""
    try:
        choices = _CHAT.decode(body).choices
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise DetectorError(_NONSENSE) from None
    if not choices:
        raise DetectorError(_NONSENSE)
    found = choices[0].logprobs
    if found is None or not found.content:
        raise DetectorError(_SILENT)
    steps = [
        Step(token.token, {token.token: token.logprob} | {other.token: other.logprob for other in token.top_logprobs})
        for token in found.content
    ]
    return Answer(steps, choices[0].finish_reason == "length")


def text_answer(body: bytes) -> Answer:
    """The first choice of a completion. Raises DetectorError for what is none, and for one without logprobs."""
    try:
        choices = _TEXT.decode(body).choices
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise DetectorError(_NONSENSE) from None
    if not choices:
        raise DetectorError(_NONSENSE)
    found = choices[0].logprobs
    if found is None or not found.tokens or not found.top_logprobs:
        raise DetectorError(_SILENT)
    if not len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs):
        raise DetectorError(_NONSENSE)
    steps = []
    for token, own, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        alternatives = dict(top or {})
        if own is not None:
            alternatives.setdefault(token, own)
        steps.append(Step(token, alternatives))
    return Answer(steps, choices[0].finish_reason == "length")
