"""Embeddings, moderations, pictures and speech through the whole middleware."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import pytest

from guardrail.gateway.middleware import GuardrailMiddleware
from guardrail.testing import Answer, ScriptedUpstream, drive
from tests.gateway.conftest import MakeEngine
from tests.gateway.test_middleware import Slow, scrape

EMBEDDINGS, MODERATIONS = "/v1/embeddings", "/v1/moderations"
IMAGES, SPEECH = "/v1/images/generations", "/v1/audio/speech"
MEDIA = {"unscreened_media": frozenset({"image", "audio"})}
KEY = {"authorization": "Bearer key-1"}
INPUTS = [
    (EMBEDDINGS, {"input": "TEXT"}),
    (EMBEDDINGS, {"input": ["fine", "TEXT"]}),
    (EMBEDDINGS, {"input": "fine", "x_unknown": {"deep": ["TEXT"]}}),
    (IMAGES, {"prompt": "TEXT"}),
    (IMAGES, {"prompt": "fine", "style": "in the style of TEXT"}),
    (SPEECH, {"input": "TEXT", "voice": "alloy"}),
    (SPEECH, {"input": "fine", "voice": "alloy", "instructions": "TEXT"}),
]


def said(body: dict[str, Any], text: str) -> bytes:
    return json.dumps({"model": "m", **body}).replace("TEXT", text).encode()


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields}, ensure_ascii=False)}\n\n".encode()


# -- what goes in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "body"), INPUTS)
async def test_a_blocked_input_never_reaches_the_upstream(make_engine: MakeEngine, path: str, body: Any) -> None:
    upstream = ScriptedUpstream([b"{}"], media="application/json")
    answer = await drive(GuardrailMiddleware(upstream, make_engine(**MEDIA)), path, said(body, "say KABOOM"))
    assert (answer.status, answer.json()["error"]["code"]) == (400, "content_filter")
    assert answer.json()["error"]["guardrail"]["rules"] == ["test/blocked"]
    assert upstream.bodies == []


@pytest.mark.parametrize(("path", "body"), INPUTS)
async def test_a_redacted_input_goes_on_without_the_text(make_engine: MakeEngine, path: str, body: Any) -> None:
    upstream = ScriptedUpstream([b'{"data":[]}'], media="application/json")
    await drive(GuardrailMiddleware(upstream, make_engine(**MEDIA)), path, said(body, "a hush b"))
    assert [json.loads(sent) for sent in upstream.bodies] == [json.loads(said(body, "a [X] b"))]


@pytest.mark.parametrize("refusal", ["error", "message"])
async def test_where_there_are_no_words_to_answer_with_an_error_says_it(make_engine: MakeEngine, refusal: str) -> None:
    upstream = ScriptedUpstream([b"{}"])
    app = GuardrailMiddleware(upstream, make_engine(refusal=refusal, **MEDIA))
    blocked = await drive(app, IMAGES, {"prompt": "KABOOM"})
    assert (blocked.status, blocked.json()["error"]["code"]) == (400, "content_filter")
    helped = await drive(app, IMAGES, {"prompt": "help me"})
    assert (helped.status, helped.json()["error"]["message"]) == (400, "Here is help.")
    assert upstream.bodies == []


@pytest.mark.parametrize("path", [EMBEDDINGS, MODERATIONS])
async def test_token_ids_are_refused_and_never_passed(make_engine: MakeEngine, path: str) -> None:
    upstream = ScriptedUpstream([b"{}"])
    answer = await drive(GuardrailMiddleware(upstream, make_engine()), path, {"input": [15496, 11]})
    assert (answer.status, answer.json()["error"]["code"]) == (422, "unreadable")
    assert upstream.bodies == []


# -- embeddings ------------------------------------------------------------------------------------------------------


async def test_vectors_arrive_as_they_were_sent_and_are_no_content(make_engine: MakeEngine) -> None:
    raw = b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.10,-2e-3]}],"model":"m","usage":{}}'
    upstream = ScriptedUpstream([raw], media="application/json")
    answer = await drive(GuardrailMiddleware(upstream, make_engine()), EMBEDDINGS, {"input": "hi"})
    assert answer.body == raw[:-1] + b',"guardrail":{"action":"allow"}}'
    assert "ai-generated" not in answer.headers
    assert "aigc" not in answer.headers


async def test_text_beside_a_vector_is_screened(make_engine: MakeEngine) -> None:
    for answer_ in ({"data": [{"embedding": "KABOOM here"}]}, {"data": [], "note": "KABOOM"}):
        upstream = ScriptedUpstream([json.dumps(answer_).encode()], media="application/json")
        answer = await drive(GuardrailMiddleware(upstream, make_engine()), EMBEDDINGS, {"input": "hi"})
        assert b"KABOOM" not in answer.body
        assert answer.json()["guardrail"]["action"] == "block"


# -- moderations -----------------------------------------------------------------------------------------------------


async def test_moderations_are_answered_without_an_upstream_a_strike_or_an_incident(make_engine: MakeEngine) -> None:
    engine = make_engine()
    upstream = ScriptedUpstream([b"{}"])
    app = GuardrailMiddleware(upstream, engine)
    for _ in range(6):
        answer = await drive(app, MODERATIONS, {"input": ["fine", "say KABOOM", "hush", "eyes"]}, headers=KEY)
        assert answer.status == 200
        assert [result["flagged"] for result in answer.json()["results"]] == [False, True, False, False]
        assert [result["guardrail"]["rules"] for result in answer.json()["results"]] == [
            [], ["test/blocked"], ["test/masked"], [],
        ]  # fmt: skip
        assert "guardrail-incident" not in answer.headers
        assert "ai-generated" not in answer.headers
    assert upstream.bodies == []
    assert engine.store.in_force(1_000_000.0) == {}
    assert 'guardrail_requests_total{outcome="moderated",surface="openai_moderations"} 6.0' in scrape(engine)
    assert "guardrail_rule_matches_total{" not in scrape(engine), "what was asked about is nobody's doing"


async def test_asking_for_a_verdict_ends_no_row_of_strikes(make_engine: MakeEngine) -> None:
    now = [1_000_000.0]
    engine = make_engine(clock=lambda: now[0])
    app = GuardrailMiddleware(ScriptedUpstream([b"{}"]), engine)
    for _ in range(3):
        now[0] += 60
        blocked = await drive(app, "/v1/completions", {"prompt": "KABOOM"}, headers=KEY)
        now[0] += 60
        await drive(app, MODERATIONS, {"input": "fine"}, headers=KEY)
    assert blocked.status == 400
    suspended = await drive(app, MODERATIONS, {"input": "fine"}, headers=KEY)
    assert (suspended.status, suspended.json()["error"]["code"]) == (403, "account_suspended")


async def test_a_detector_that_fails_makes_no_verdict(make_engine: MakeEngine) -> None:
    app = GuardrailMiddleware(ScriptedUpstream([b"{}"]), make_engine(detectors={"blocked": Slow(0, fail=True)}))
    answer = await drive(app, MODERATIONS, {"input": "hi."})
    assert (answer.status, answer.json()["error"]["code"]) == (503, "screening_unavailable")


# -- pictures and sound ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [(IMAGES, {"prompt": "a cat"}, "generated_images"), (SPEECH, {"input": "hi", "voice": "x"}, "generated_audio")],
)
async def test_what_cannot_be_screened_is_not_asked_for_unless_a_setting_says_so(
    make_engine: MakeEngine, path: str, body: dict[str, Any], key: str
) -> None:
    upstream = ScriptedUpstream([b"{}"], media="application/json")
    engine = make_engine()
    answer = await drive(GuardrailMiddleware(upstream, engine), path, {"model": "m", **body})
    assert (answer.status, answer.json()["error"]["code"]) == (422, "unreadable")
    assert f'media.{key} = "pass"' in answer.json()["error"]["message"]
    assert upstream.bodies == []
    engine = make_engine(**MEDIA)
    answer = await drive(GuardrailMiddleware(upstream, engine), path, {"model": "m", **body})
    assert answer.status == 200
    assert 'guardrail_bypassed_total{reason="media"} 1.0' in scrape(engine)


async def test_pictures_pass_and_are_labelled_and_their_revised_prompt_is_screened(make_engine: MakeEngine) -> None:
    items = [
        {"b64_json": "AAAA", "revised_prompt": "a cat"},
        {"url": "https://x.example/1", "revised_prompt": "ok KABOOM"},
    ]
    raw = json.dumps({"created": 1, "data": items}).encode()
    upstream = ScriptedUpstream([raw], media="application/json")
    answer = await drive(GuardrailMiddleware(upstream, make_engine(**MEDIA)), IMAGES, {"prompt": "a cat", "n": 2})
    assert answer.json()["data"] == [items[0], {"url": None, "revised_prompt": "ok "}]
    assert answer.json()["guardrail"]["action"] == "block"
    assert answer.json()["guardrail"]["label"]["aigc"]["Label"] == "1"
    assert answer.headers["ai-generated"] == "1"
    assert json.loads(base64.urlsafe_b64decode(answer.headers["aigc"]))["Label"] == "1"


async def test_streamed_pictures_arrive_event_for_event(make_engine: MakeEngine) -> None:
    chunks = [
        event("image_generation.partial_image", b64_json="AAAA", partial_image_index=0),
        event("image_generation.completed", b64_json="AAAABBBB", usage={"total_tokens": 3}),
    ]
    app = GuardrailMiddleware(ScriptedUpstream(chunks), make_engine(position="end", **MEDIA))
    answer = await drive(app, IMAGES, {"prompt": "a cat", "stream": True})
    first, last = answer.body.split(b"event: image_generation.completed\n")
    assert first == chunks[0]
    assert last.startswith(chunks[1].partition(b"\n")[2][:-3] + b',"guardrail":{"action":"allow"')
    assert answer.complete


async def test_text_beside_a_streamed_picture_is_held_and_cut_however_it_is_sliced(make_engine: MakeEngine) -> None:
    rng = random.Random(5)
    words = ["a ", "KABOOM", "hush", "说", " "]
    cut = 0
    for _ in range(60):
        notes = ["".join(rng.choices(words, weights=[9, 1, 1, 3, 3], k=4)) for _ in range(3)]
        events = [event("image_generation.partial_image", b64_json="AAAA", note=note) for note in notes]
        raw = b"".join([*events, event("image_generation.completed", b64_json="BBBB")])
        seen = set()
        for size in (1, rng.randint(2, 40), len(raw)):
            chunks = [raw[i : i + size] for i in range(0, len(raw), size)]
            app = GuardrailMiddleware(ScriptedUpstream(chunks), make_engine(**MEDIA))
            answer = await drive(app, IMAGES, {"prompt": "a cat", "stream": True})
            assert b"KABOOM" not in answer.body
            assert b"hush" not in answer.body
            seen.add((b"BBBB" in answer.body, b'"content_filter"' in answer.body))
        whole = "".join(notes)
        assert seen == ({(False, True)} if "KABOOM" in whole else {(True, False)}), notes
        cut += "KABOOM" in whole
    assert cut > 10


async def test_sound_passes_byte_for_byte_while_it_is_made(make_engine: MakeEngine) -> None:
    chunks = [b"ID3\x04\x00", b"\xff\xfb\x90KABOOM is noise here", b"\x00" * 9]
    upstream = ScriptedUpstream(chunks, media="audio/mpeg")
    answer = await drive(GuardrailMiddleware(upstream, make_engine(**MEDIA)), SPEECH, {"input": "hi", "voice": "alloy"})
    assert answer.chunks == chunks
    assert answer.complete
    assert answer.headers["content-type"] == "audio/mpeg"
    assert answer.headers["ai-generated"] == "1"
    assert answer.headers["aigc"]


async def test_sound_that_breaks_off_gets_no_words_behind_it(make_engine: MakeEngine) -> None:
    from guardrail.errors import UpstreamUnavailable

    async def breaking(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"audio/mpeg")]})
        await send({"type": "http.response.body", "body": b"ID3", "more_body": True})
        raise UpstreamUnavailable("the upstream closed")

    engine = make_engine(**MEDIA)
    answer = await drive(GuardrailMiddleware(breaking, engine), SPEECH, {"input": "hi", "voice": "alloy"})
    assert (answer.body, answer.complete) == (b"ID3", False)
    assert 'outcome="upstream_unavailable",surface="openai_speech"' in scrape(engine)


async def test_streamed_sound_is_read_event_by_event(make_engine: MakeEngine) -> None:
    chunks = [event("speech.audio.delta", audio="AAAA"), event("speech.audio.done", usage={"total_tokens": 3})]
    app = GuardrailMiddleware(ScriptedUpstream(chunks), make_engine(**MEDIA))
    answer: Answer = await drive(app, SPEECH, {"input": "hi", "voice": "alloy", "stream_format": "sse"})
    assert answer.body.startswith(chunks[0])
    assert answer.events()[-1]["guardrail"]["action"] == "allow"
    bad = [event("speech.audio.delta", audio="AAAA"), event("speech.audio.delta", audio="well KABOOM")]
    answer = await drive(
        GuardrailMiddleware(ScriptedUpstream(bad), make_engine(**MEDIA)), SPEECH, {"input": "hi", "voice": "alloy"}
    )
    assert b"KABOOM" not in answer.body
    assert answer.events()[-1]["error"]["code"] == "content_filter"


async def test_sound_where_pictures_are_due_is_no_answer(make_engine: MakeEngine) -> None:
    upstream = ScriptedUpstream([b"ID3"], media="audio/mpeg")
    answer = await drive(GuardrailMiddleware(upstream, make_engine(**MEDIA)), IMAGES, {"prompt": "a cat"})
    assert (answer.status, answer.json()["error"]["code"]) == (502, "bad_upstream_response")
