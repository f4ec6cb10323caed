"""Turn phrase lists into what the scanner runs: one automaton over all lists, sorted prefixes, sets of patterns. Pure.

Compiling takes about 0.3 s for 20,000 terms; it shares nothing and may run in any thread.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from re import _constants as regex_codes  # type: ignore[attr-defined]  # the one place that knows a pattern's width
from re import _parser as regex_parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple
from unicodedata import normalize

import ahocorasick_rs
import re2

from guardrail.core.lexicon import MatchMode, Part, PhraseError, PhraseList
from guardrail.text.characters import JOINED, NEUTRAL, SPACED, word_class
from guardrail.text.normalize import normalise

LONGEST_TERM = 64
"""Normalised characters. A longer term would hold that much of a stream back."""

LONGEST_PATTERN = 256
"""Normalised characters: a pattern holds a stream back by its greatest length."""

_MOST_VARIANTS = 8
_AT_WORDS = frozenset({regex_codes.AT_BOUNDARY, regex_codes.AT_NON_BOUNDARY})
_PATTERN_MEMORY = 64 << 20  # bytes, an upper bound on the set's cache of states; it is filled only as texts need it


class Term(NamedTuple):
    """A normalised phrase and which of its edges need a word boundary."""

    text: str
    left: bool
    right: bool


class Owner(NamedTuple):
    """One list's claim on a term; terms share these objects."""

    label: str
    left: bool
    right: bool
    exceptions: Prefixes | None


class Pattern(NamedTuple):
    """A compiled pattern. `reach` is its greatest length plus one where it looks at the character after it;
    `anchored` means that it asks where the text begins or ends."""

    label: str
    regex: Any
    reach: int
    anchored: bool
    exceptions: Prefixes | None


HEAD = 4
"""Characters of a text that are looked up before it is compared with phrases."""


class Prefixes:
    """Phrases sorted, to ask whether a piece of text is the beginning of one of them."""

    __slots__ = ("edges", "firsts", "heads", "longest", "phrases")

    def __init__(self, phrases: Iterable[str], edges: Mapping[str, Term] | None = None) -> None:
        self.phrases = tuple(sorted(set(phrases)))
        self.edges = edges or {}  # of exceptions: which edges need a boundary
        self.longest = max(map(len, self.phrases), default=0)
        # Most text that begins no phrase is told by its first four characters.
        self.heads = frozenset(phrase[:size] for phrase in self.phrases for size in range(1, HEAD + 1))
        bounds: dict[str, tuple[int, int]] = {}
        for index, phrase in enumerate(self.phrases):
            low, _ = bounds.get(phrase[0], (index, 0))
            bounds[phrase[0]] = (low, index + 1)
        self.firsts = bounds

    def begins(self, text: str, proper: bool) -> bool:
        """Whether `text`, which is not empty, begins a phrase; a `proper` beginning is shorter than the phrase."""
        if text[:HEAD] not in self.heads:
            return False
        bounds = self.firsts[text[0]]
        place = (bisect_right if proper else bisect_left)(self.phrases, text, *bounds)
        return place < bounds[1] and self.phrases[place].startswith(text)

    def beginning_with(self, text: str) -> Sequence[str]:
        """All phrases that begin with `text`, which is not empty."""
        bounds = self.firsts.get(text[0])
        if bounds is None:
            return ()
        low = bisect_left(self.phrases, text, *bounds)
        high = low
        while high < bounds[1] and self.phrases[high].startswith(text):
            high += 1
        return self.phrases[low:high]


class Lexicon:
    """All lists, compiled. Immutable, so that any number of scanners and threads may use one.

    `bounded` and `free` hold the terms that must begin at a word boundary and those that need not. `variants` says for
    a character which composed characters of the lists begin with it, e.g. "e" -> "é".
    """

    __slots__ = (
        "_reaches",
        "anchored",
        "automaton",
        "bounded",
        "exceptions",
        "free",
        "heads",
        "inside",
        "labels",
        "longest",
        "owners",
        "pattern_set",
        "patterns",
        "variants",
    )  # fmt: skip

    def __init__(self, lists: Mapping[str, PhraseList]) -> None:
        owned: dict[str, tuple[Owner, ...]] = {}
        shared: dict[tuple[Owner, ...], tuple[Owner, ...]] = {}
        patterns: list[Pattern] = []
        excepted: set[str] = set()
        for label, phrases in lists.items():
            held = _terms(label, "exceptions", phrases.exceptions, phrases.match)
            exceptions = Prefixes((term.text for term in held), {term.text: term for term in held}) if held else None
            excepted.update(term.text for term in held)
            for text, left, right in _terms(label, "terms", phrases.terms, phrases.match):
                owners = (*owned.get(text, ()), Owner(label, left, right, exceptions))
                owned[text] = shared.setdefault(owners, owners)
            patterns += (_pattern(label, index, regex, exceptions) for index, regex in enumerate(phrases.patterns))
        self.labels = frozenset(lists)
        self.owners = tuple(owned.values())
        # Standard matching of the contiguous NFA: all overlapping matches, a quarter of the DFA's memory or less.
        self.automaton = ahocorasick_rs.AhoCorasick(
            owned,
            matchkind=ahocorasick_rs.MatchKind.Standard,
            store_patterns=False,
            implementation=ahocorasick_rs.Implementation.ContiguousNFA,
        )
        self.bounded = Prefixes(text for text, owners in owned.items() if any(owner.left for owner in owners))
        self.free = Prefixes(text for text, owners in owned.items() if not all(owner.left for owner in owners))
        self.heads = self.free.heads | self.bounded.heads
        self.inside = any(first.isascii() and first.isalnum() for first in self.free.firsts)
        self.longest = max(self.bounded.longest, self.free.longest)
        self.exceptions = Prefixes(excepted) if excepted else None
        self.variants = _variants(owned)
        self.patterns = tuple(patterns)
        self.anchored = any(pattern.anchored for pattern in patterns)
        self._reaches: dict[frozenset[str], int] = {}
        self.pattern_set = _pattern_set([pattern.regex.pattern for pattern in patterns]) if patterns else None

    def reach(self, labels: frozenset[str]) -> int:
        """The greatest reach of a pattern that one of `labels` has; 0 without any. Remembered: rulebooks are few."""
        reach = self._reaches.get(labels)
        if reach is None:
            reach = max((pattern.reach for pattern in self.patterns if pattern.label in labels), default=0)
            if len(self._reaches) < 256:
                self._reaches[labels] = reach
        return reach


def _terms(label: str, part: Part, phrases: Sequence[str], match: MatchMode) -> list[Term]:
    """Normalise and check phrases; raises `PhraseError`."""
    seen: dict[str, int] = {}
    terms = []
    for index, phrase in enumerate(phrases):
        text = normalise(phrase).text.strip(" ")
        wrong = None
        if not text:
            wrong = "is empty once normalised; expected at least one visible character"
        elif len(text) == 1 and word_class(text) != JOINED:
            wrong = "is a single letter, digit or sign; expected at least two characters (one will do in Han script)"
        elif len(text) > LONGEST_TERM:
            wrong = f"has {len(text)} characters once normalised; expected at most {LONGEST_TERM}"
        elif text in seen:
            wrong = f"is the same as {part}[{seen[text]}] once normalised; expected each phrase once"
        if wrong is not None:
            raise PhraseError(label, part, index, wrong)
        seen[text] = index
        terms.append(Term(text, _needs_boundary(text[0], match), _needs_boundary(text[-1], match)))
    return terms


def _needs_boundary(edge: str, match: MatchMode) -> bool:
    if match == "substring":
        return False
    return word_class(edge) != NEUTRAL if match == "word" else word_class(edge) == SPACED


def _variants(texts: Iterable[str]) -> dict[str, tuple[str, ...] | None]:
    """For the first character of each decomposition, what it may become by composing, as far as `texts` hold it.

    None stands for too many to try one by one (Hangul).
    """
    found: dict[str, tuple[str, ...] | None] = {}
    by_base: dict[str, list[str]] = {}
    for character in sorted({character for text in texts if not text.isascii() for character in text}):
        base = normalize("NFD", character)[0]
        if base != character:
            by_base.setdefault(base, []).append(character)
    for base, composed in by_base.items():
        found[base] = tuple(composed) if len(composed) <= _MOST_VARIANTS else None
    return found


# -- patterns --------------------------------------------------------------------------------------------------------


def _options(memory: int | None = None) -> Any:
    options = re2.Options()
    options.case_sensitive = False  # texts are case-folded, and people write patterns as they like
    options.log_errors = False
    options.never_capture = True
    options.longest_match = True
    if memory is not None:
        options.max_mem = memory
    return options


def _pattern(label: str, index: int, source: str, exceptions: Prefixes | None) -> Pattern:
    """Compile and measure one pattern; raises `PhraseError`."""
    try:
        if "[:" in source:
            raise re2.error("a POSIX class, which Python reads as something else")
        parsed = regex_parser.parse(source)
        least, most = parsed.getwidth()
        compiled = re2.compile(source, options=_options())
    except (re2.error, regex_parser.error, OverflowError, RecursionError) as error:
        reason = error.args[0] if error.args and isinstance(error.args[0], str) else type(error).__name__
        problem = f"cannot be used ({reason}); expected syntax that RE2 and Python share: no look-around, no \\p"
        raise PhraseError(label, "patterns", index, problem) from None
    if least < 1:
        raise PhraseError(label, "patterns", index, "matches the empty text; expected one that needs a character")
    if most > LONGEST_PATTERN:
        size = "any length" if most >= regex_codes.MAXREPEAT else f"up to {most} characters"
        problem = f"matches {size}; expected a bound of {LONGEST_PATTERN} or less, such as .{{0,40}} for .*"
        raise PhraseError(label, "patterns", index, problem)
    asserted = set(_assertions(parsed))  # which may look at the character after the match
    return Pattern(label, compiled, most + bool(asserted), bool(asserted - _AT_WORDS), exceptions)


def _assertions(parsed: Any) -> Iterator[Any]:
    """The assertions (`\\b`, `$`) that a parsed pattern holds."""
    for code, argument in parsed:
        if code is regex_codes.AT:
            yield argument
        parts = argument if isinstance(argument, (tuple, list)) else (argument,)
        for part in parts:
            for piece in part if isinstance(part, list) else [part]:
                if isinstance(piece, regex_parser.SubPattern):
                    yield from _assertions(piece)


def _pattern_set(sources: Sequence[str]) -> Any:
    """All patterns at once: one pass says which of them are worth a search of their own."""
    found = re2.Set.SearchSet(_options(_PATTERN_MEMORY))
    for source in sources:
        found.Add(source)
    found.Compile()
    return found
