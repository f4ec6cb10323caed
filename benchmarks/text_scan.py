"""What normalising and looking for phrases cost, and the engines that could do it side by side.

    python benchmarks/text_scan.py                       # the detector as shipped, 20,000 and 100,000 terms
    python benchmarks/text_scan.py --engines             # ahocorasick_rs beside hyperscan (pip install hyperscan)

Terms are half Chinese (2-6 characters), half made-up English words and word pairs; texts are drawn from the same
letters and hold next to no match. Times are the best of several rounds, in microseconds; memory is resident, by a
process of its own for each row, before and after compiling.
"""

from __future__ import annotations

import argparse
import gc
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LETTERS = "etaoinshrdlucmfwypvbgk"
ENGINES = ("ahocorasick_rs nfa", "ahocorasick_rs dfa", "hyperscan")
Find = Callable[[str], object]


def resident() -> float:
    """Resident memory of this process in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def made(count: int) -> tuple[tuple[str, ...], str, str]:
    """`count` terms, 16,000 characters of English-like and as many of Chinese-like text."""
    dice = random.Random(7)
    han = [chr(point) for point in range(0x4E00, 0x5800)]

    def word(low: int, high: int) -> str:
        return "".join(dice.choices(LETTERS, k=dice.randint(low, high)))

    terms: set[str] = set()
    while len(terms) < count:
        if dice.random() < 0.5:
            terms.add("".join(dice.choices(han, k=dice.randint(2, 6))))
        else:
            terms.add(word(4, 9) + (" " + word(3, 8) if dice.random() < 0.4 else ""))
    words = [word(2, 9) for _ in range(5000)]
    english = " ".join(dice.choices(words, k=4000))[:16_000]
    chinese = "".join(char + ("，" if dice.random() < 0.08 else "") for char in dice.choices(han, k=16_000))[:16_000]
    return tuple(sorted(terms)), english, chinese


def best(run: Callable[[str], object], pieces: Sequence[str], rounds: int = 9) -> float:
    """Microseconds a piece, the best of `rounds`."""
    least = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for piece in pieces:
            run(piece)
        least = min(least, time.perf_counter() - start)
    return least / len(pieces) * 1e6


def cut(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text) - size + 1, size)]


# -- engines ---------------------------------------------------------------------------------------------------------


def engine(name: str, terms: Sequence[str]) -> Find:
    """Compile `terms` and return a function that finds all matches in a text."""
    if name == "hyperscan":
        import hyperscan

        database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        database.compile(expressions=[term.encode() for term in terms], ids=list(range(len(terms))), literal=True)

        def find(text: str) -> object:
            found: list[tuple[int, int]] = []
            database.scan(text.encode(), match_event_handler=lambda *hit: found.append((hit[0], hit[2])))
            return found

        return find
    import ahocorasick_rs

    kind = ahocorasick_rs.Implementation
    automaton = ahocorasick_rs.AhoCorasick(
        terms, store_patterns=False, implementation=kind.DFA if name.endswith("dfa") else kind.ContiguousNFA
    )
    return lambda text: automaton.find_matches_as_indexes(text, overlapping=True)


def measure_engine(name: str, count: int) -> None:
    terms, english, chinese = made(count)
    gc.collect()
    before, start = resident(), time.perf_counter()
    find = engine(name, terms)
    built, grown = time.perf_counter() - start, resident() - before
    cells = [f"{best(find, cut(text, size)):7.2f}" for size in (12, 64, 1000) for text in (english, chinese)]
    print(f"{name:20} {count:7} {built:8.2f} {grown:8.0f}  " + " ".join(cells), flush=True)


# -- the detector as shipped -----------------------------------------------------------------------------------------


def measure_detector(count: int, patterns: int) -> None:
    sys.path.insert(0, str(ROOT))
    from guardrail.core.content import Direction
    from guardrail.core.lexicon import PhraseList
    from guardrail.detectors.keywords import KeywordDetector
    from guardrail.text.normalize import normalise

    terms, english, chinese = made(count)
    KeywordDetector({"warm": PhraseList(("warm",))})
    gc.collect()
    before, start = resident(), time.perf_counter()
    shapes = tuple(f"{term[:4]}.{{0,20}}{term[-3:]}" for term in terms[-patterns:]) if patterns else ()
    detector = KeywordDetector({"list": PhraseList(terms, shapes)})
    built, grown = time.perf_counter() - start, resident() - before
    labels = frozenset({"list"})
    print(f"{count} terms, {patterns} patterns: compiled in {built:.2f} s, {grown:.0f} MB")
    fresh = best(lambda _: detector.scanner(Direction.PROMPT, labels), ["x"] * 10_000)
    print(f"  a scanner                          {fresh:7.2f} us")
    for name, text in (("English", english), ("Chinese", chinese)):
        scanner = detector.scanner(Direction.COMPLETION, labels)
        seen = 0

        def token(piece: str) -> None:
            nonlocal seen
            scanner.feed(piece, last=False)  # noqa: B023  # called in this turn of the loop only
            seen += len(piece)
            scanner.frontier(seen)  # noqa: B023

        whole = best(lambda piece: detector.scanner(Direction.PROMPT, labels).feed(piece, last=True), cut(text, 1000))
        print(f"  {name}: a token of 4, with frontier {best(token, cut(text, 4)):7.2f} us")
        print(f"  {name}: 1,000 characters whole      {whole:7.2f} us")
        print(f"  {name}: normalise 100 characters    {best(normalise, cut(text, 100)):7.2f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", action="store_true", help="compare the engines instead of measuring the detector")
    parser.add_argument("--terms", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--patterns", type=int, default=0, help="bounded patterns beside the terms")
    parser.add_argument("--one", nargs=2, metavar=("ENGINE", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure_engine(options.one[0], int(options.one[1]))
    elif options.engines:
        print("engine                 terms  build s   RSS MB  us: 12 en   12 zh   64 en   64 zh 1000 en 1000 zh")
        for count in options.terms:
            for name in ENGINES:
                subprocess.run([sys.executable, __file__, "--one", name, str(count)], check=False)
    else:
        for count in options.terms:
            measure_detector(count, options.patterns)


if __name__ == "__main__":
    main()
