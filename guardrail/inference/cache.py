"""Remember the scores of texts that come again: a `Classifier` around another one, which keeps no text.

What a chat sends again with each message, system prompts and retries are much of what a service screens. Keys are keyed
hashes, so that what is in memory cannot be tried against a list of texts; equal texts that are asked about at the same
time are scored once.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from guardrail.errors import DetectorError, DetectorTimeout
from guardrail.inference.card import ModelCard
from guardrail.protocols import Classifier, Priority

HIT, MISS, SHARED = "hit", "miss", "shared"
"""How a text was answered: from the cache, by scoring it, by waiting for a scoring of it that was under way."""

Scores = tuple[float, ...]


class Flight:
    """One call of the classifier that is under way, its scores by key, and how many callers wait for it."""

    __slots__ = ("priority", "task", "waiting")

    def __init__(self, task: asyncio.Task[dict[bytes, Scores]], priority: Priority) -> None:
        self.task = task
        self.priority = priority
        self.waiting = 0


class VerdictCache:
    """A `Classifier` that asks `classifier` only about texts whose scores it does not hold.

    At most `entries` texts are held, those used last; a failure never is. `model` names the weights (`digest_of` a
    card), so that a key means nothing to a cache of another model. Policies judge scores after they have left here:
    a change of theirs makes no entry wrong. Windows of streams go straight through, as they are hardly ever the same
    twice and would push out what is. `on_result` is told how texts were answered, and how many of them.

    The model behind a `classifier` on another machine can change unseen: start this process again when it does.
    """

    def __init__(
        self,
        classifier: Classifier,
        model: str,
        *,
        entries: int = 4_096,
        on_result: Callable[[str, int], None] = lambda result, count: None,
    ) -> None:
        self._classifier = classifier
        self._entries = entries
        self._on_result = on_result
        # BLAKE2b (RFC 7693) with a key of this process alone.
        self._hash = hashlib.blake2b(f"{len(model)}:{model}".encode(), digest_size=16, key=secrets.token_bytes(32))
        self._held: OrderedDict[bytes, Scores] = OrderedDict()
        self._flying: dict[bytes, Flight] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        return self._classifier.labels

    def __len__(self) -> int:
        """Texts whose scores are held."""
        return len(self._held)

    async def start(self) -> None:
        await self._classifier.start()

    async def close(self) -> None:
        """Close the classifier, which answers whoever waits, and forget everything."""
        await self._classifier.close()
        self._held.clear()

    async def score(self, texts: Sequence[str], priority: Priority = Priority.PROMPT) -> list[Scores]:
        """For each text the probability of each label. Raises DetectorError's kinds."""
        if priority is Priority.STREAM:
            return await self._classifier.score(texts, priority)
        keys = [self._key(text) for text in texts]
        found: dict[bytes, Scores] = {}
        awaited: dict[bytes, Flight] = {}
        fresh: dict[bytes, str] = {}
        for key, text in zip(keys, texts, strict=True):
            if (scores := self._held.get(key)) is not None:
                self._held.move_to_end(key)
                found[key] = scores
            # Nobody joins a call that is being cancelled, or one that the device serves later than their own.
            elif (flight := self._flying.get(key)) is not None and flight.waiting and flight.priority <= priority:
                awaited[key] = flight
            else:
                fresh[key] = text
        self._count(keys, found, fresh)
        if fresh:
            awaited |= dict.fromkeys(fresh, self._launch(fresh, priority))
        await self._land(set(awaited.values()))
        failed: dict[bytes, str] = {}
        for key, flight in awaited.items():
            error = flight.task.exception()
            if error is None:
                found[key] = flight.task.result()[key]
            elif key in fresh or isinstance(error, DetectorTimeout):
                raise error
            else:
                # Somebody else's call failed, perhaps with what else it asked about: this text has not had its turn.
                failed[key] = texts[keys.index(key)]
        if failed:
            found |= await self._fly(failed, priority)
        return [found[key] for key in keys]

    def _key(self, text: str) -> bytes:
        made = self._hash.copy()
        made.update(text.encode("utf-8", "surrogatepass"))
        return made.digest()

    def _count(self, keys: Sequence[bytes], found: Mapping[bytes, Scores], fresh: Mapping[bytes, str]) -> None:
        hits = sum(key in found for key in keys)
        for result, count in ((HIT, hits), (MISS, len(fresh)), (SHARED, len(keys) - hits - len(fresh))):
            if count:
                self._on_result(result, count)

    def _launch(self, texts: Mapping[bytes, str], priority: Priority) -> Flight:
        """Begin to score texts in a task of its own, which outlives the caller while others wait for it."""
        flight = Flight(asyncio.create_task(self._fly(texts, priority), name="guardrail-cache"), priority)
        keys = tuple(texts)  # the texts themselves are let go
        self._flying |= dict.fromkeys(keys, flight)
        flight.task.add_done_callback(lambda task: self._landed(flight, keys))
        return flight

    async def _fly(self, texts: Mapping[bytes, str], priority: Priority) -> dict[bytes, Scores]:
        rows = await self._classifier.score(list(texts.values()), priority)
        if len(rows) != len(texts):
            raise DetectorError(f"the classifier returned {len(rows)} scores; expected {len(texts)}")
        return dict(zip(texts, rows, strict=True))

    def _landed(self, flight: Flight, keys: Iterable[bytes]) -> None:
        for key in keys:
            if self._flying.get(key) is flight:
                del self._flying[key]
        # Asking for the exception tells asyncio that it was not overlooked, should nobody wait any more.
        if flight.task.cancelled() or flight.task.exception() is not None:
            return
        self._held |= flight.task.result()
        while len(self._held) > self._entries:
            self._held.popitem(last=False)

    @staticmethod
    async def _land(flights: set[Flight]) -> None:
        """Wait for all of them. A caller that goes leaves the others theirs; the last to go ends the call."""
        if not flights:
            return
        for flight in flights:
            flight.waiting += 1
        try:
            await asyncio.wait({flight.task for flight in flights})
        finally:
            for flight in flights:
                flight.waiting -= 1
                if not flight.waiting and not flight.task.done():
                    flight.task.cancel()


def digest_of(card: ModelCard) -> str:
    """What tells a model from every other: SHA-256 (hex) of its card, which holds its files' digests."""
    return hashlib.sha256(msgspec.json.encode(card)).hexdigest()
