r"""JSON text that arrives in pieces, for reading: `\u7981` and a line break's `\n` as the characters that they mean.

A model's arguments are streamed as JSON text. What a scanner reads in it must not depend on how a server escapes, and
what a scanner changes must still be JSON: quotes, backslashes and other control characters keep their escapes
(RFC 8259, section 7).
"""

from __future__ import annotations

import re

_HIGH = r"\\u[dD][89abAB][0-9a-fA-F]{2}"
_WHOLE = re.compile(
    rf"[^\\]+|{_HIGH}\\u[dD][c-fC-F][0-9a-fA-F]{{2}}|\\u(?![dD][89abAB])[0-9a-fA-F]{{4}}|\\[^u]", re.DOTALL
)
_BEGUN = re.compile(rf"(?:{_HIGH})?\\(?:u[0-9a-fA-F]{{0,3}})?|{_HIGH}")
# Characters that JSON text cannot hold as they are, and that are white space to a scanner, stand for its white space.
_SPACES = {r"\n": "\v", r"\r": "\v", r"\t": "\f"}
_WRITTEN = str.maketrans({"\v": r"\n", "\f": r"\t"})


class Unescaped:
    """The pieces of one JSON text. An escape that a piece's end cuts in two belongs to the next piece."""

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        self._begun = ""

    def feed(self, piece: str) -> tuple[str, str]:
        """The next piece: as JSON text (without an escape begun at its end, with the one begun before), and to read."""
        if not self._begun and "\\" not in piece:
            return piece, piece
        text, self._begun = self._begun + piece, ""
        out: list[str] = []
        at = 0
        while at < len(text):
            match = _WHOLE.match(text, at)
            if match is None and _BEGUN.fullmatch(text, at):
                self._begun = text[at:]
                break
            end = match.end() if match is not None else at + 2  # half a pair, or no escape: it stays as it is
            out.append(_read(text[at:end]))
            at = end
        return text[:at], "".join(out)


def written(text: str) -> str:
    """A text that was read, changed or not, as JSON text again."""
    return text.translate(_WRITTEN)


def _read(token: str) -> str:
    if not token.startswith("\\"):
        return token
    if token in _SPACES:
        return _SPACES[token]
    if len(token) < 6:
        return token
    units = bytes.fromhex(token.replace("\\u", ""))
    try:
        char = units.decode("utf-16-be")
    except UnicodeDecodeError:
        return token
    return token if char < " " or char in '"\\' else char
