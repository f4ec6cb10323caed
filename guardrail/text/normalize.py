"""Normalise text for matching, and say where every character of the result came from. Pure.

Two steps, each a function from text to text with a `Layer` that maps offsets back: `squeeze` (drop what a reader does
not see, one space for a run of white space) and `fold` (NFKC and case folding, UAX #15; Unicode section 3.13). Further
steps (confusables, encodings ...) are further layers of the same `Offsets`.

Growing text: `squeeze` needs to know of what came before only whether it ended in a space, and everything before
`settled` of its result is normalised for good, whatever comes next.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cache, lru_cache
from typing import NamedTuple
from unicodedata import is_normalized, normalize

from guardrail.text.characters import (
    CLOSED,
    EXTENDING,
    EXTENDING_BMP,
    IGNORABLE,
    MARKED_PLANES,
    SURROGATE,
    WHITE_SPACE,
    is_closed,
)

MOST_HIDDEN = 64
"""A run of more ignorable characters than this carries something, and is a finding of its own."""

IGNORABLES = re.compile(f"[{IGNORABLE}]+")
"""A run of characters that a reader does not see."""

_SOME_WHITE = WHITE_SPACE.replace("\x1c-\x20", "\x1c-\x1f")
_UNEVEN_ASCII = re.compile("[\x00-\x1f\x7f]")
_UNEVEN = re.compile(f"[{IGNORABLE}{_SOME_WHITE}{SURROGATE}]")
_RUN = re.compile(f"[{IGNORABLE}{WHITE_SPACE}]{{2,}}|[{IGNORABLE}{_SOME_WHITE}]")
_LEADING = re.compile(f"[{IGNORABLE}{WHITE_SPACE}]+")
_WHITE = re.compile(f"[{WHITE_SPACE}]")
_SURROGATES = re.compile(f"[{SURROGATE}]")


# A cluster normalises as one: a character that may compose and the marks after it. At most 32 code points, as in the
# Stream-Safe Text Format of UAX #15, so that a tower of marks can neither hold a stream back nor cost quadratic time.
@cache
def _clusters(extending: str) -> re.Pattern[str]:
    return re.compile(f"[^{extending}{CLOSED}]?[{extending}]{{1,31}}")


_MARKED = re.compile(f"[{EXTENDING_BMP}{MARKED_PLANES}]")
_ELSEWHERE = re.compile(f"[{MARKED_PLANES}]")
# What folds to several characters and is common enough to be singled out; the rest is found by its length.
_EXPANDING = re.compile(
    "[\xa8\xaf\xb4\xb8\xbc-\xbe\xdf\u0130\u0132\u0133\u0149\u01c4-\u01cc\u01f0-\u01f3\u02d8-\u02dd\u2017\u2024-\u2026"
    "\u2033-\u2037\u203c\u203e\u2047-\u2049\u2057\u20a8\u2100-\u2121\u213b\u2150-\u218f\u222c-\u2230\u2460-\u24ff"
    "\u3200-\u33ff\ufb00-\ufb4f\uffe3\U0001f100-\U0001f2ff]"
)
# NFKC takes its slow road for a text with a single full-width comma in it, and every Chinese text has one.
_FULL_WIDTH = tuple((chr(ord(narrow) + 0xFEE0), narrow) for narrow in ",!?:;()")


class Layer:
    """One step's offset map from its output to its input: linear runs and clusters, in order and without gaps.

    A cluster turned n characters into m as one, so that each of the m stands for all of the n. Input between two
    pieces was dropped.
    """

    __slots__ = ("length", "origins", "size", "starts", "stops")

    def __init__(self) -> None:
        self.starts: list[int] = []  # of each piece in the output
        self.origins: list[int] = []  # of each piece in the input
        self.stops: list[int] = []  # end of a cluster in the input, 0 for a linear run
        self.size = self.length = 0  # of output and input

    def add(self, size: int, origin: int, stop: int = 0) -> None:
        """Append a piece of `size` output characters that came from `origin` on (a cluster where `stop` is given)."""
        starts, stops = self.starts, self.stops
        if stop or not starts or stops[-1] or origin - self.size != self.origins[-1] - starts[-1]:
            starts.append(self.size)
            self.origins.append(origin)
            stops.append(stop)
        self.size += size

    def start(self, index: int) -> int:
        """Where in the input the output character at `index` begins."""
        if index >= self.size:
            return self.length
        piece = bisect_right(self.starts, index) - 1
        return self.origins[piece] if self.stops[piece] else self.origins[piece] + index - self.starts[piece]

    def end(self, index: int) -> int:
        """Where in the input the last output character before `index` ends."""
        if index <= 0:
            return 0
        piece = bisect_right(self.starts, index - 1) - 1
        return self.stops[piece] or self.origins[piece] + index - self.starts[piece]

    def index(self, origin: int) -> int:
        """The first output character that came from the input at `origin` or later."""
        piece = bisect_right(self.origins, origin) - 1
        if piece < 0:
            return 0
        after = self.starts[piece + 1] if piece + 1 < len(self.starts) else self.size
        if self.stops[piece]:
            return self.starts[piece] if origin < self.stops[piece] else after
        return min(self.starts[piece] + origin - self.origins[piece], after)


class Offsets:
    """From offsets of normalised text to offsets (code points) of the original, through each step's layer."""

    __slots__ = ("layers",)

    def __init__(self, *layers: Layer | None) -> None:
        self.layers = tuple(layer for layer in reversed(layers) if layer is not None)

    def start(self, index: int) -> int:
        """Where the normalised character at `index` begins in the original."""
        for layer in self.layers:
            index = layer.start(index)
        return index

    def end(self, index: int) -> int:
        """Where the last normalised character before `index` ends in the original; dropped ones after it are left."""
        for layer in self.layers:
            index = layer.end(index)
        return index


class Normalised(NamedTuple):
    """A normalised text and the way back: `original[offsets.start(i) : offsets.end(j)]` became `text[i:j]`."""

    text: str
    offsets: Offsets


def normalise(text: str, *, after_space: bool = False) -> Normalised:
    """Squeeze and fold a whole text, or the rest of one that was cut where it was settled (`after_space`: the part
    before ended in white space)."""
    squeezed, dropped = squeeze(text, after_space=after_space)
    folded, changed = fold(squeezed)
    return Normalised(folded, Offsets(dropped, changed))


def squeeze(text: str, *, after_space: bool = False) -> tuple[str, Layer | None]:
    """Drop ignorable characters and make each run of white space one space; the layer is none where no offset moved.

    A run's space stands for its first white space character. Halves of a surrogate pair become U+FFFD.
    """
    plain = text.isascii()
    uneven = _UNEVEN_ASCII if plain else _UNEVEN
    even = (plain and text.isprintable()) or uneven.search(text) is None
    if even and "  " not in text and not (after_space and text[:1] == " "):
        return text, None
    if uneven is _UNEVEN:
        text = _SURROGATES.sub("\ufffd", text)
    layer, out, done = Layer(), [], 0
    if after_space and (leading := _LEADING.match(text)):
        done = leading.end()
    for run in _RUN.finditer(text, done):
        start, stop = run.span()
        if start > done:
            out.append(text[done:start])
            layer.add(start - done, done)
        if white := _WHITE.search(text, start, stop):
            out.append(" ")
            layer.add(1, white.start())
        done = stop
    if done < len(text):
        out.append(text[done:])
        layer.add(len(text) - done, done)
    layer.length = len(text)
    return "".join(out), None if layer.size == len(text) else layer


def fold(squeezed: str) -> tuple[str, Layer | None]:
    """NFKC and case folding of squeezed text, cluster by cluster; the layer is none where no offset moved."""
    if squeezed.isascii():
        return squeezed.lower(), None
    marked = _MARKED.search(squeezed) is not None
    if not marked:
        plain = _plain(squeezed)
        if len(plain) == len(squeezed):
            return plain, None
    pattern = _EXPANDING if not marked else _clusters(EXTENDING if _ELSEWHERE.search(squeezed) else EXTENDING_BMP)
    layer, out, done = Layer(), [], 0
    for cluster in pattern.finditer(squeezed):
        start, stop = cluster.span()
        if start > done:
            out.append(_add_plain(layer, squeezed, done, start))
        atom = fold_cluster(cluster[0])
        out.append(atom)
        layer.add(len(atom), start, stop)
        done = stop
    if done < len(squeezed):
        out.append(_add_plain(layer, squeezed, done, len(squeezed)))
    layer.length = len(squeezed)
    return "".join(out), layer


def settled(squeezed: str, layer: Layer | None) -> int:
    """How much of the folded text no later character can change: all but the last cluster while it may compose."""
    if not squeezed or is_closed(squeezed[-1]):
        return len(squeezed) if layer is None else layer.size
    if layer is None:
        return len(squeezed) - 1
    return layer.index(layer.start(layer.size - 1))


@lru_cache(maxsize=4096)
def fold_cluster(cluster: str) -> str:
    """One cluster, folded. A spacing accent stays what it is: NFKC would make a space of it, and so a word's end."""
    folded = normalize("NFKC", normalize("NFKC", cluster).casefold())
    if folded[0] != " " or cluster == " ":
        return folded
    accent = normalize("NFC", cluster[0]).casefold()
    return accent + fold_cluster(cluster[1:]) if len(cluster) > 1 else accent


def _plain(text: str) -> str:
    """Fold text without marks. The length stays the same exactly where every character folds to one."""
    if not is_normalized("NFKC", text):
        for wide, narrow in _FULL_WIDTH:
            text = text.replace(wide, narrow)
        text = normalize("NFKC", text)
    return text.casefold()


def _add_plain(layer: Layer, text: str, start: int, stop: int) -> str:
    piece = text[start:stop]
    folded = _plain(piece)
    if len(folded) == stop - start:
        layer.add(stop - start, start)
        return folded
    atoms = [fold_cluster(character) for character in piece]
    for place, atom in enumerate(atoms, start):
        layer.add(len(atom), place, 0 if len(atom) == 1 else place + 1)
    return "".join(atoms)
