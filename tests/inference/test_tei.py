"""A text-embeddings-inference server, as its documentation words it, around a real tiny model of transformers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from guardrail.errors import DetectorError, DetectorOverloaded
from guardrail.inference.engine import load_classifier
from guardrail.inference.pieces import cut, highest
from guardrail.inference.remote import TEI_BATCH, RemoteClassifier
from guardrail.inference.tokens import TokenEncoder
from tests.inference.guard_server import serving
from tests.inference.tiny import LABELS

LONGEST = 16
"""Tokens that the model behind the server takes."""


class Tei:
    """`POST /predict` and `GET /health`: a softmax over all labels unless scores are to be raw, texts cut when they may
    be, its own error bodies, and no more than 32 texts in a request."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForSequenceClassification

        self._model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        self._encoder = TokenEncoder.load(folder, 512)
        self.asked: list[dict[str, Any]] = []
        self.key: str | None = None

    async def predict(self, request: web.Request) -> web.Response:
        import torch

        body = await request.json()
        self.asked.append(body)
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.Response(status=401)
        texts = [text for (text,) in body["inputs"]]
        if len(texts) > 32:
            return self._error(422, "Validation", f"batch size {len(texts)} > maximum allowed batch size 32")
        rows = []
        for ids in self._encoder.head_and_tail(texts):
            if len(ids) > LONGEST and not body["truncate"]:
                return self._error(413, "Validation", f"`inputs` must have less than {LONGEST} tokens")
            with torch.inference_mode():
                logits = self._model(input_ids=torch.tensor([ids[:LONGEST]])).logits[0]
            scores = logits if body["raw_scores"] else torch.softmax(logits, -1)
            # TEI gives the likeliest label first.
            found = zip(LABELS, scores.tolist(), strict=True)
            rows.append([{"label": label, "score": score} for label, score in sorted(found, key=lambda pair: -pair[1])])
        return web.json_response(rows)

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()

    @staticmethod
    def _error(status: int, kind: str, message: str) -> web.Response:
        return web.json_response({"error": message, "error_type": kind}, status=status)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/predict", self.predict)
        app.router.add_get("/health", self.health)
        return app


@pytest.fixture
def tei(plain_folder: Path) -> Tei:
    return Tei(plain_folder)


@asynccontextmanager
async def asking(url: str, **more: Any) -> AsyncIterator[RemoteClassifier]:
    client = RemoteClassifier(url, LABELS, deadline=20.0, **more)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def test_a_sigmoid_of_raw_scores_is_what_our_own_engine_says_of_a_model_with_many_labels(
    tei: Tei, folder: Path
) -> None:
    texts = ["you are a fool", "bake a cake", "你 好"]
    engine, _ = load_classifier(folder, device="cpu")
    await engine.start()
    async with serving(tei.app()) as url, asking(url, activation="sigmoid") as client:
        assert await client.healthy()
        assert await client.score(texts) == [pytest.approx(row, abs=1e-5) for row in await engine.score(texts)]
    await engine.close()


async def test_the_servers_own_probabilities_are_a_softmax_and_so_is_ours_of_its_raw_scores(tei: Tei) -> None:
    async with serving(tei.app()) as url:
        async with asking(url) as client:
            (theirs,) = await client.score(["you are a fool"])
        async with asking(url, activation="softmax") as client:
            (ours,) = await client.score(["you are a fool"])
    assert sum(theirs) == pytest.approx(1)
    assert ours == pytest.approx(theirs, abs=1e-6)


async def test_raw_scores_that_nobody_asked_for_are_an_error(tei: Tei) -> None:
    async def raw(request: web.Request) -> web.Response:
        return web.json_response([[{"label": label, "score": 3.2} for label in LABELS]])

    app = web.Application()
    app.router.add_post("/predict", raw)
    async with serving(app) as url, asking(url) as client:
        with pytest.raises(DetectorError, match="expected activation sigmoid or softmax"):
            await client.score(["you"])


async def test_many_texts_go_in_batches_that_the_server_takes(tei: Tei) -> None:
    texts = ["you", "make a cake"] * 18
    async with serving(tei.app()) as url:
        async with asking(url, batch=TEI_BATCH) as client:
            rows = await client.score(texts)
        assert sorted(len(body["inputs"]) for body in tei.asked) == [4, 32]
        assert [rows[0], rows[1]] == [pytest.approx(row) for row in (rows[34], rows[35])]
        assert rows[0] != rows[1]
        async with asking(url) as client:
            with pytest.raises(DetectorError, match=r"422 \(Validation\)"):
                await client.score(texts)


async def test_what_the_server_would_cut_off_is_scored_in_windows(tei: Tei) -> None:
    harmless, harm = "make the cake " * 20, "you bomb fool"
    async with serving(tei.app()) as url:
        async with asking(url, activation="sigmoid") as client:
            alone, behind, without = await client.score([harm, harmless + harm, harmless])
            # The model's sixteen tokens end before the harm: without windows nobody has looked at it.
            assert behind == without
        async with asking(url, activation="sigmoid", window=60) as client:
            (found,) = await client.score([harmless + harm])
    assert all(body["truncate"] for body in tei.asked)
    assert found != pytest.approx(without, abs=1e-4)
    assert alone != pytest.approx(without, abs=1e-4)


async def test_an_overloaded_server_says_so_in_its_own_words(tei: Tei) -> None:
    async def full(request: web.Request) -> web.Response:
        return web.json_response({"error": "Model is overloaded", "error_type": "Overloaded"}, status=429)

    app = web.Application()
    app.router.add_post("/predict", full)
    async with serving(app) as url, asking(url) as client:
        with pytest.raises(DetectorOverloaded, match=r"429 \(Overloaded\)"):
            await client.score(["you"])


async def test_a_key_goes_along_and_one_that_is_missing_is_named(tei: Tei) -> None:
    tei.key = "sk-tei"
    async with serving(tei.app()) as url:
        async with asking(url, key="sk-tei") as client:
            assert len(await client.score(["you"])) == 1
        async with asking(url) as client:
            with pytest.raises(DetectorError, match="GUARDRAIL_CLASSIFIER_API_KEY"):
                await client.score(["you"])


async def test_labels_alone_answer_for_a_single_text_but_not_for_two() -> None:
    async def flat(request: web.Request) -> web.Response:
        return web.json_response([{"label": label, "score": 0.25} for label in LABELS])

    app = web.Application()
    app.router.add_post("/predict", flat)
    async with serving(app) as url, asking(url) as client:
        assert await client.score(["you"]) == [(0.25,) * len(LABELS)]
        with pytest.raises(DetectorError, match="no prediction"):
            await client.score(["you", "me"])


async def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guardrail.inference.http.LARGEST", 100_000)

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(b" " * 10_000)
        return response

    app = web.Application()
    app.router.add_post("/predict", endless)
    async with serving(app) as url, asking(url) as client:
        with pytest.raises(DetectorError, match="more than 100000 bytes"):
            await client.score(["you"])


# -- pieces ------------------------------------------------------------------------------------------------------


def test_pieces_hold_every_character_and_any_short_stretch_whole() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(1003))
    pieces = cut(text, 100)
    assert all(len(piece) == 100 for piece in pieces)
    for begin in range(len(text) - 20 + 1):
        assert any(text[begin : begin + 20] in piece for piece in pieces)
    assert cut(text[:100], 100) == [text[:100]]
    assert cut("", 100) == [""]
    assert set(cut("abc", 1)) == {"a", "b", "c"}


def test_each_label_keeps_its_highest_score() -> None:
    assert highest([(0.1, 0.9), (0.2, 0.3), (0.5, 0.5)], [2, 1]) == [(0.2, 0.9), (0.5, 0.5)]
