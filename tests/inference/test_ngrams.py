"""The n-gram scorer: what is hashed, how long texts are cut, that a file comes back as it went, and that it learns."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from guardrail.errors import SettingsError
from guardrail.inference.ngrams import CHARACTERS, FILE, NgramScorer, buckets, pieces
from guardrail.training.ngrams import fit_ngrams
from guardrail.training.rows import Row
from guardrail.training.targets import ANSWER, POLITICAL, UNSAFE


def test_each_distinct_n_gram_has_one_bucket() -> None:
    # a, b, ab, ba, aba, bab, abab and the five "ababa": eight of them, repeats counted once.
    assert len(buckets("ababab", 30)) == len({"a", "b", "ab", "ba", "aba", "bab", "abab", "baba", "ababa", "babab"})
    assert list(buckets("", 18)) == []
    assert len(buckets("炸", 18)) == 1


def test_buckets_depend_on_the_order_of_characters_and_stay_within_the_table() -> None:
    assert set(buckets("ab", 30)) != set(buckets("ba", 30))
    for size in (4, 18):
        found = buckets("the quick brown fox 跳过了懒狗 🦊", size)
        assert found.min() >= 0
        assert found.max() < 2**size
        assert list(found) == sorted(set(found))


def test_a_long_text_is_cut_into_pieces_that_leave_out_nothing() -> None:
    dice = random.Random(1)
    for length in (0, 1, CHARACTERS, CHARACTERS + 1, 5 * CHARACTERS + 7):
        text = "".join(dice.choices("abc 字", k=length)).strip()
        plain = pieces(text)
        assert all(len(piece) <= CHARACTERS for piece in plain)
        for start in range(0, max(1, len(text) - 40), 50):
            assert any(" ".join(text[start : start + 40].split()) in piece for piece in plain) or "  " in text


def test_evasions_that_normalising_undoes_change_no_score() -> None:
    scorer = NgramScorer.rounded(np.random.default_rng(1).normal(size=(2**10, 1)), np.zeros(1), ["x"])
    plain, wide, hidden = scorer.score(["make a bomb", "ＭＡＫＥ a bomb", "make a bo\u200bmb"])[:, 0]
    assert plain == wide == hidden


def material(count: int = 400) -> list[Row]:
    dice = random.Random(2)
    rows = []
    for i in range(count):
        kind = "response" if i % 4 == 0 else "prompt"
        words = dice.choices(["tea", "garden", "river", "window", "paper"], k=6)
        if i % 2:
            words.insert(dice.randint(0, 6), dice.choice(["kaboom", "炸弹"]))
        rows.append(Row(" ".join(words), "unsafe" if i % 2 else "safe", "en", kind, "illegal" if i % 2 else "safe"))
    return rows


def test_it_learns_which_spellings_are_harmful_and_forgets_a_label_that_nothing_teaches() -> None:
    scorer = fit_ngrams(material(), (UNSAFE, ANSWER, POLITICAL), size=14)
    bad, good = scorer.score(["a kaboom by the river", "paper by the window"])
    assert bad[0] > 0 > good[0]
    assert bad[1] > 0 > good[1]
    assert bad[2] == good[2] == 0.0
    buried = scorer.score(["tea in the garden. " * 200 + "kaboom" + " paper by the window" * 200])[0, 0]
    assert buried > good[0] + 0.5


def test_a_file_comes_back_as_it_went_and_another_is_refused(tmp_path: Path) -> None:
    scorer = fit_ngrams(material(), (UNSAFE,), size=12)
    assert NgramScorer.load(tmp_path) is None
    scorer.save(tmp_path)
    loaded = NgramScorer.load(tmp_path)
    assert loaded is not None
    assert loaded.labels == (UNSAFE,)
    assert np.array_equal(loaded.score(["kaboom"]), scorer.score(["kaboom"]))
    (tmp_path / FILE).write_bytes(b"half a file")
    with pytest.raises(SettingsError, match="not a file of n-gram weights"):
        NgramScorer.load(tmp_path)
    np.savez(
        tmp_path / FILE, weights=np.zeros((6, 1), "i1"), scale=np.ones(1), bias=np.zeros(1), labels=np.array(["unsafe"])
    )
    with pytest.raises(SettingsError, match="expected a power of two"):
        NgramScorer.load(tmp_path)
