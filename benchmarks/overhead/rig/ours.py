"""Our own settings for the benchmark: 20,000 made-up terms as an operator's policy, everything else as shipped."""

from __future__ import annotations

import json
import random
from pathlib import Path

TERMS = 20_000
PHRASE = "how to kaboomword"
SEED = 20

# The stamps of the mock upstream are "zqx" and letters a-p; a term has neither q, x nor z and at least one of r-y, so
# that no term is ever part of one. Weights are roughly those of English.
_LETTERS = "etaoinshrdlucmfwypvbgk"
_WEIGHTS = (13, 9, 8, 7, 7, 7, 6, 6, 6, 4, 4, 3, 3, 2, 2, 2, 2, 2, 1, 1, 1, 1)
_BEYOND_P = frozenset("rstuvwy")
# A quarter of the terms is Chinese: two to five of these characters.
_CHARACTERS = (
    "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水"
    "玉出昆冈剑号巨阙珠称夜光果珍李柰菜重芥姜"
)

POLICY = """\
id = "operator-terms"
title = "Terms of the operator of this benchmark"
applies_to = { directions = ["prompt", "completion"] }
on_error = "block"

[[rule]]
id = "terms"
detector = "keywords"
phrases = "terms.txt"
category = "operator-terms"
action = "block"
severity = "medium"
because = "Made-up terms: what counts here is that there are 20,000 of them, and one that the mock upstream says."
"""

CASES = """\
[[case]]
desc = "the phrase of the mock upstream"
completion = "this is how to kaboomword now"
expect = ["operator-terms/terms"]

[[case]]
desc = "half of it"
completion = "this is how to read"
expect = []
"""

SETTINGS = """\
[policies]
directories = [{directory}]

[classifier]
enabled = false
"""


def terms(count: int = TERMS) -> list[str]:
    """`count` different made-up terms, always the same ones, the mock upstream's phrase among them."""
    dice = random.Random(SEED)
    made = {PHRASE}
    while len(made) < count:
        if dice.random() < 0.25:
            made.add("".join(dice.choices(_CHARACTERS, k=dice.randint(2, 5))))
            continue
        words = 2 if dice.random() < 0.4 else 1
        term = " ".join("".join(dice.choices(_LETTERS, _WEIGHTS, k=dice.randint(6, 12))) for _ in range(words))
        if all(_BEYOND_P & set(word) for word in term.split()):
            made.add(term)
    return sorted(made)


def write_settings(directory: Path) -> Path:
    """Write the policy and a `guardrail.toml` that names it under `directory`; returns the latter's path."""
    policies = directory / "policies"
    pack = policies / "operator-terms"
    pack.mkdir(parents=True, exist_ok=True)
    (pack / "policy.toml").write_text(POLICY)
    (pack / "cases.toml").write_text(CASES)
    (pack / "terms.txt").write_text("\n".join(terms()) + "\n", encoding="utf-8")
    settings = directory / "guardrail.toml"
    # A JSON string is a TOML basic string.
    settings.write_text(SETTINGS.format(directory=json.dumps(str(policies))))
    return settings
