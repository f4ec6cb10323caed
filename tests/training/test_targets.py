"""What each head is asked, row by row."""

from __future__ import annotations

from guardrail.training.rows import Row
from guardrail.training.targets import CLASSES, LABELS, targets


def asked(label: str, cls: str = "", cls2: str = "") -> dict[str, float]:
    """The targets of a row, leaving out what it does not teach."""
    wanted, weights = targets(Row("x", label, cls=cls, cls2=cls2))
    return {name: value for name, value, weight in zip(LABELS, wanted, weights, strict=True) if weight}


def test_safe_rows_teach_every_head_no() -> None:
    assert asked("safe", "safe") == dict.fromkeys(LABELS, 0.0)


def test_a_known_class_teaches_its_head_yes_and_the_others_no() -> None:
    found = asked("unsafe", "sexual")
    assert found["unsafe"] == found["unsafe_answer"] == found["sexual"] == 1.0
    assert found["political"] == found["jailbreak"] == found["hate"] == 0.0
    assert set(found) == set(LABELS)


def test_hate_says_nothing_about_insult() -> None:
    assert "insult" not in asked("unsafe", "hate")
    assert "hate" not in asked("unsafe", "insult")


def test_political_rows_never_teach_the_unsafe_head_yes() -> None:
    found = asked("unsafe", "political")
    assert found == {"political": 1.0, "jailbreak": 0.0}


def test_an_unknown_class_teaches_only_unsafe() -> None:
    assert asked("unsafe", "unsafe_other") == {"unsafe": 1.0, "unsafe_answer": 1.0}


def test_prompts_teach_one_head_and_answers_the_other_with_a_word_to_each_other() -> None:
    for kind, ours, others in (("prompt", "unsafe", "unsafe_answer"), ("response", "unsafe_answer", "unsafe")):
        _, weights = targets(Row("x", "unsafe", cls="hate", kind=kind))
        weight = dict(zip(LABELS, weights, strict=True))
        assert weight[ours] == 1.0
        assert 0.0 < weight[others] < 0.5


def test_a_jailbreak_teaches_its_goal_where_that_is_known() -> None:
    assert asked("unsafe", "jailbreak") == {"unsafe": 1.0, "unsafe_answer": 1.0, "political": 0.0, "jailbreak": 1.0}
    found = asked("unsafe", "jailbreak", "illegal")
    assert found == {"unsafe": 1.0, "unsafe_answer": 1.0, "political": 0.0, "jailbreak": 1.0, "illegal": 1.0}


def test_borderline_rows_ask_for_an_even_chance() -> None:
    found = asked("borderline", "hate")
    assert found == {"unsafe": 0.5, "unsafe_answer": 0.5}
    assert not set(found) & set(CLASSES)
