"""A verdict is read from the alternatives to one token; what is no verdict is an error that says why."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import pytest

from guardrail.errors import DetectorError
from guardrail.inference.guardmodels import GUARD_MODELS
from guardrail.inference.verdicts import Answer, Step, chat_answer, read, text_answer

QWEN, LLAMA, GRANITE = GUARD_MODELS["qwen3guard"], GUARD_MODELS["llama-guard-3"], GUARD_MODELS["granite-guardian-3.3"]


def step(token: str, **top: float) -> Step:
    """A token, and the probabilities of what could have stood there (`_` for a space before)."""
    return Step(token, {word.replace("_", " "): math.log(p) for word, p in (top or {token: 0.9, "?": 0.1}).items()})


def said(*steps: Step | str, cut: bool = False) -> Answer:
    return Answer([one if isinstance(one, Step) else step(one) for one in steps], cut)


def test_the_probability_is_that_of_the_verdicts_token_among_all_verdicts() -> None:
    verdict = step(" Unsafe", _Unsafe=0.6, _Safe=0.2, _Controversial=0.1, _Other=0.1)
    answer = said("Safety", ":", verdict, "\n", "Categories", ":", " Violent")
    assert read(QWEN, answer, led=False).unsafe == pytest.approx(0.7 / 0.9)
    assert read(QWEN, answer, led=False, controversial=0.0).unsafe == pytest.approx(0.6 / 0.9)
    assert read(QWEN, said(verdict), led=True).unsafe == pytest.approx(0.7 / 0.9)


def test_halves_of_a_word_spaces_and_capitals_are_the_same_verdict() -> None:
    verdict = step(" Uns", _Uns=0.3, unsafe=0.2, Safe=0.3, _S=0.1, _Contro=0.1)
    assert read(QWEN, said(verdict, "afe"), led=True).unsafe == pytest.approx(0.6)


def test_blank_tokens_before_a_verdict_are_passed_over() -> None:
    assert read(LLAMA, said("\n\n", step("unsafe", unsafe=0.9, safe=0.1)), led=False).unsafe == pytest.approx(0.9)
    thought = said("<think>", "\n", "</think>", "\n", "<", "score", ">", step(" yes", _yes=0.75, _no=0.25), " </score>")
    assert read(GRANITE, thought, led=False).unsafe == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("answer", "led"),
    [
        (said("I", " cannot", " help"), False),
        (said("Safety", ":"), False),
        (said("\n", " "), True),
        (said(), False),
    ],
)
def test_an_answer_without_a_verdict_is_an_error(answer: Answer, led: bool) -> None:
    with pytest.raises(DetectorError, match=r"no verdict.*template"):
        read(QWEN, answer, led=led)


def test_a_model_that_says_something_else_where_the_verdict_belongs_is_an_error() -> None:
    with pytest.raises(DetectorError, match="have 30% of the probability"):
        read(LLAMA, said(step("Sure", Sure=0.7, safe=0.2, unsafe=0.1)), led=False)


@pytest.mark.parametrize("top", [{}, {"safe": 0.0}])
def test_too_few_alternatives_are_an_error(top: Mapping[str, float]) -> None:
    with pytest.raises(DetectorError, match=f"gave {len(top)} alternatives.*at least 2"):
        read(LLAMA, Answer([Step("safe", top)], False), led=False)


def test_a_probability_above_one_is_an_error() -> None:
    for logarithm in (0.5, math.inf, math.nan):
        with pytest.raises(DetectorError, match="above 1"):
            read(LLAMA, Answer([Step("safe", {"safe": logarithm, "unsafe": -1.0})], False), led=False)


@pytest.mark.parametrize(
    ("rest", "cut", "names"),
    [
        (["\n", "Categories", ": ", "Violent", ", PII"], False, ("Violent", "PII")),
        (["\nCategories: Suicide & Self-Harm, Violent<|im_end|>"], False, ("Suicide & Self-Harm", "Violent")),
        (["\nCategories: None"], False, ()),
        (["\nCategories: Witchcraft, Jailbreak\nRefusal: No"], False, ("Jailbreak",)),
        (["\nCategories: PII, Politically"], True, ("PII",)),
        (["\nCategories: PII, Violent"], True, ("PII", "Violent")),
    ],
)
def test_categories_are_those_that_it_names(rest: Sequence[str], cut: bool, names: tuple[str, ...]) -> None:
    answer = said("Safety", ":", step(" Unsafe", _Unsafe=0.9, _Safe=0.1), *rest, cut=cut)
    assert read(QWEN, answer, led=False).categories == names


def test_half_a_code_of_an_answer_that_was_cut_off_is_none() -> None:
    unsafe = step("unsafe", unsafe=0.9, safe=0.1)
    assert read(LLAMA, said(unsafe, "\nS10,S1", cut=True), led=False).categories == ("S10",)
    assert read(LLAMA, said(unsafe, "\nS10,S1"), led=False).categories == ("S10", "S1")
    assert read(LLAMA, said(unsafe, "\nS9", cut=True), led=False).categories == ("S9",)


# -- the two forms ----------------------------------------------------------------------------------------------


def test_a_chat_completions_tokens_are_read() -> None:
    content = [{"token": "safe", "logprob": -0.1, "top_logprobs": [{"token": "unsafe", "logprob": -2.4, "bytes": [1]}]}]
    body = {"id": "x", "choices": [{"index": 0, "logprobs": {"content": content}, "finish_reason": "length"}]}
    assert chat_answer(json.dumps(body).encode()) == Answer([Step("safe", {"safe": -0.1, "unsafe": -2.4})], True)


def test_a_completions_tokens_are_read() -> None:
    logprobs = {"tokens": ["safe"], "token_logprobs": [-0.1], "top_logprobs": [{"unsafe": -2.4}], "text_offset": [0]}
    body = {"choices": [{"text": "safe", "logprobs": logprobs, "finish_reason": "stop"}]}
    assert text_answer(json.dumps(body).encode()) == Answer([Step("safe", {"unsafe": -2.4, "safe": -0.1})], False)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": "none"}', b"\xff"])
def test_what_is_no_completion_is_an_error(body: bytes) -> None:
    for decode in (chat_answer, text_answer):
        with pytest.raises(DetectorError, match="no completion"):
            decode(body)


def test_tokens_and_alternatives_that_do_not_match_are_an_error() -> None:
    logprobs = {"tokens": ["a", "b"], "token_logprobs": [-0.1], "top_logprobs": [{"a": -0.1}]}
    with pytest.raises(DetectorError, match="no completion"):
        text_answer(json.dumps({"choices": [{"logprobs": logprobs}]}).encode())


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": []}])
def test_an_answer_without_logprobs_is_an_error_that_says_so(logprobs: object) -> None:
    body = json.dumps({"choices": [{"logprobs": logprobs, "text": "safe", "message": {"content": "safe"}}]}).encode()
    for decode in (chat_answer, text_answer):
        with pytest.raises(DetectorError, match="no logprobs; expected"):
            decode(body)
