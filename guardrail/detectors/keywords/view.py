"""The stretch of a growing text that a scanner looks at, in its three forms: as it came, squeezed and folded. Pure.

Offsets into the folded form are called indices here; what is handed out are offsets of the original text.
"""

from __future__ import annotations

from bisect import bisect_right

from guardrail.detectors.keywords.compiling import Prefixes
from guardrail.text.characters import NEUTRAL, is_boundary, is_closed, word_class
from guardrail.text.normalize import Layer, fold_cluster

DROPPED = -1
"""What `certain_at` says of a match that does not count, and never will."""

Mark = tuple[int, int]
"""From this offset of the squeezed text on, add this much to find the original offset."""


class View:
    """One such stretch: `squeezed[0]` is at offset `base` of the squeezed text, `before` the word class before it.

    Indices below `stable` are certain whatever comes next. `ended`: nothing comes next, and `end` (one past the length
    of the text) is when that became known.
    """

    __slots__ = ("base", "before", "end", "ended", "folded", "layer", "marks", "squeezed", "stable")

    def __init__(
        self,
        squeezed: str,
        folded: str,
        layer: Layer | None,
        stable: int,
        base: int,
        before: int,
        marks: tuple[Mark, ...],
        end: int,
        ended: bool,
    ) -> None:
        self.squeezed = squeezed
        self.folded = folded
        self.layer = layer
        self.stable = stable
        self.base = base
        self.before = before
        self.marks = marks
        self.end = end
        self.ended = ended

    # -- where -------------------------------------------------------------------------------------------------------

    def original(self, place: int) -> int:
        """The original offset of the squeezed character at `place`."""
        place += self.base
        marks = self.marks
        mark = marks[-1] if place >= marks[-1][0] else marks[bisect_right(marks, place, key=_offset_of) - 1]
        return place + mark[1]

    def start(self, index: int) -> int:
        """The original offset at which the folded character at `index` begins."""
        return self.original(index if self.layer is None else self.layer.start(index))

    def stop(self, index: int) -> int:
        """The original offset at which the last folded character before `index` ends."""
        return self.original(self._place(index) - 1) + 1

    def _place(self, index: int) -> int:
        return index if self.layer is None else self.layer.end(index)

    def _inside(self, index: int, place: int) -> bool:
        """Whether `index` lies between two characters of one cluster, which ends at `place`."""
        return self.layer is not None and self.layer.index(place) > index

    # -- when --------------------------------------------------------------------------------------------------------

    def fixed_at(self, index: int, look: bool) -> int | None:
        """The original offset with which everything before `index`, and with `look` the character at it, is certain."""
        place = self._place(index)
        if (look and not self._inside(index, place)) or not is_closed(self.squeezed[place - 1]):
            if place < len(self.squeezed):
                return self.original(place) + 1
            return self.end if self.ended else None
        return self.original(place - 1) + 1

    def boundary_before(self, index: int) -> bool:
        """Whether a word may begin at `index`."""
        before = word_class(self.folded[index - 1]) if index else self.before
        return is_boundary(before, word_class(self.folded[index]))

    def boundary_after(self, index: int) -> bool | None:
        """Whether a word may end before `index`; none while that depends on what comes next."""
        place = self._place(index)
        if self._inside(index, place):
            after = word_class(self.folded[index])
        elif place < len(self.squeezed):
            # The character alone: marks that follow it may still reorder.
            after = word_class(fold_cluster(self.squeezed[place])[0])
        elif self.ended:
            after = NEUTRAL
        else:
            return None
        return is_boundary(word_class(self.folded[index - 1]), after)

    def certain_at(self, start: int, stop: int, look: bool, exceptions: Prefixes | None) -> int | None:
        """The original offset with which a match became certain; none if it is not yet, DROPPED if it does not count.

        `look`: it must be followed by a word boundary. It does not count inside of a match of one of `exceptions`, so
        that it is certain only when each of those that might still come has failed.
        """
        if look:
            boundary = self.boundary_after(stop)
            if boundary is False:
                return DROPPED
            if boundary is None:
                return None
        at = self.fixed_at(stop, look)
        if at is None or exceptions is None:
            return at
        open_still = False
        for first in range(max(0, stop - exceptions.longest), start + 1):
            for phrase in exceptions.beginning_with(self.folded[first:stop]):
                edges = exceptions.edges[phrase]
                if edges.left and not self.boundary_before(first):
                    continue
                failed = self._failed_at(phrase, first, stop, edges.right)
                if failed == DROPPED:
                    return DROPPED
                if failed is None:
                    open_still = True
                else:
                    at = max(at, failed)
        return None if open_still else at

    def _failed_at(self, phrase: str, first: int, known: int, look: bool) -> int | None:
        """When it became certain that `phrase`, whose beginning stands at `first` up to `known`, is not there; none
        if that is open, DROPPED if it is there."""
        last = first + len(phrase)
        for index in range(known, min(last, self.stable)):
            if self.folded[index] != phrase[index - first]:
                return self.fixed_at(index + 1, False)
        if last > self.stable:
            return self.end if self.ended else None
        if not look:
            return DROPPED
        boundary = self.boundary_after(last)
        if boundary is None:
            return None
        return DROPPED if boundary else self.fixed_at(last, True)


def _offset_of(mark: Mark) -> int:
    return mark[0]
