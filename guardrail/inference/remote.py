"""A `Classifier` whose engine runs in another process: text-embeddings-inference's `POST /predict` over HTTP.

`guardrail.inference.server` answers it for our own workers; a TEI server answers it too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import aiohttp
import msgspec

from guardrail.errors import DetectorError, DetectorOverloaded, DetectorTimeout, SettingsError
from guardrail.protocols import Priority

PRIORITY_HEADER = "Guardrail-Priority"


class Prediction(msgspec.Struct, frozen=True):
    """One label's probability for one text, as TEI words it."""

    label: str
    score: float


_DECODER = msgspec.json.Decoder(list[list[Prediction]])


class RemoteClassifier:
    """Scores texts in another process. `address` is `unix:/run/classifier.sock` or `http://host:port`.

    `labels` are those wanted, in the order scores are given; the server may know more. A call waits `deadline`
    seconds in all, connecting included.
    """

    def __init__(self, address: str, labels: Sequence[str], *, deadline: float = 10.0) -> None:
        self._socket = address.removeprefix("unix:") if address.startswith("unix:") else None
        if self._socket is None and not address.startswith(("http://", "https://")):
            raise SettingsError(f'classifier address is "{address}"; expected unix:/path, http://host:port or https://')
        # Over a Unix socket the host is not looked up; HTTP wants one all the same.
        self._base = "http://classifier" if self._socket is not None else address.rstrip("/")
        self._labels = tuple(labels)
        self._deadline = deadline
        self._session: aiohttp.ClientSession | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    async def start(self) -> None:
        """Open the connection pool; the server is first reached by `score` or `healthy`."""
        if self._session is None:
            connector = aiohttp.UnixConnector(self._socket) if self._socket else aiohttp.TCPConnector()
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=self._deadline),
                cookie_jar=aiohttp.DummyCookieJar(),
            )

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def healthy(self) -> bool:
        """Whether the server says it is ready."""
        try:
            status, _ = await self._request("GET", "/health")
        except DetectorError:
            return False
        return status == 200

    async def score(self, texts: Sequence[str], priority: Priority = Priority.PROMPT) -> list[tuple[float, ...]]:
        """For each text the probability of each of `labels`. Raises DetectorError's kinds."""
        if not texts:
            return []
        # TEI reads ["a", "b"] as one pair: each text stands in a list of its own.
        body = msgspec.json.encode({"inputs": [[text] for text in texts], "raw_scores": False, "truncate": True})
        status, answer = await self._request(
            "POST",
            "/predict",
            data=body,
            headers={"Content-Type": "application/json", PRIORITY_HEADER: priority.name.lower()},
        )
        if status == 429:
            raise DetectorOverloaded("the classifier's server is overloaded")
        if status in (408, 504):
            raise DetectorTimeout("the classifier's server timed out")
        if status != 200:
            raise DetectorError(f"the classifier's server answered {status}")
        return self._rows(answer, len(texts))

    async def _request(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        if self._session is None:
            raise DetectorError("the classifier's client is not running")
        try:
            async with self._session.request(method, self._base + path, **options) as response:
                return response.status, await response.read()
        except TimeoutError:
            raise DetectorTimeout(f"the classifier's server did not answer within {self._deadline:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise DetectorError(f"the classifier's server is away: {type(error).__name__}") from error

    def _rows(self, answer: bytes, count: int) -> list[tuple[float, ...]]:
        try:
            decoded = _DECODER.decode(answer)
        except msgspec.MsgspecError:
            raise DetectorError("the classifier's server answered with something that is no prediction") from None
        if len(decoded) != count:
            raise DetectorError(f"the classifier's server answered {len(decoded)} texts; expected {count}")
        rows = []
        for predictions in decoded:
            found = {prediction.label: prediction.score for prediction in predictions}
            if missing := [label for label in self._labels if label not in found]:
                raise DetectorError(f"the classifier's server gave no score for {missing}")
            row = tuple(found[label] for label in self._labels)
            if not all(math.isfinite(score) and 0.0 <= score <= 1.0 for score in row):
                raise DetectorError("the classifier's server gave a score outside 0..1")
            rows.append(row)
        return rows
