"""A `Classifier` whose engine runs elsewhere: text-embeddings-inference's `POST /predict` over HTTP.

A TEI server answers it, and so does `guardrail.inference.server`, for our own workers and on Ray Serve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from guardrail.errors import DetectorError
from guardrail.inference.http import Endpoint
from guardrail.inference.pieces import cut, highest
from guardrail.protocols import Priority

PRIORITY_HEADER = "Guardrail-Priority"
TEI_WINDOW = 480
"""Characters that a model of 512 tokens surely takes: hardly any tokenizer makes more tokens than characters."""
TEI_BATCH = 32
"""Most texts in one request that a TEI server takes as it comes (`--max-client-batch-size`)."""

Activation = Literal["server", "sigmoid", "softmax"]


class Prediction(msgspec.Struct, frozen=True):
    """One label's score for one text, as TEI words it."""

    label: str
    score: float


_MANY = msgspec.json.Decoder(list[list[Prediction]])
_ONE = msgspec.json.Decoder(list[Prediction])


class RemoteClassifier:
    """Scores texts in another process. `address` is `unix:/run/classifier.sock` or `http://host:port`.

    `labels` are those wanted, in the order scores are given; the server may know more. A call waits `deadline`
    seconds in all, connecting included. `activation`: the server gives probabilities, or raw scores (`raw_scores`) of
    which a sigmoid or softmax is taken here; TEI takes a softmax over all labels, whatever the model was trained for.
    `window`: most characters sent at once (0: whole texts go, as our own server cuts them itself by tokens); `batch`:
    most texts in a request (0: all of a call).
    """

    def __init__(
        self,
        address: str,
        labels: Sequence[str],
        *,
        deadline: float = 10.0,
        activation: Activation = "server",
        window: int = 0,
        batch: int = 0,
        key: str | None = None,
    ) -> None:
        self._endpoint = Endpoint(address, deadline=deadline, key=key)
        self._labels = tuple(labels)
        self._activation = activation
        self._window = window
        self._batch = batch

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    async def start(self) -> None:
        """Open the connection pool; the server is first reached by `score` or `healthy`."""
        self._endpoint.open()

    async def close(self) -> None:
        await self._endpoint.close()

    async def healthy(self) -> bool:
        """Whether the server says it is ready."""
        return await self._endpoint.ready()

    async def score(self, texts: Sequence[str], priority: Priority = Priority.PROMPT) -> list[tuple[float, ...]]:
        """For each text the probability of each of `labels`. Raises DetectorError's kinds."""
        if not texts:
            return []
        pieces = [cut(text, self._window) if self._window else [text] for text in texts]
        flat = [piece for found in pieces for piece in found]
        size = self._batch or len(flat)
        batches = [flat[begin : begin + size] for begin in range(0, len(flat), size)]
        answers = await self._endpoint.all([self._predict(batch, priority) for batch in batches])
        return highest([row for rows in answers for row in rows], list(map(len, pieces)))

    async def _predict(self, texts: Sequence[str], priority: Priority) -> list[tuple[float, ...]]:
        # TEI reads ["a", "b"] as one pair: each text stands in a list of its own. It cuts what is too long in spite of
        # `window`, where the alternative is no verdict at all.
        asked = {
            "inputs": [[text] for text in texts],
            "raw_scores": self._activation != "server",
            "truncate": True,
        }
        headers = {PRIORITY_HEADER: priority.name.lower()}
        return self._rows(await self._endpoint.post("/predict", msgspec.json.encode(asked), headers), len(texts))

    def _rows(self, answer: bytes, count: int) -> list[tuple[float, ...]]:
        decoded = _decode(answer, count)
        if len(decoded) != count:
            raise DetectorError(f"the classifier's server answered {len(decoded)} texts; expected {count}")
        rows = []
        for predictions in decoded:
            found = {prediction.label: prediction.score for prediction in predictions}
            if missing := [label for label in self._labels if label not in found]:
                known = sorted(found)[:8]
                raise DetectorError(f"the classifier's server gave no score for {missing}; it has labels {known}")
            found = _probabilities(found, self._activation)
            row = tuple(found[label] for label in self._labels)
            if not all(math.isfinite(score) and 0.0 <= score <= 1.0 for score in row):
                raise DetectorError(
                    "the classifier's server gave a score outside 0..1; if its scores are raw, expected activation "
                    "sigmoid or softmax"
                )
            rows.append(row)
        return rows


def _decode(answer: bytes, count: int) -> list[list[Prediction]]:
    try:
        return _MANY.decode(answer)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    try:
        # Servers of TEI's kind answer one text with its labels alone.
        if count == 1:
            return [_ONE.decode(answer)]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    raise DetectorError("the classifier's server answered with something that is no prediction") from None


def _probabilities(scores: dict[str, float], activation: Activation) -> dict[str, float]:
    if activation == "server":
        return scores
    if activation == "sigmoid":
        # By halves of tanh, which does not overflow.
        return {label: 0.5 + 0.5 * math.tanh(score / 2) for label, score in scores.items()}
    top = max(scores.values())
    powers = {label: math.exp(score - top) for label, score in scores.items()}
    whole = sum(powers.values())
    return {label: power / whole for label, power in powers.items()}
