"""A `Classifier` that asks a guard model behind an OpenAI-compatible API, such as vLLM's, by its verdict's logprobs.

The answer is as short as the verdict: one forward pass over the text and a few tokens. Nothing is downloaded here; the
server has the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from guardrail.errors import DetectorOverloaded, SettingsError
from guardrail.inference.guardmodels import GUARD_MODELS, NOT_SHOWN, Exchange
from guardrail.inference.hazards import GRANITE_GUARDIAN, OWN
from guardrail.inference.http import Endpoint
from guardrail.inference.pieces import Scores, cut, highest
from guardrail.inference.verdicts import Verdict, chat_answer, read, text_answer
from guardrail.protocols import Priority

WINDOW = 16_000
"""Characters of a text that a guard model of 8,192 tokens or more surely takes in English, and mostly in Chinese; what
is still too long its server refuses."""
TOP_CHAT = 20
"""Alternatives asked for: as many as OpenAI's chat completions and vLLM allow."""
TOP_TEXT = 5
"""The same for completions, where OpenAI allows five."""


class GuardModelClassifier:
    """Scores texts with the guard model `model` of a server at `url` (with or without `/v1`).

    `template` is a name of `GUARD_MODELS`. `endpoint`: `chat` asks with the prompt that the model brings along;
    `completions` with one of ours that ends right before the verdict. With `categories` a model may go on after a
    verdict that is not safe to name them. `controversial`: how unsafe the middle verdict of Qwen3Guard is, 0 or 1
    (its card's loose and strict mode). `risks`: what Granite Guardian is asked about, each in a request of its own.
    A call waits `deadline` seconds in all; when more than `queue` requests would be on their way it gets
    DetectorOverloaded at once. Texts of more than `window` characters go by overlapping pieces.

    Scores: `unsafe` is the probability of the verdict. A category that the model names scores 1 where it names the
    kind of harm; `political` and `jailbreak` score as the verdict does, and a text about which nothing else was named
    is not `unsafe`. Raises SettingsError for a `template` that is none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        template: str,
        *,
        endpoint: Literal["chat", "completions"] = "chat",
        categories: bool = True,
        controversial: float = 1.0,
        risks: Sequence[str] = ("harm",),
        key: str | None = None,
        deadline: float = 10.0,
        queue: int = 1_024,
        window: int = WINDOW,
    ) -> None:
        if template not in GUARD_MODELS:
            raise SettingsError(f'classifier template is "{template}"; expected one of {", ".join(GUARD_MODELS)}')
        self._guard = GUARD_MODELS[template]
        self._model = model
        self._chat = endpoint == "chat"
        self._categories = categories and self._guard.category_tokens > 0
        self._controversial = controversial
        self._risks = tuple(dict.fromkeys(risks)) if self._guard.by_risk else ("harm",)
        self._labels = self._guard.labels(self._risks, categories=self._categories)
        root = url.rstrip("/").removesuffix("/v1").rstrip("/")
        self._endpoint = Endpoint(root, deadline=deadline, key=key, connections=min(queue, 256))
        self._queue = queue
        self._window = window
        self._out = 0

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    async def start(self) -> None:
        """Open the connection pool; the server is first reached by `score` or `healthy`."""
        self._endpoint.open()

    async def close(self) -> None:
        await self._endpoint.close()

    async def healthy(self) -> bool:
        """Whether the server lists its models."""
        return await self._endpoint.ready("/v1/models")

    async def score(self, texts: Sequence[str], priority: Priority = Priority.PROMPT) -> list[Scores]:
        """For each text, judged as what a user says, the score of each of `labels`. Raises DetectorError's kinds."""
        return await self.judge([Exchange(text) for text in texts])

    async def judge(self, exchanges: Sequence[Exchange]) -> list[Scores]:
        """The same for exchanges: answers are judged as answers, with the prompts that they have as context.

        Only what is judged is cut into pieces; of a context that is too long the end is kept.
        """
        pieces = [self._pieces(exchange) for exchange in exchanges]
        asked = [(piece, risk) for found in pieces for piece in found for risk in self._risks]
        if not asked:
            return []
        if self._out + len(asked) > self._queue:
            raise DetectorOverloaded(f"the guard model's queue is full ({self._queue} requests)")
        self._out += len(asked)
        try:
            verdicts = await self._endpoint.all([self._ask(piece, risk) for piece, risk in asked])
        finally:
            self._out -= len(asked)
        width = len(self._risks)
        rows = [self._row(verdicts[begin : begin + width]) for begin in range(0, len(verdicts), width)]
        return highest(rows, list(map(len, pieces)))

    def _pieces(self, exchange: Exchange) -> list[Exchange]:
        if exchange.answer is None:
            return [Exchange(piece) for piece in cut(exchange.prompt, self._window)]
        context = exchange.prompt[-self._window :] or NOT_SHOWN
        return [Exchange(context, piece) for piece in cut(exchange.answer, self._window)]

    async def _ask(self, exchange: Exchange, risk: str) -> Verdict:
        guard = self._guard
        more = guard.category_tokens if self._categories else 0
        asked: dict[str, Any] = {"model": self._model, "temperature": 0, "stream": False}
        if more and guard.clear:
            asked["stop"] = list(guard.clear)
        if self._chat:
            asked |= guard.extras(risk)
            asked["messages"] = guard.messages(exchange, risk)
            asked["max_tokens"] = guard.verdict_tokens + more
            asked |= {"logprobs": True, "top_logprobs": TOP_CHAT}
            answer = chat_answer(await self._endpoint.post("/v1/chat/completions", msgspec.json.encode(asked)))
        else:
            asked["prompt"] = guard.prompt(exchange, risk)
            asked["max_tokens"] = 1 + more
            asked["logprobs"] = TOP_TEXT
            answer = text_answer(await self._endpoint.post("/v1/completions", msgspec.json.encode(asked)))
        return read(guard, answer, led=not self._chat, controversial=self._controversial)

    def _row(self, verdicts: Sequence[Verdict]) -> Scores:
        if self._guard.by_risk:
            risks = zip(self._risks, verdicts, strict=True)
            scores = {GRANITE_GUARDIAN[risk]: verdict.unsafe for risk, verdict in risks}
        else:
            scores = self._attributed(verdicts[0])
        return tuple(scores.get(label, 0.0) for label in self._labels)

    def _attributed(self, verdict: Verdict) -> dict[str, float]:
        named = {self._guard.categories[name] for name in verdict.categories}
        scores = {label: verdict.unsafe if label in OWN else 1.0 for label in named}
        # What is political speech alone, or a trick alone, is no harm to those whose policies do not ask about it.
        scores["unsafe"] = 0.0 if named and named <= OWN else verdict.unsafe
        return scores
