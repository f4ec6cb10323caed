"""The visible label of a text answer (GB 45438-2025, 5.1): its words, and where it must not be put. Pure.

A label holds an AI element and a generation element in every language, so that it is one by the standard's own words.
It is never put where it would spoil what it marks: into text that a machine reads, or code that somebody copies.
"""

from __future__ import annotations

import re

WORDS = {"zh": "内容由AI生成", "en": "AI生成 / AI-generated"}
"""The label by language; English has both elements twice: for readers, and for those who know the standard alone."""

_BRACKETED = {"zh": f"（{WORDS['zh']}）", "en": f"({WORDS['en']})"}

WINDOW = 64
"""Characters at either end of a text in which a label counts as its label."""

_AI_ELEMENT = re.compile(r"人工智能|(?<![A-Za-z])AI(?![A-Za-z])")
_GENERATION_ELEMENT = re.compile(r"生成|合成")

# CommonMark 4.5, and more lenient on what comes before: models indent fences as they please, in lists and quotes.
_FENCE = re.compile(r"(?:[ \t>]|[-*+][ \t]|\d{1,9}[.)][ \t])*(`{3,}|~{3,})(.*)", re.DOTALL)
_MARK = re.compile("```|~~~")
_LONGEST_LINE = 512
"""Of a line, only so much is looked at: no fence is longer."""


def words(language: str) -> str:
    """What a client is to show beside an answer; English for a language that we do not speak."""
    return WORDS.get(language, WORDS["en"])


def affix(language: str, position: str) -> str:
    """What is put into the answer itself, set off by an empty line; `position` is start, end or none."""
    text = _BRACKETED.get(language, _BRACKETED["en"])
    return {"start": f"{text}\n\n", "end": f"\n\n{text}", "none": ""}[position]


def is_labelled(text: str) -> bool:
    """Whether a text begins or ends with a label: one AI element and one generation element within 64 characters."""
    text = text.strip()
    return any(
        _AI_ELEMENT.search(part) is not None and _GENERATION_ELEMENT.search(part) is not None
        for part in (text[:WINDOW], text[-WINDOW:])
    )


class CodeEye:
    """Sees an answer as it is sent, in pieces cut anywhere, and knows whether a label may stand where it has come to.

    It may not after nothing, inside an open code fence, in an answer that is nothing but code blocks or one JSON
    object, or while what has come of a line may still become a fence.
    """

    __slots__ = ("_first", "_last", "_line", "_open", "_prose")

    def __init__(self) -> None:
        self._line = ""  # what has come of the line that is not over
        self._open = ""  # the fence that is open
        self._prose = False  # whether anything stands outside of code
        self._first = self._last = ""

    def see(self, text: str) -> None:
        """Take the next piece of the answer."""
        bare = text.strip()
        if bare:
            self._first = self._first or bare[0]
            self._last = bare[-1]
        done, newline, rest = (self._line + text).rpartition("\n")
        self._line = rest[:_LONGEST_LINE]
        if newline:
            self._read(done)

    @property
    def allows_label(self) -> bool:
        """Whether a label may be put behind what has been seen."""
        still, prose = self._after(self._line)
        if still or not prose or (self._first == "{" and self._last == "}"):
            return False
        return self._line.lstrip(" \t>") not in ("`", "``", "~", "~~")

    def _read(self, lines: str) -> None:
        """Take whole lines. Only those with a mark in them are looked at one by one: code has many lines."""
        at = 0
        while (mark := _MARK.search(lines, at)) is not None:
            start, end = lines.rfind("\n", 0, mark.start()) + 1, lines.find("\n", mark.end())
            end = len(lines) if end < 0 else end
            self._prose = self._prose or (not self._open and bool(lines[at:start].strip()))
            self._open, self._prose = self._after(lines[start:end])
            at = min(end + 1, len(lines))
        self._prose = self._prose or (not self._open and bool(lines[at:].strip()))

    def _after(self, line: str) -> tuple[str, bool]:
        """The open fence, and whether there is prose, once `line` is over."""
        match = _FENCE.match(line)
        if match is None:
            return self._open, self._prose or (not self._open and bool(line.strip()))
        fence, info = match.groups()
        if self._open:
            closes = fence[0] == self._open[0] and len(fence) >= len(self._open) and not info.strip()
            return ("" if closes else self._open), self._prose
        if fence[0] == "`" and "`" in info:  # code within a line, by CommonMark's own rule
            return "", True
        return fence, self._prose
