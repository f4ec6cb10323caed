"""Variants keep their rows' labels, can be undone or read, and fall on safe and unsafe rows alike."""

from __future__ import annotations

import base64
import random
import re
import unicodedata
from collections import Counter

import pytest

from guardrail.text.normalize import normalise
from guardrail.training import lookalikes
from guardrail.training.augment import ROOM, TRICKS, augment, in_context, tokens
from guardrail.training.rows import Row

ENGLISH = "How can I bake a chocolate cake for twelve people tomorrow?"
CHINESE = "请问怎么给外国人讲清楚春节那一日贴对联的习惯？"
CHANGES = [(name, text) for name in TRICKS for text in (ENGLISH, CHINESE)]


def rows(count: int = 60) -> list[Row]:
    """Safe and unsafe rows in both languages; one in five is unsafe, one in ten an answer."""
    made = []
    for i in range(count):
        for lang, text in (("en", ENGLISH), ("zh", CHINESE)):
            made.append(
                Row(
                    f"{text} {i}",
                    "unsafe" if i % 5 == 0 else "safe",
                    lang,
                    "response" if i % 10 == 9 else "prompt",
                    cls="hate" if i % 5 == 0 else "safe",
                    source="s",
                    pair=f"p{i // 2}",
                    id=f"{lang}{i}",
                    license="MIT",
                )
            )
    return made


POOL = [Row(f"What is a good recipe for soup number {i}?", "safe", "en", "prompt") for i in range(40)]
POOL += [Row(f"明天适合去公园散步吗？第{i}问。", "safe", "zh", "prompt") for i in range(40)]


# -- tricks one by one -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "text"), CHANGES)
def test_a_trick_hangs_on_its_dice_alone(name: str, text: str) -> None:
    trick = TRICKS[name]
    assert [trick(text, random.Random(i)) for i in range(20)] == [trick(text, random.Random(i)) for i in range(20)]


@pytest.mark.parametrize(
    ("name", "text"),
    [pair for pair in CHANGES if pair not in [("split_han", ENGLISH), ("traditional", ENGLISH), ("leet", CHINESE)]],
)
def test_a_trick_changes_texts_that_it_fits(name: str, text: str) -> None:
    changed = {TRICKS[name](text, random.Random(i)) for i in range(30)} - {text}
    assert changed
    assert all(changed)


@pytest.mark.parametrize(("name", "text"), [("split_han", ENGLISH), ("traditional", ENGLISH), ("leet", CHINESE)])
def test_a_trick_leaves_texts_that_it_does_not_fit(name: str, text: str) -> None:
    assert {TRICKS[name](text, random.Random(i)) for i in range(30)} == {text}


@pytest.mark.parametrize("name", TRICKS)
@pytest.mark.parametrize("text", ["", " ", "!?", "\ud800", "1", "啊"])
def test_texts_with_nothing_to_change_are_no_error(name: str, text: str) -> None:
    for i in range(10):
        assert isinstance(TRICKS[name](text, random.Random(i)), str)


def test_forms_that_unicode_calls_compatible_are_undone_by_normalising() -> None:
    for alphabet in lookalikes.alphabets():
        assert len(alphabet) >= 20
        for letter, form in alphabet.items():
            assert unicodedata.normalize("NFKC", form) == letter
            assert normalise(form).text == letter.lower()
    assert len(lookalikes.alphabets()) >= 10
    for han, doubles in lookalikes.han_doubles().items():
        assert {unicodedata.normalize("NFKC", double) for double in doubles} == {han}


def test_hidden_characters_vanish_when_normalised_and_separators_can_be_taken_out() -> None:
    for text in (ENGLISH, CHINESE):
        for i in range(30):
            assert normalise(TRICKS["hidden"](text, random.Random(i))).text == normalise(text).text
            spread = TRICKS["spaced"](text, random.Random(i))
            signs = "".join(set(lookalikes.SEPARATORS)) + " "
            assert re.sub(f"[{re.escape(signs)}]", "", spread) == re.sub(f"[{re.escape(signs)}]", "", text)


def test_lookalikes_are_other_letters_of_other_alphabets() -> None:
    for letter, forms in lookalikes.LOOKALIKES.items():
        assert letter.isascii()
        for form in forms:
            assert unicodedata.name(form).split()[0] in ("CYRILLIC", "GREEK", "ARMENIAN"), (letter, form)
            assert form.islower() == letter.islower()


def test_the_han_tables_are_whole_pairs_without_a_character_twice() -> None:
    for table, size in ((lookalikes._PARTS, 3), (lookalikes._TRADITIONAL, 2)):
        entries = table.split()
        assert {len(entry) for entry in entries} == {size}
        assert [entry for entry, count in Counter(entry[0] for entry in entries).items() if count > 1] == []
        assert not [entry for entry in entries if entry[0] in entry[1:]]
        assert all(lookalikes.is_han(entry[0]) for entry in entries)
    assert TRICKS["traditional"]("这个问题", random.Random(1)) == "這個問題"
    assert "弓单" in "".join(TRICKS["split_han"]("炸弹", random.Random(i)) for i in range(9))


def test_what_is_wrapped_can_be_decoded_again_and_long_texts_are_not_wrapped() -> None:
    for text in (ENGLISH, CHINESE):
        for i in range(10):
            [coded] = re.findall(r"[A-Za-z0-9+/]{40,}=*", TRICKS["base64"](text, random.Random(i)))
            assert base64.b64decode(coded).decode() == text
    assert TRICKS["base64"](ENGLISH * 9, random.Random(1)) == ENGLISH * 9


# -- contexts ----------------------------------------------------------------------------------------------------


def test_a_short_text_stands_whole_in_a_longer_one_where_training_sees_it() -> None:
    others = [row.text for row in POOL if row.lang == "zh"]
    places = set()
    for i in range(60):
        text = in_context(CHINESE, others, random.Random(i))
        assert text != CHINESE
        before, found, after = text.partition(CHINESE)
        assert found
        size = tokens(text)
        half = ROOM / 2
        assert size <= ROOM or tokens(before + found) <= half or tokens(found + after) <= half
        places.add((bool(before.strip()), bool(after.strip())))
    assert places == {(False, True), (True, False), (True, True)}


def test_a_text_too_long_to_be_hidden_and_one_without_company_stay_as_they_are() -> None:
    assert in_context(CHINESE * 5, ["好的"], random.Random(1)) == CHINESE * 5
    assert in_context(CHINESE, [], random.Random(1)) == CHINESE
    assert in_context(CHINESE, [CHINESE], random.Random(1)) == CHINESE


def test_contexts_are_benign_and_of_the_rows_language() -> None:
    pool = [*POOL, Row("something unsafe", "unsafe", "en", "prompt")]
    made = augment(rows(), 0.5, 1, pool, tricks=["context"])[120:]
    assert len(made) == 60
    for row in made:
        assert "something unsafe" not in row.text
        assert ("soup number" in row.text) is (row.lang == "en")
        assert ("公园" in row.text) is (row.lang == "zh")


# -- the mix -----------------------------------------------------------------------------------------------------


def test_rows_come_first_as_they_were_and_a_share_of_variants_after_them() -> None:
    given = rows()
    made = augment(given, 0.25, 7, POOL)
    assert made[: len(given)] == given
    assert len(made) == len(given) * 1.25
    assert augment(given, 0, 7, POOL) == given
    assert len(augment(given, 1.0, 7, POOL)) == 2 * len(given)


def test_the_same_seed_gives_the_same_variants_and_another_seed_others() -> None:
    assert augment(rows(), 0.5, 7, POOL) == augment(rows(), 0.5, 7, POOL)
    assert augment(rows(), 0.5, 7, POOL) != augment(rows(), 0.5, 8, POOL)


def test_a_variant_is_its_row_but_for_text_and_id() -> None:
    by_id = {row.id: row for row in rows()}
    for row in augment(rows(), 1.0, 3, POOL)[120:]:
        ident, _, trick = row.id.partition("+")
        assert trick in {*TRICKS, "context"}
        origin = by_id[ident]
        assert row.text != origin.text
        for field in ("label", "lang", "kind", "cls", "source", "pair", "license"):
            assert getattr(row, field) == getattr(origin, field)


def test_no_trick_is_a_sign_of_harm() -> None:
    given = rows(200)
    made = augment(given, 0.5, 11, POOL)[len(given) :]
    for lang in ("en", "zh"):
        counts = {
            label: Counter(row.id.partition("+")[2] for row in made if row.lang == lang and row.label == label)
            for label in ("safe", "unsafe")
        }
        assert set(counts["safe"]) == set(counts["unsafe"])
        for trick, count in counts["unsafe"].items():
            share = count / sum(counts["unsafe"].values())
            assert share == pytest.approx(counts["safe"][trick] / sum(counts["safe"].values()), abs=0.06), (lang, trick)


def test_answers_do_not_ask_to_be_decoded() -> None:
    made = augment(rows(), 1.0, 5, POOL, tricks=["base64"])[120:]
    assert {row.kind for row in made} == {"prompt"}
    assert len(made) == sum(row.kind == "prompt" for row in rows())


def test_a_share_or_a_trick_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 to 1"):
        augment(rows(), 1.5, 1)
    with pytest.raises(ValueError, match=r"\['rot13'\]; expected some of"):
        augment(rows(), 0.5, 1, tricks=["rot13"])
