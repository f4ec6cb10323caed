"""Find a lexicon's phrases in one text that arrives in pieces, and say how far it is clear of them. No I/O, no clock.

The scanner keeps only the stretch of text in which something may still be found, and scans it again with each piece.
That stretch begins at the longest suffix which is the beginning of a term, so that its length is that of a phrase, not
of the text. What is reported depends on the text alone: a match counts in the step that reaches its `at`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from operator import methodcaller
from typing import NamedTuple
from unicodedata import normalize

from guardrail.core.findings import Finding
from guardrail.core.frontier import NOTHING, Scan
from guardrail.detectors.keywords.compiling import HEAD, Lexicon
from guardrail.detectors.keywords.view import DROPPED, Mark, View
from guardrail.text.characters import NEUTRAL, is_closed, is_extending, word_class
from guardrail.text.normalize import IGNORABLES, MOST_HIDDEN, Layer, fold, fold_cluster, settled, squeeze

DETECTOR = "keywords"

HIDDEN = "hidden-characters"
"""The label of a run of more than 64 ignorable characters."""

CERTAIN = 1.0
"""The score of every finding: a phrase is there or it is not."""

_BLOCK = 2048  # characters; a longer piece is taken in blocks, so that a frontier inside of it is cheap to tell


_GLANCE = 48  # characters; beyond that the automaton is quicker

# A character that is no ASCII letter or digit, or the first of a row of these.
_STARTS = re.compile(r"[^a-z0-9]|(?<![a-z0-9])[a-z0-9]")
_START_OF = methodcaller("start")


class _State(NamedTuple):
    """Where a scan stands between two pieces."""

    received: int = 0
    tail: str = ""  # the squeezed text in which something may still be found
    base: int = 0  # offset of the tail in the squeezed text
    start: int = 0  # offset of the tail in the folded text
    alive: int = 0  # index in the folded tail before which no match can begin that has not been seen
    before: int = NEUTRAL  # word class of the character before the tail
    spaced: bool = False  # whether the squeezed text ends in a space
    marks: tuple[Mark, ...] = ((0, 0),)  # the way from squeezed to original offsets, from the tail on
    hidden: int = -1  # original offset of the open run of ignorable characters
    live: int = 0  # original offset of what may become part of a match
    resume: Mapping[int, int] = {}  # folded offset at which each pattern's last match ended

    def clear(self, hidden: bool) -> int:
        return min(self.live, self.hidden) if hidden and self.hidden >= 0 else self.live


_START = _State()


class KeywordScanner:
    """A `guardrail.core.frontier.Scanner` over one text. Making one costs about a microsecond."""

    __slots__ = ("_blocks", "_cursor", "_ended", "_hidden", "_labels", "_lexicon", "_piece", "_reach", "_state")

    def __init__(self, lexicon: Lexicon, labels: frozenset[str]) -> None:
        self._lexicon = lexicon
        self._labels = labels
        self._hidden = HIDDEN in labels
        self._reach: int = lexicon.reach(labels) if lexicon.patterns else 0
        self._state = _START
        self._piece = ""  # what was fed last
        self._blocks = [_START]  # the state before each block of it
        self._cursor = _START  # where the frontier was asked for last
        self._ended = False

    def feed(self, text: str, *, last: bool) -> Scan:
        """Take the next piece; return every finding that became certain with it, in the order of `at`."""
        state = self._cursor = self._state
        self._piece = text
        self._ended = last
        if len(text) <= _BLOCK:
            self._blocks = [state]
            self._state, found = self._step(state, text, last)
        else:
            self._blocks, found = [], []
            for start in range(0, len(text), _BLOCK):
                self._blocks.append(state)
                stop = start + _BLOCK
                state, more = self._step(state, text[start:stop], last and stop >= len(text))
                found += more
            self._state = state
        if not found:
            return NOTHING
        found.sort(key=_certainty)
        return Scan(found)

    def frontier(self, at: int) -> int:
        """The offset before which nothing can become part of a finding; see `guardrail.core.frontier.Scanner`."""
        received = self._state.received
        if at > received:
            return received
        if at == received and not self._ended:
            return self._state.clear(self._hidden)
        begin = self._blocks[0].received
        state = self._blocks[max(0, at - begin - 1) // _BLOCK]
        if state.received < self._cursor.received <= at:
            state = self._cursor  # asked in rising order, all frontiers of a piece cost one more scan of it
        if state.received < at:
            state, _ = self._step(state, self._piece[state.received - begin : at - begin], False)
        self._cursor = state
        return state.clear(self._hidden)

    # -- one step ----------------------------------------------------------------------------------------------------

    def _step(self, state: _State, piece: str, last: bool) -> tuple[_State, list[Finding]]:
        """A function of its arguments: the state after `piece`, and what became certain with it."""
        received, tail, base, index, alive, before, spaced, marks, hidden, live, resume = state
        was, received = received, received + len(piece)
        found: list[Finding] = []
        squeezed, dropped = squeeze(piece, after_space=spaced)
        shift = was - base - len(tail)
        if dropped is not None or shift != marks[-1][1]:
            marks = _marked(marks, dropped, base + len(tail), shift)
        if dropped is not None:
            hidden = self._find_hidden(piece, was, hidden, found)
        elif piece:
            hidden = -1
        if not squeezed and not last:
            live = received if live == was else live
            return _State(received, tail, base, index, alive, before, spaced, marks, hidden, live, resume), found

        window = tail + squeezed
        folded, layer = fold(window)
        size = len(folded)
        if last or not window or is_closed(window[-1]):
            stable = size
        else:
            stable = size - 1 if layer is None else settled(window, layer)
        view: View | None = None
        pending = size  # index of the first match that waits for what comes next
        if not last and window.isascii() and self._begins_nothing(folded, alive):
            alive = size
        else:
            sought = folded[alive:] if alive else folded
            matches = self._lexicon.automaton.find_matches_as_indexes(sought, overlapping=True)
            if matches:
                view = View(window, folded, layer, stable, base, before, marks, received + 1, last)
                pending = self._find_terms(view, matches, alive, was, found)
            live_from = stable if last else self._live(window, folded, layer, stable, alive, before)
            alive = min(pending, live_from)
        keep = held = alive
        if self._reach:
            view = view or View(window, folded, layer, stable, base, before, marks, received + 1, last)
            resume, waiting = self._find_patterns(view, index, was, resume, found)
            # Whatever a pattern may still match begins here or later; it may look at the character before that.
            held = min(alive, waiting, max(0, stable - self._reach + 1))
            keep = max(0, held - 1)
        if last:
            return _State(received), found

        keep, alive = min(keep, stable), min(alive, stable)
        if self._lexicon.exceptions is not None:
            keep = min(keep, max(0, stable - self._lexicon.exceptions.longest))
        if held == size:
            live = received
        else:
            view = view or View(window, folded, layer, stable, base, before, marks, received + 1, last)
            live = view.start(held)
        place = keep
        if layer is not None:
            place = layer.start(keep)
            keep = layer.index(place) if keep < size else size
        if keep:
            before = word_class(folded[keep - 1])
        if window:
            spaced = window[-1] == " "
        base += place
        if len(marks) > 1:
            marks = tuple(mark for mark, after in zip(marks, (*marks[1:], None), strict=True) if _needed(after, base))
        return _State(
            received, window[place:], base, index + keep, alive - keep, before, spaced, marks, hidden, live, resume
        ), found

    def _find_terms(
        self, view: View, matches: list[tuple[int, int, int]], shift: int, was: int, found: list[Finding]
    ) -> int:
        """Add the matches (indices less `shift`) that became certain after `was`; return the first that waits."""
        pending = len(view.folded)
        for number, start, stop in matches:
            start, stop = start + shift, stop + shift
            if stop > view.stable:
                continue
            for label, left, right, exceptions in self._lexicon.owners[number]:
                if label not in self._labels or (left and not view.boundary_before(start)):
                    continue
                at = view.certain_at(start, stop, right, exceptions)
                if at is None:
                    pending = min(pending, start)
                elif at > was:
                    found.append(Finding(DETECTOR, label, CERTAIN, view.start(start), view.stop(stop), at))
        return pending

    def _find_patterns(
        self, view: View, index: int, was: int, resume: Mapping[int, int], found: list[Finding]
    ) -> tuple[Mapping[int, int], int]:
        """The same for patterns: leftmost, longest, and none overlapping the one before, as over the whole text.

        A match is certain once as much text is there as the pattern could match from where it begins.
        """
        text = view.folded[: view.stable]
        pending = len(view.folded)
        for number in self._lexicon.pattern_set.Match(text) or () if self._lexicon.pattern_set else ():
            label, regex, reach, _, exceptions = self._lexicon.patterns[number]
            if label not in self._labels:
                continue
            first = max(resume.get(number, 0) - index, 1 if index else 0)
            for match in regex.finditer(text, first):
                start, stop = match.span()
                if start + reach > view.stable and not view.ended:
                    pending = min(pending, start)
                    break
                at = view.certain_at(start, stop, False, exceptions)
                if at is None:
                    pending = min(pending, start)
                    break
                resume = {**resume, number: index + stop}
                if at != DROPPED:
                    seen = view.fixed_at(start + reach, False) if start + reach <= view.stable else None
                    at = max(at, view.end if seen is None else seen)
                    found.append(Finding(DETECTOR, label, CERTAIN, view.start(start), view.stop(stop), at))
        return resume, pending

    def _find_hidden(self, piece: str, was: int, hidden: int, found: list[Finding]) -> int:
        """Add a finding for each 65 ignorable characters in a row, so that never more than 64 are left of a run;
        return where the run that is open at the end of `piece` begins, or -1."""
        stop = 0
        for run in IGNORABLES.finditer(piece):
            begin = hidden if hidden >= 0 and run.start() == 0 else was + run.start()
            stop = run.end()
            while was + stop - begin > MOST_HIDDEN:
                end = begin + MOST_HIDDEN + 1
                if self._hidden:
                    found.append(Finding(DETECTOR, HIDDEN, CERTAIN, begin, end, end))
                begin = end
            hidden = begin
        return hidden if stop == len(piece) and hidden < was + stop else -1

    # -- what may still become a match -------------------------------------------------------------------------------

    def _begins_nothing(self, folded: str, alive: int) -> bool:
        """Whether surely no term begins in `folded`, of ASCII, from `alive` on: a quick look at what one token adds.

        A false answer says nothing. It is given where terms may begin inside of a word, and where the last character
        may compose to one that a term has.
        """
        lexicon = self._lexicon
        if lexicon.inside or not 0 < len(folded) - alive <= _GLANCE:
            return False
        if folded[-1] in lexicon.variants:
            return False
        heads = lexicon.heads
        for place in _STARTS.finditer(folded, alive):
            start = place.start()
            if folded[start : start + HEAD] in heads:
                return False
        return True

    def _live(self, window: str, folded: str, layer: Layer | None, stable: int, alive: int, before: int) -> int:
        """The index of the longest suffix that may become a term, or that is one and waits for what comes next."""
        size = len(folded)
        if stable == size:
            return self._longest(folded, alive, True, before)
        place = len(window) - 1 if layer is None else layer.start(size - 1)
        first = fold_cluster(window[place])
        if len(first) == 1 and not is_extending(window[place]):
            # The last cluster may still take marks: it stands for its base and for all that this may become.
            base = first if first.isascii() else normalize("NFD", first)[0]
            variants = self._lexicon.variants.get(base, ())
            if variants is not None:
                head = folded[:stable]
                live = self._longest(head + first, alive, False, before)
                for variant in (base, *variants) if base != first else variants:
                    live = min(live, self._longest(head + variant, alive, False, before))
                return live if live <= stable else size
        return min(stable, self._longest(folded[:stable], alive, True, before))

    def _longest(self, text: str, alive: int, proper: bool, before: int) -> int:
        bounded, free = self._lexicon.bounded, self._lexicon.free
        size, heads = len(text), self._lexicon.heads
        low = max(alive, size - self._lexicon.longest)
        # Terms that may begin inside of a word of ASCII letters are rare; without any, only the words' starts count.
        places = range(low, size) if self._lexicon.inside else map(_START_OF, _STARTS.finditer(text, low))
        for start in places:
            if text[start : start + HEAD] not in heads:
                continue
            first = text[start]
            if first in free.firsts and free.begins(text[start:], proper):
                return start
            if first in bounded.firsts:
                kind = word_class(first)
                if kind and kind == (word_class(text[start - 1]) if start else before):
                    continue  # inside of a word
                if bounded.begins(text[start:], proper):
                    return start
        return size


def _marked(marks: tuple[Mark, ...], dropped: Layer | None, end: int, shift: int) -> tuple[Mark, ...]:
    """Add the marks of a piece that begins at offset `end` of the squeezed text and `end + shift` of the original."""
    added = list(marks)
    pieces = ((0, 0),) if dropped is None else zip(dropped.starts, dropped.origins, strict=True)
    for start, origin in pieces:
        moved = shift + origin - start
        if moved != added[-1][1]:
            added.append((end + start, moved))
    return tuple(added)


def _needed(after: Mark | None, base: int) -> bool:
    """Whether a mark still says something of the squeezed text from `base` on; `after` is the next mark."""
    return after is None or after[0] > base


def _certainty(finding: Finding) -> tuple[int, int, int, str]:
    return (finding.at, finding.start, finding.end, finding.category)
