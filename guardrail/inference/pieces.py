"""Cut texts that a server cannot take whole into overlapping pieces by their characters, and put the scores together.

Our own engine cuts by tokens (`tokens`); a server's tokenizer is not here, and what it
cuts off itself nobody has screened.
"""

from __future__ import annotations

from collections.abc import Sequence

Scores = tuple[float, ...]


def cut(text: str, size: int) -> list[str]:
    """Pieces of at most `size` characters, each of which shares a fifth with the one before; the last one is full.

    A text that fits is one piece. What is at most a fifth of `size` long lies whole in some piece.
    """
    if len(text) <= size:
        return [text]
    step = max(1, size - size // 5)
    begins = [*range(0, len(text) - size, step), len(text) - size]
    return [text[begin : begin + size] for begin in begins]


def highest(rows: Sequence[Scores], counts: Sequence[int]) -> list[Scores]:
    """For each text the highest score of each label over its pieces; text `i` has `counts[i]` of `rows`, in order."""
    texts = []
    begin = 0
    for count in counts:
        texts.append(tuple(map(max, zip(*rows[begin : begin + count], strict=True))))
        begin += count
    return texts
