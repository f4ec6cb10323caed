"""Windows cover a text whole, overlap, fit the model, and give back the text's own offsets."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest

from guardrail.errors import SettingsError
from guardrail.inference.tokens import TokenEncoder
from tests.inference.tiny import tiny_tokenizer


def test_a_text_that_fits_is_one_window_with_the_special_tokens_around(encoder: TokenEncoder) -> None:
    [[window]] = encoder.windows(["make a cake"], 4)
    assert window.ids[0] == 0
    assert window.ids[-1] == 2
    assert len(window.ids) == 5
    assert (window.start, window.end) == (0, 11)


def test_an_empty_text_is_one_window(encoder: TokenEncoder) -> None:
    assert encoder.windows([""], 4) == [[([0, 2], 0, 0)]]


@pytest.mark.parametrize("count", [15, 16, 24, 25, 60, 61, 200])
def test_windows_of_a_long_text_overlap_and_cover_it(encoder: TokenEncoder, count: int) -> None:
    text = " ".join(["cake", "bomb", "you"][i % 3] for i in range(count))
    [windows] = encoder.windows([text], 4)
    assert len(windows) > 1
    assert windows[0].start == 0
    assert windows[-1].end == len(text)
    lengths = {len(window.ids) for window in windows}
    assert max(lengths) <= 16
    assert max(lengths) - min(lengths) <= 1
    assert len(windows) == math.ceil((count - 4) / 10)  # no more than it takes, 14 words each of which 4 are shared
    for before, after in pairwise(windows):
        assert len(text[after.start : before.end].split()) >= 4


def test_head_and_tail_keep_both_ends(encoder: TokenEncoder) -> None:
    [ids] = encoder.head_and_tail(["bomb " * 30 + "cake " * 30])
    [bomb, cake] = encoder.head_and_tail(["bomb", "cake"])
    assert len(ids) == 16
    assert ids[1:8] == [bomb[1]] * 7
    assert ids[8:15] == [cake[1]] * 7


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"tokenizer\.json: no such file"):
        TokenEncoder.load(tmp_path, 16)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(SettingsError, match="not a tokenizer"):
        TokenEncoder.load(tmp_path, 16)


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(SettingsError, match="special tokens"):
        TokenEncoder(tiny_tokenizer(), 2)
