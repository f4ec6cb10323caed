"""Score texts by the character n-grams they hold: a linear model beside the encoder, nearly free, and right elsewhere.

It knows spellings where the encoder knows meanings. N-grams of one to five characters are hashed into buckets (feature
hashing, Weinberger et al. 2009); a text's score is the sum of its buckets' weights over the root of their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardrail.errors import SettingsError
from guardrail.text.normalize import normalise

FILE = "ngrams.npz"
LONGEST = 5
CHARACTERS = 600
"""A longer text is scored in pieces of this many characters, each label's highest score: a short harmful stretch must
not drown in a long text."""

_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93,
                     0xA0761D6478BD642F], dtype=np.uint64)  # fmt: skip
_MIX = np.uint64(0xFF51AFD7ED558CCD)


def buckets(text: str, size: int) -> NDArray[np.int64]:
    """The distinct buckets, of 2 ** `size`, that the n-grams of a normalised text fall into, in rising order."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    found = []
    for n in range(1, min(LONGEST, len(codes)) + 1):
        count = len(codes) - n + 1
        mixed = np.full(count, n, dtype=np.uint64)
        for i in range(n):
            mixed = (mixed + codes[i : i + count]) * _FACTORS[i]
            mixed ^= mixed >> np.uint64(29)
        mixed *= _MIX
        found.append(mixed >> np.uint64(64 - size))
    if not found:
        return np.empty(0, dtype=np.int64)
    return np.unique(np.concatenate(found)).astype(np.int64)


def pieces(text: str) -> list[str]:
    """A text, normalised, in stretches of at most `CHARACTERS` that share half with the one before."""
    plain = normalise(text).text
    step = CHARACTERS // 2
    return [plain[start : start + CHARACTERS] for start in range(0, max(1, len(plain) - step), step)]


class NgramScorer:
    """Weights [2 ** size, labels] in steps of `scale`, one byte each, with a bias for each label.

    Thread-safe: nothing changes after loading.
    """

    def __init__(
        self,
        weights: NDArray[np.int8],
        scale: NDArray[np.float32],
        bias: NDArray[np.float32],
        labels: Sequence[str],
    ) -> None:
        self.labels = tuple(labels)
        self._weights = weights
        self._scale = scale
        self._bias = bias
        self._size = len(weights).bit_length() - 1

    @classmethod
    def rounded(cls, weights: NDArray[Any], bias: NDArray[Any], labels: Sequence[str]) -> NgramScorer:
        """The scorer of exact weights [2 ** size, labels], which are rounded to 255 steps a label."""
        scale = np.maximum(np.abs(weights).max(axis=0), 1e-9) / 127
        return cls(np.round(weights / scale).astype(np.int8), scale.astype("f4"), bias.astype("f4"), labels)

    @classmethod
    def load(cls, folder: Path) -> NgramScorer | None:
        """The scorer of a model folder; none where it has none. Raises SettingsError for a file of another kind."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as saved:
                weights, scale, bias = saved["weights"], saved["scale"], saved["bias"]
                labels = [str(label) for label in saved["labels"]]
        except (OSError, ValueError, KeyError) as error:
            raise SettingsError(f"{path}: not a file of n-gram weights ({type(error).__name__})") from None
        if weights.ndim != 2 or not weights.shape[1] == len(labels) == len(bias) == len(scale):
            raise SettingsError(f"{path}: weights of shape {weights.shape} for {len(labels)} labels")
        if len(weights) < 2 or len(weights) & (len(weights) - 1):
            raise SettingsError(f"{path}: {len(weights)} buckets; expected a power of two")
        return cls(weights, scale, bias, labels)

    def save(self, folder: Path) -> None:
        """Write the file that `load` reads."""
        np.savez_compressed(
            folder / FILE, weights=self._weights, scale=self._scale, bias=self._bias, labels=np.array(self.labels)
        )

    def score(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Log-odds [n, labels]; for a long text the highest over its pieces. About 0.2 ms for 200 characters."""
        rows = np.empty((len(texts), len(self.labels)), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[:] = np.max([self._piece(piece) for piece in pieces(text)], axis=0)
        return rows

    def _piece(self, text: str) -> NDArray[np.float32]:
        places = buckets(text, self._size)
        if not len(places):
            return self._bias
        total = self._weights[places].sum(axis=0, dtype=np.int32)
        return np.asarray(total * self._scale / np.sqrt(len(places)) + self._bias, dtype=np.float32)
