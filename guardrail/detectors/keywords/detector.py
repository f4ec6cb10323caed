"""Look for phrases and bounded patterns: the detector that costs microseconds and is never unsure.

One automaton over all lists (ahocorasick_rs' contiguous NFA), one set of all patterns (RE2). Measured against hyperscan
0.9.1 by `benchmarks/text_scan.py --engines` (20,000 / 100,000 terms, one core of a shared server, microseconds for
Chinese text): ahocorasick_rs compiles in 0.1 / 0.4 s to 6 / 20 MB and takes 1-3 for 64 characters, 33-36 for 1,000;
hyperscan compiles in 1.1 / 12 s to 43 / 173 MB and takes 1 and 6-11. For the
few characters that a token adds the two are even, compiling takes a tenth of the time and a seventh of the memory or
less, and there are wheels for every platform: so there is one engine, not two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from guardrail.core.content import Direction
from guardrail.core.findings import Finding
from guardrail.core.frontier import Window
from guardrail.core.lexicon import PhraseList
from guardrail.detectors.keywords.compiling import Lexicon
from guardrail.detectors.keywords.scanner import CERTAIN, DETECTOR, HIDDEN, KeywordScanner
from guardrail.errors import PolicyError
from guardrail.protocols import Priority
from guardrail.text.normalize import MOST_HIDDEN, fold, squeeze


class KeywordDetector:
    """A `guardrail.protocols.Detector` over phrase lists by label; a finding's category is its list's label.

    Compiling happens here, is pure and may run in any thread: about 0.3 s for 20,000 terms. Raises `PhraseError` for
    an entry that cannot be used. The label `hidden-characters` is the detector's own: more than 64 ignorable
    characters in a row.
    """

    name = DETECTOR

    def __init__(self, lists: Mapping[str, PhraseList]) -> None:
        if HIDDEN in lists:
            raise PolicyError(
                f'keywords list "{HIDDEN}": the detector reports this label itself; expected another name'
            )
        self._lexicon = Lexicon(lists)
        self._thresholds = MappingProxyType(dict.fromkeys((*lists, HIDDEN), CERTAIN))

    @property
    def thresholds(self) -> Mapping[str, float]:
        """1.0 for every label."""
        return self._thresholds

    @property
    def strike_thresholds(self) -> Mapping[str, float]:
        """1.0 for every label."""
        return self._thresholds

    def scanner(self, direction: Direction, labels: frozenset[str]) -> KeywordScanner:
        """A fresh scanner for one text that reports `labels` only."""
        return KeywordScanner(self._lexicon, labels)

    def clears(self, texts: Sequence[str], direction: Direction, labels: frozenset[str]) -> bool:
        """Whether scanners would surely find nothing in any of these whole texts; a false answer says nothing."""
        lexicon = self._lexicon
        patterns = lexicon.pattern_set if lexicon.patterns and lexicon.reach(labels) else None
        if patterns is not None and lexicon.anchored:
            return all(self._clears(text, patterns) for text in texts)
        # What is found in one of them is found in all of them, one after the other.
        return self._clears(" ".join(texts), patterns)

    def _clears(self, text: str, patterns: Any) -> bool:
        squeezed, _ = squeeze(text)
        if len(text) - len(squeezed) > MOST_HIDDEN:
            return False
        folded, _ = fold(squeezed)
        if self._lexicon.automaton.find_matches_as_indexes(folded, overlapping=True):
            return False
        return patterns is None or not patterns.Match(folded)

    async def examine(self, windows: Sequence[Window], priority: Priority) -> Sequence[Sequence[Finding]]:
        """Scanners of this detector never ask for a window: nothing is found in any."""
        return [() for _ in windows]

    async def start(self) -> None:
        """Nothing to start."""

    async def close(self) -> None:
        """Nothing to close."""
