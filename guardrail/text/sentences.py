"""Where sentences end in Chinese and English text that is still growing. Pure.

An end is decided by the text before it and the one character after it, so that it does not matter how the text was cut
and no end is ever taken back. Unsure is no end: a full stop after an abbreviation, an initial or a list's number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_STOPS = ".!?。！？…．｡"
_CLOSERS = "\"'”’»」』）)\\]】》〉〕｝}"
_RUN = re.compile(f"(?:[{_STOPS}]+[{_CLOSERS}]*)+")
_RUN_OR_LINE = re.compile(f"(?:[{_STOPS}]+[{_CLOSERS}]*)+|[\n\u2028\u2029]")
_IN_RUN = frozenset(_STOPS + _CLOSERS.replace("\\", ""))
_LINE_ENDS = frozenset("\n\u2028\u2029")
_WORD_BEFORE = re.compile(r"(?:^|[^\w.])((?:[^\W\d_]\.)*[^\W\d_]+)$")
_NUMBER_BEFORE = re.compile(r"(?:^|[\n\u2028\u2029])\s*\(?\d{1,3}$")
_LOOK_BACK = 24  # characters: longer than any abbreviation
_CONTINUES = frozenset(",;:，、；：")
_ABBREVIATIONS = frozenset(
    "al approx apt art assn ave bldg blvd capt cf ch co col corp dept dr ed eds eg eq est etc ext fig figs ft gen gov"
    " hon ie inc jr lt ltd messrs mr mrs ms mt nos op para pp prof pt rep rev sec sen sgt sr st vol vols vs".split()
)


def sentence_ends(text: str, start: int = 0) -> Iterator[int]:
    """Yield, in rising order, the offsets after `start` at which a sentence has certainly ended.

    Each lies just behind the sentence's last stop or closing quote, or behind a line break, and before the end of
    `text`: the character after it has been seen. `start` saves time and changes nothing else, as long as `text` still
    holds the 24 characters before it.
    """
    first = start
    while first > 0 and text[first - 1] in _IN_RUN:
        first -= 1
    for found in _RUN_OR_LINE.finditer(text, first):
        begin, end = found.span()
        if start < end < len(text):
            ended = _ends_line(text, begin) if text[begin] in _LINE_ENDS else _ends_run(text, begin, end)
            if ended:
                yield end


def _ends_run(text: str, begin: int, end: int) -> bool:
    """Whether the run of stops and closers `text[begin:end]`, which the text goes on behind, ends a sentence."""
    run, after = text[begin:end], text[end]
    if after.isspace():
        return run[0] != "." or "." in run[1:] or _stands_alone(text, begin)
    if all(mark in ".…" for mark in run) and run != ".":
        return after not in _CONTINUES and not after.isascii()
    if run[0] in "。！？…．｡":
        return after not in _CONTINUES
    if after.isascii():
        return False  # 3.14, example.com, a?b=1, x!=y
    return run[0] != "." or (_stands_alone(text, begin) and not text[begin - 1 : begin].isdigit())


def _stands_alone(text: str, stop: int) -> bool:
    """Whether the single full stop at `stop` ends more than an abbreviation, an initial or the number of a list."""
    before = text[max(0, stop - _LOOK_BACK) : stop]
    if word := _WORD_BEFORE.search(before):
        letters = word[1].replace(".", "")
        if word[1].isascii():
            return (
                letters.lower() not in _ABBREVIATIONS and ("." not in word[1]) and (len(letters) > 1 or letters == "I")
            )
    return _NUMBER_BEFORE.search(before) is None


def _ends_line(text: str, place: int) -> bool:
    """Whether the line break at `place` ends a sentence: not on an empty line, nor where a stop before it did."""
    last = place
    while last > 0 and text[last - 1].isspace():
        if text[last - 1] in _LINE_ENDS:
            return False
        last -= 1
    if last == 0:
        return False
    begin = last
    while begin > 0 and text[begin - 1] in _IN_RUN:
        begin -= 1
    run = _RUN.search(text, begin, last)
    return run is None or run.end() != last or not _ends_run(text, run.start(), last)
