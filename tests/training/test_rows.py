"""Rows are read with errors that name file and line; the mix is capped, balanced and repeatable."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from guardrail.errors import SettingsError
from guardrail.training.config import Quota, load_config
from guardrail.training.rows import Row, draw_mix, read_rows, split_holdout


def write(path: Path, rows: list[object]) -> Path:
    data = "\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes(gzip.compress(data.encode()) if path.suffix == ".gz" else data.encode())
    return path


@pytest.mark.parametrize("name", ["own.jsonl", "own.jsonl.gz"])
def test_rows_are_read_plain_and_compressed(tmp_path: Path, name: str) -> None:
    path = write(
        tmp_path / name,
        [{"text": "你好", "label": "safe", "lang": "zh", "cls": None}, "", {"text": "x", "label": "unsafe"}],
    )
    first, second = read_rows(path)
    assert first == Row("你好", "safe", lang="zh", source="own", id="1")
    assert second.id == "3"


def test_where_keeps_rows_that_do_not_say_unless_strict(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        [{"text": str(i), "label": "safe", **({"lic": lic} if lic else {})} for i, lic in enumerate(["x", "y", None])],
    )
    assert [row.text for row in read_rows(path, {"lic": "x"})] == ["0", "2"]
    assert [row.text for row in read_rows(path, {"lic": "x"}, strict=True)] == ["0"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: a JSON list; expected one JSON object a line"),
        ({"label": "safe"}, 'line 2: "text" is missing; expected a string'),
        ({"text": "x", "label": "bad"}, 'line 2: "label" is "bad"; expected safe, unsafe, borderline'),
        ({"text": "x", "label": "safe", "lang": 3}, 'line 2: "lang" is 3; expected a string'),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, complaint: str) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "x", "label": "safe"}, line])
    with pytest.raises(SettingsError) as caught:
        read_rows(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert complaint in str(caught.value)


def test_a_long_text_is_not_repeated_in_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "x", "label": "a private remark " * 9}])
    with pytest.raises(SettingsError) as caught:
        read_rows(path)
    assert "private" not in str(caught.value)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file"):
        read_rows(tmp_path / "none.jsonl")
    broken = tmp_path / "b.jsonl.gz"
    broken.write_bytes(b"plain")
    with pytest.raises(SettingsError, match=r"b\.jsonl\.gz"):
        read_rows(broken)
    broken.write_bytes(gzip.compress(b'{"text": "x", "label": "safe"}\n' * 9_000)[:-12])
    with pytest.raises(SettingsError, match="broken gzip"):
        read_rows(broken)
    latin = tmp_path / "c.jsonl"
    latin.write_bytes(b'{"text": "\xff"}')
    with pytest.raises(SettingsError, match="not UTF-8"):
        read_rows(latin)
    with pytest.raises(SettingsError, match=str(tmp_path)):
        read_rows(tmp_path)


def rows(source: str, label: str, cls: str, count: int, lang: str = "zh") -> list[Row]:
    return [Row(f"{source} {label} {cls} {lang} {i}", label, lang=lang, cls=cls, source=source) for i in range(count)]


def test_a_quota_caps_a_source_and_takes_rare_classes_whole() -> None:
    pool = rows("a", "unsafe", "insult", 100) + rows("a", "unsafe", "hate", 5)
    drawn = draw_mix(pool, [Quota("a", 25)], 1_000, 1)
    assert Counter(row.cls for row in drawn) == {"insult": 20, "hate": 5}


def test_the_first_quota_that_fits_counts_and_what_none_names_stays_out() -> None:
    pool = rows("a", "safe", "safe", 10) + rows("a", "unsafe", "hate", 10) + rows("b", "safe", "safe", 10)
    drawn = draw_mix(pool, [Quota("a", 3, label="safe"), Quota("a", 0, cls="hate"), Quota("a", 9)], 1_000, 1)
    assert Counter((row.source, row.label) for row in drawn) == {("a", "safe"): 3}


def test_a_mix_is_repeatable_holds_each_text_once_and_keeps_the_limit() -> None:
    pool = rows("a", "safe", "safe", 50)
    assert draw_mix(pool + pool, [Quota("a", 99)], 1_000, 1) == draw_mix(pool, [Quota("a", 99)], 1_000, 1)
    assert len(draw_mix(pool, [Quota("a", 99)], 20, 1)) == 20
    assert draw_mix(pool, [Quota("a", 20)], 99, 1) != draw_mix(pool, [Quota("a", 20)], 99, 2)


def test_twins_are_held_back_together_and_other_sources_never() -> None:
    pool = [Row(f"{i}", "safe" if i % 2 else "unsafe", source="own", pair=f"p{i // 2}", id=str(i)) for i in range(400)]
    pool += rows("other", "safe", "safe", 50)
    kept, held = split_holdout(pool, "own", 0.25)
    assert 60 < len(held) < 140
    assert all(count == 2 for count in Counter(row.pair for row in held).values())
    assert {row.source for row in held} == {"own"}
    assert len(kept) + len(held) == 450
    assert split_holdout(list(reversed(pool)), "own", 0.25)[1] == list(reversed(held))


def test_a_training_file_with_a_wrong_key_or_value_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    with pytest.raises(SettingsError, match=r"train\.toml: no such file"):
        load_config(path)
    path.write_text("mix = []\nepoch = 3\n")
    with pytest.raises(SettingsError, match=r"train\.toml: .*epoch"):
        load_config(path)
    path.write_text('epochs = "three"\n')
    with pytest.raises(SettingsError, match=r"train\.toml: .*\$\.epochs"):
        load_config(path)
