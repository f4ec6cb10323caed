"""The texts of one streamed response by their places in it: what came of each, and what of that has left."""

from __future__ import annotations

from typing import Any

from guardrail.core.content import Path
from guardrail.core.surface import Piece
from guardrail.errors import MalformedResponse
from guardrail.wire.escapes import Unescaped, written

Key = tuple[str | int, ...]
"""The place of a text: the number of its item in `output`, then its path within the item."""

_VERSIONS = 16  # of one text, each different from the others


class Lane:
    """One text of the answer: what came of it and what of that has left."""

    __slots__ = ("came", "closed", "ended", "escapes", "key", "left", "number", "pending", "shown")

    def __init__(self, key: Key, number: int, shown: bool) -> None:
        self.key = key
        self.number = number
        self.shown = shown
        self.came: list[str] = []
        self.left: list[str] = []
        self.ended = False  # nothing more comes
        self.closed = False  # the event that ended it has left
        self.pending = ""  # words of ours for a text that comes at once
        # A call's arguments are JSON text, and read as what its escapes mean.
        self.escapes = Unescaped() if key[-1] == "arguments" and type(key[0]) is int else None

    @property
    def name(self) -> Key:
        return (self.number, "content" if self.shown else "other")

    def whole(self) -> str:
        self.came = ["".join(self.came)]
        return self.came[0]

    def told(self) -> str:
        self.left = ["".join(self.left)]
        return self.left[0]


class Place:
    """Where an event tells (a piece of) a text: `new` if for the first time, `whole` if all of it up to here.

    `text` stands there; what of it is new is `came`, read as `read`.
    """

    __slots__ = ("came", "lane", "new", "path", "read", "text", "whole")

    def __init__(self, path: Path, lane: Lane, text: str, new: str, whole: bool) -> None:
        self.path, self.lane, self.text, self.whole = path, lane, text, whole
        self.new = bool(new)
        self.came = self.read = new
        if new and lane.escapes is not None:
            self.came, self.read = lane.escapes.feed(new)

    def left(self, text: str) -> str:
        """What leaves of the new text, if `text` is left of what was read."""
        if self.lane.escapes is None:
            return text
        return self.came if text == self.read else written(text)


class Memo:
    """What is to be known of an event when it leaves."""

    __slots__ = ("body", "ends", "kind", "number", "odd", "places")

    def __init__(self, kind: str, number: Any, body: dict[str, Any] | None = None) -> None:
        self.kind = kind
        self.number = number
        self.body = body
        self.places: list[Place] = []
        self.ends: list[Lane] = []
        self.odd = False  # its lines are more than an event has


class Lanes:
    """All texts of one answer. Each has a number of its own, by which the gateway knows it as a choice."""

    def __init__(self) -> None:
        self.numbered: list[Lane] = []
        self._lanes: dict[Key, Lane] = {}
        self._open: dict[Key, Lane] = {}

    def at(self, key: Key) -> Lane | None:
        """The text at this place, if any has come."""
        return self._lanes.get(key)

    def _lane(self, key: Key, shown: bool) -> Lane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = self._open[key] = Lane(key, len(self.numbered), shown)
            self.numbered.append(lane)
        return lane

    def add(self, memo: Memo, pieces: list[Piece], path: Path, text: str, key: Key, shown: bool) -> None:
        """A text goes on."""
        lane = self._lane(key, shown)
        if text:
            self._come(memo, pieces, Place(path, lane, text, text, False), text)

    def _come(self, memo: Memo, pieces: list[Piece], place: Place, text: str) -> None:
        place.lane.came.append(text)
        memo.places.append(place)
        if place.read:
            pieces.append(Piece(place.lane.name, place.read, place.path))

    def again(
        self,
        memo: Memo,
        pieces: list[Piece],
        path: Path,
        text: str,
        key: Key,
        shown: bool = False,
        *,
        ends: bool = True,
    ) -> None:
        """A text is told whole, for the first time or again."""
        lane = self._lane(key, shown)
        came = lane.whole()
        if came == text:
            memo.places.append(Place(path, lane, text, "", True))
        elif not lane.ended and text.startswith(came):
            more = text[len(came) :]
            self._come(memo, pieces, Place(path, lane, text, more, True), more)
        else:
            # It says something else than before: another text, which may come again, too.
            if len(key) > 1 and key[1 : 1 + _VERSIONS] == ("!",) * _VERSIONS:
                raise MalformedResponse("the upstream told one text in too many ways")
            self.again(memo, pieces, path, text, (*key[:1], "!", *key[1:]))
            return
        if ends and not lane.ended:
            lane.ended = True
            memo.ends.append(lane)
            self._open.pop(key, None)

    def end(self, memo: Memo, begins: Key) -> None:
        """The texts whose places begin so are whole."""
        for key in [key for key in self._open if key[: len(begins)] == begins]:
            lane = self._open.pop(key)
            lane.ended = True
            memo.ends.append(lane)
