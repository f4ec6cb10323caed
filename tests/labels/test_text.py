"""The visible label says what it must, and stays out of code and of what machines read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.labels.text import CodeEye, affix, is_labelled, words

FENCE = "```"


def allows(*pieces: str) -> bool:
    eye = CodeEye()
    for piece in pieces:
        eye.see(piece)
    return eye.allows_label


@pytest.mark.parametrize("language", ["zh", "en", "fr"])
@pytest.mark.parametrize("position", ["start", "end"])
def test_the_affix_labels_an_answer_in_every_language(language: str, position: str) -> None:
    answer = "The tide turns twice a day. " * 20
    assert not is_labelled(answer)
    label = affix(language, position)
    assert is_labelled(label + answer if position == "start" else answer + label)
    assert is_labelled(words(language))


def test_the_chinese_affix_is_the_usual_sentence_after_an_empty_line() -> None:
    assert affix("zh", "end") == "\n\n（内容由AI生成）"
    assert affix("zh", "start") == "（内容由AI生成）\n\n"
    assert affix("zh", "none") == ""


@pytest.mark.parametrize(
    ("text", "labelled"),
    [
        ("本回答由人工智能合成。", True),
        ("AI", False),
        ("生成的答案", False),
        ("AI生成" + "水" * 200, True),
        ("水" * 200 + "AI生成", True),
        ("水" * 100 + "AI生成" + "水" * 100, False),
        ("水" * 40 + "AI" + "水" * 60 + "生成" + "水" * 90, False),
        ("They SAID 生成", False),
        ("  \n AI生成 \n ", True),
    ],
)
def test_a_label_counts_only_with_both_elements_at_one_end(text: str, labelled: bool) -> None:
    assert is_labelled(text) is labelled


@pytest.mark.parametrize(
    ("text", "may"),
    [
        ("A plain answer.", True),
        ("", False),
        (" \n ", False),
        (f"{FENCE}python\nprint(1)\n{FENCE}", False),
        (f"{FENCE}python\nprint(1)\n{FENCE}\n", False),
        (f"\n\n~~~\nprint(1)\n~~~\n\n{FENCE}\nx\n{FENCE}\n", False),
        (f"Like this:\n{FENCE}python\nprint(1)\n{FENCE}", True),
        (f"{FENCE}\nprint(1)\n{FENCE}\nThat prints one.", True),
        (f"Like this:\n{FENCE}python\nprint(1)\n", False),
        (f"Like this:\n{FENCE}python\nprint(1)\n``", False),
        (f"Like this:\n{FENCE}{FENCE}\n{FENCE}\nstill code", False),
        (f"Like this:\n~~~\n{FENCE}\nstill code", False),
        (f"Like this:\n{FENCE}\n{FENCE} not a closing fence\ncode", False),
        (f"1. Run:\n   {FENCE}sh\n   ls\n   {FENCE}\n2. Look.", True),
        (f"1. Run:\n   {FENCE}sh\n   ls\n", False),
        (f"> quoted\n> {FENCE}\n> code", False),
        (f"- {FENCE}sh\n  ls\n", False),
        (f"The mark {FENCE} opens a block, {FENCE}so to say{FENCE}.", True),
        (f"{FENCE}code in a line{FENCE} is prose", True),
        ('{"answer": 42}', False),
        ('  {"answer":\n 42}\n', False),
        ("{curly} braces may begin a sentence.", True),
        ("It may still become a fence:\n``", False),
        ("It is `code` in a line", True),
    ],
)
def test_a_label_is_never_put_into_code_or_json(text: str, may: bool) -> None:
    assert allows(text) is may


def test_a_line_that_never_ends_costs_no_memory() -> None:
    eye = CodeEye()
    for _ in range(1000):
        eye.see("word " * 100)
    assert len(eye._line) <= 512
    assert eye.allows_label


marks = st.sampled_from(
    ["`", "``", FENCE, "````", "~~~", "\n", "\r\n", " ", "> ", "- ", "1. ", "a", "水", "{", "}", "py"]
)


@given(st.lists(marks, max_size=30).map("".join), st.data())
def test_how_the_answer_is_cut_does_not_matter(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[low:high] for low, high in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert allows(*pieces) is allows(text)
