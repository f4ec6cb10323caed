"""Text to token ids, the same at training and at screening: a fast tokenizer that neither pads nor truncates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from guardrail.errors import SettingsError


class Window(NamedTuple):
    """A stretch of a text that fits the model: token ids with the special ones around, and its code-point offsets."""

    ids: list[int]
    start: int
    end: int


class TokenEncoder:
    """Wraps a `tokenizer.json`. Thread-safe: the wrapped tokenizer is never changed after loading.

    `max_tokens` counts the special tokens around the text too.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        frame = tokenizer.encode("a", add_special_tokens=True)
        special = [i for i, mask in enumerate(frame.special_tokens_mask) if mask]
        body = [i for i, mask in enumerate(frame.special_tokens_mask) if not mask]
        first = body[0] if body else len(special)
        self._before = [frame.ids[i] for i in special if i < first]
        self._after = [frame.ids[i] for i in special if i >= first]
        self.max_tokens = max_tokens
        self._room = max_tokens - len(special)
        if self._room < 1:
            raise SettingsError(f"max_tokens is {max_tokens}; expected more than the {len(special)} special tokens")

    @classmethod
    def load(cls, folder: Path, max_tokens: int) -> TokenEncoder:
        """Read `tokenizer.json` of a model folder. Raises SettingsError when it is missing or not a tokenizer."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise SettingsError(f"{path}: no such file; expected a fast tokenizer beside the weights")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise SettingsError(f"{path}: not a tokenizer ({error})") from None
        return cls(tokenizer, max_tokens)

    def head_and_tail(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text; one that does not fit keeps its first and last tokens, half each (for training)."""
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        result = []
        for encoding in encoded:
            ids = encoding.ids
            if len(ids) > self._room:
                head = (self._room + 1) // 2
                ids = ids[:head] + ids[len(ids) - (self._room - head) :]
            result.append(self._framed(ids))
        return result

    def windows(self, texts: Sequence[str], overlap: int = 32) -> list[list[Window]]:
        """Cut each text into windows of at most `max_tokens`, each sharing `overlap` tokens with the one before.

        A text that fits is one window, and so is an empty one; otherwise they are as few as can be and of one length,
        give or take a token, so that none is a stub judged out of context. Windows depend on the text alone.
        """
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        overlap = min(overlap, self._room - 1)
        step = self._room - overlap
        result = []
        for text, encoding in zip(texts, encoded, strict=True):
            ids, offsets = encoding.ids, encoding.offsets
            if len(ids) <= self._room:
                result.append([Window(self._framed(ids), 0, len(text))])
                continue
            count = -(-(len(ids) - overlap) // step)
            fresh = len(ids) - overlap  # tokens that windows share out among them; each takes the overlap besides
            windows = []
            for number in range(count):
                begin = number * fresh // count
                finish = (number + 1) * fresh // count + overlap
                start = offsets[begin][0] if begin else 0
                end = offsets[finish - 1][1] if finish < len(ids) else len(text)
                windows.append(Window(self._framed(ids[begin:finish]), start, end))
            result.append(windows)
        return result

    def _framed(self, ids: list[int]) -> list[int]:
        return [*self._before, *ids, *self._after]
