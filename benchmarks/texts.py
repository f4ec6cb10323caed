"""Distinct texts of given token counts for benchmarks, cut from the rows written for the shipped model."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

from tokenizers import Tokenizer


class Texts:
    """Makes texts of a model folder's own corpus. The same seed makes the same texts."""

    def __init__(self, folder: Path, corpus: Path, *, seed: int = 1) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._dice = random.Random(seed)
        rows = [
            json.loads(line)
            for path in sorted(corpus.glob("*.jsonl"))
            for line in path.read_text(encoding="utf-8").splitlines()
        ]
        self._safe = [row["text"] for row in rows if row["label"] == "safe"]
        self._unsafe = [row["text"] for row in rows if row["label"] == "unsafe" and row["kind"] == "response"]

    def tokens(self, text: str) -> int:
        """Tokens of a text without special ones."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def of(self, tokens: int) -> str:
        """A safe text of so many tokens, or one or two fewer where a token has no end of its own."""
        text = ""
        while len((encoding := self._tokenizer.encode(text, add_special_tokens=False)).ids) < tokens:
            text += self._dice.choice(self._safe) + ("\n" if self._dice.random() < 0.3 else " ")
        return text[: encoding.offsets[tokens - 1][1]]

    def many(self, count: int, low: int = 16, high: int = 512) -> list[str]:
        """Texts of `low` to `high` tokens, evenly spread over the logarithm of the length: many short, few long."""
        span = math.log(high) - math.log(low)
        return [self.of(round(low * math.exp(self._dice.random() * span))) for _ in range(count)]

    def unsafe(self, count: int, *, shortest: int = 40, longest: int = 400) -> list[str]:
        """Distinct unsafe answers of so many characters."""
        fitting = [text for text in self._unsafe if shortest <= len(text) <= longest]
        return self._dice.sample(fitting, min(count, len(fitting)))
