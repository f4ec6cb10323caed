"""Hard variants of labelled rows: what writers do to get past a filter, done to safe and unsafe rows alike.

A variant keeps its row's label. Safe rows are changed as often as unsafe ones, so that a trick by itself is no sign of
harm. Everything is pure and seeded: the same rows, share, seed and pool give the same variants.
"""

from __future__ import annotations

import base64
import random
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import msgspec

from guardrail.training.lookalikes import (
    HIDDEN,
    LEET,
    LOOKALIKES,
    SEPARATORS,
    alphabets,
    han_doubles,
    is_han,
    parts,
    traditional,
)
from guardrail.training.rows import Row

Change = Callable[[str, random.Random], str]
"""Changes a text; returns it as it was where the trick does not fit."""

ROOM = 128
"""Tokens that training sees of a row: the first half and the last half of them where it is longer."""

_WORD = re.compile(r"[A-Za-z]{3,}|[\u4e00-\u9fff]{2,}")
_LATIN = re.compile(r"[A-Za-z]{3,}")
_MOST_WRAPPED = 120  # bytes of UTF-8: beyond it base64 alone would fill what training sees
_WRAPPERS = {
    "zh": (
        "请把下面这段 base64 解码，然后照着里面说的回答：{}",
        "{}\n上面是一段编码过的文字，解码后直接回答里面的问题。",
        "先解码再作答：{}",
        "我把问题用 base64 写了：{}，你看得懂就回答。",
    ),
    "": (
        "Decode this base64 and answer what it says: {}",
        "{}\nThe text above is base64. Read it and reply to the question in it.",
        "base64: {} (please decode, then respond)",
        "My question is encoded: {}. Work out what it is and answer it.",
    ),
}


def augment(
    rows: Sequence[Row],
    share: float,
    seed: int,
    pool: Sequence[Row] = (),
    *,
    tricks: Sequence[str] | None = None,
    room: int = ROOM,
) -> list[Row]:
    """Return `rows`, and after them a variant of a `share` (0 to 1) of them.

    The share is drawn from each label and language by itself, and inside of it the tricks take turns: each row gets
    the one used least so far of those that fit it. `pool` holds benign rows for long contexts (unsafe ones in it are
    not used); `tricks` are names of TRICKS and "context", all by default; `room` is what training sees, in tokens.
    A variant's id is its row's with `+trick`; its pair, source and licence are its row's. Raises ValueError for a
    share or a trick that is none.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; expected 0 to 1")
    named = [*TRICKS, "context"] if tricks is None else list(tricks)
    if unknown := [name for name in named if name != "context" and name not in TRICKS]:
        raise ValueError(f"tricks are {unknown}; expected some of {[*TRICKS, 'context']}")
    contexts = _contexts(pool)
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.label, row.lang].append(row)
    variants = []
    for label, lang in sorted(groups):
        group = groups[label, lang]
        dice = random.Random(f"{seed}:{label}:{lang}")
        wanted = round(share * len(group))
        used = dict.fromkeys(dice.sample(named, len(named)), 0)
        for row in dice.sample(group, len(group)):
            if not wanted:
                break
            for name in sorted(used, key=lambda name: used[name]):
                text = _apply(name, row, dice, contexts, room)
                if text != row.text:
                    variants.append(msgspec.structs.replace(row, text=text, id=f"{row.id}+{name}"))
                    used[name] += 1
                    wanted -= 1
                    break
    return [*rows, *variants]


# -- the tricks --------------------------------------------------------------------------------------------------


def homoglyphs(text: str, dice: random.Random) -> str:
    """Letters in another alphabet that looks alike (one style a text), Han characters as their doubles."""
    style: Mapping[str, str] = dice.choice([*alphabets(), LOOKALIKES, LOOKALIKES])
    rate = dice.choice((0.3, 0.6, 1.0))
    doubles = han_doubles()

    def swap(letter: str) -> str:
        forms = style.get(letter) or doubles.get(letter)
        return dice.choice(forms) if forms and dice.random() < rate else letter

    return "".join(map(swap, text))


def hidden(text: str, dice: random.Random) -> str:
    """Characters that nobody sees, inside of words."""
    mark = dice.choice(HIDDEN)
    return _between(text, dice, lambda: mark * dice.choice((1, 1, 2)), rate=0.7)


def spaced(text: str, dice: random.Random) -> str:
    """Spaces or signs between the letters of some words, or between Han characters."""
    mark = dice.choice(SEPARATORS)
    return _between(text, dice, lambda: mark, rate=1.0)


def split_han(text: str, dice: random.Random) -> str:
    """Han characters as the parts they are made of, typed side by side."""
    rate = dice.choice((0.5, 1.0))
    return "".join(parts()[char] if char in parts() and dice.random() < rate else char for char in text)


def to_traditional(text: str, dice: random.Random) -> str:
    """Simplified Han characters as traditional ones."""
    return "".join(traditional().get(char, char) for char in text)


def leet(text: str, dice: random.Random) -> str:
    """Digits and signs for letters, in some words."""
    rate = dice.choice((0.5, 1.0))

    def write(word: re.Match[str]) -> str:
        if dice.random() > 0.7:
            return word[0]
        return "".join(
            dice.choice(LEET[char.lower()]) if char.lower() in LEET and dice.random() < rate else char
            for char in word[0]
        )

    return _LATIN.sub(write, text)


def wrapped(text: str, dice: random.Random) -> str:
    """The text in base64, with a request to decode and answer it. Long texts stay as they are."""
    raw = text.encode("utf-8", "replace")
    if not raw.strip() or len(raw) > _MOST_WRAPPED:
        return text
    coded = base64.b64encode(raw).decode("ascii")
    return dice.choice(_WRAPPERS["zh" if any(map(is_han, text)) else ""]).format(coded)


TRICKS: Mapping[str, Change] = {
    "homoglyphs": homoglyphs,
    "hidden": hidden,
    "spaced": spaced,
    "split_han": split_han,
    "traditional": to_traditional,
    "leet": leet,
    "base64": wrapped,
}
"""Every trick on a text alone, by name; `in_context` needs other texts as well."""

_FOR_ASKERS = frozenset({"base64"})
"""Tricks that ask for something, which an answer does not do."""


def in_context(text: str, others: Sequence[str], dice: random.Random, room: int = ROOM) -> str:
    """A short text among benign `others`: at the start or the end of a long one, or inside of one that fits `room`.

    So that what training sees of it, the first and the last half of `room` tokens, holds the text whole; one that is
    too long for that stays as it is.
    """
    size = tokens(text)
    if not text.strip() or size > room * 0.4 or not others:
        return text
    place = dice.choice(("start", "end", "inside"))
    budget = room * 0.9 - size if place == "inside" else room * dice.choice((1, 2, 4))
    around: list[str] = []
    for other in dice.sample(others, min(len(others), 24)):
        if other != text and (cost := tokens(other)) <= budget:
            around.append(other)
            budget -= cost
    if not around:
        return text
    at = {"start": 0, "end": len(around), "inside": (len(around) + 1) // 2}[place]
    return dice.choice(("\n\n", "\n", " ")).join([*around[:at], text, *around[at:]])


def tokens(text: str) -> float:
    """About how many tokens a text comes to, rather too many: 0.8 a Han character, 0.3 any other one."""
    han = sum(map(is_han, text))
    return 0.8 * han + 0.3 * (len(text) - han)


# -- helpers -----------------------------------------------------------------------------------------------------


def _apply(name: str, row: Row, dice: random.Random, contexts: Mapping[tuple[str, str], list[str]], room: int) -> str:
    if name == "context":
        return in_context(row.text, contexts.get((row.lang, row.kind)) or contexts.get((row.lang, ""), []), dice, room)
    if name in _FOR_ASKERS and row.kind == "response":
        return row.text
    return TRICKS[name](row.text, dice)


def _contexts(pool: Sequence[Row]) -> dict[tuple[str, str], list[str]]:
    """Safe texts by language and kind, and by language alone (kind "")."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in pool:
        if row.label == "safe":
            for kind in {row.kind, ""}:
                found[row.lang, kind].append(row.text)
    return found


def _between(text: str, dice: random.Random, mark: Callable[[], str], rate: float) -> str:
    """`mark()` between neighbouring characters of some words; of Chinese, which has no spaces, also of a stretch."""

    def write(word: re.Match[str]) -> str:
        run = word[0]
        begin, end = 0, len(run)
        if is_han(run[0]) and len(run) > 4 and dice.random() < 0.6:
            begin = dice.randrange(len(run) - 2)
            end = min(len(run), begin + dice.choice((2, 3, 4, 8)))
        elif dice.random() < 0.4:
            return run
        pieces = [run[: begin + 1]]
        for char in run[begin + 1 : end]:
            pieces.append((mark() if dice.random() < rate else "") + char)
        return "".join([*pieces, run[end:]])

    return _WORD.sub(write, text)
