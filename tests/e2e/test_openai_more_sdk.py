"""The real `openai` SDK on completions, embeddings, moderations, images and speech, through a real proxy."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.conftest import ANSWERED, BLOCKED, REDACTED, SAFE_ANSWER, SETTINGS, Guardrail, serve
from tests.e2e.openai_more import PICTURE, SOUND, MoreUpstream

TALK = "There is bread, 茶, a jar of honey — and\u2028nothing else at all."
HARMFUL = f"First comes bread, then {BLOCKED}, then tea. " + "And more. " * 40
MEDIA = SETTINGS + '\n[media]\ngenerated_images = "pass"\ngenerated_audio = "pass"\n'


@pytest.fixture(scope="module")
def upstream() -> Iterator[MoreUpstream]:
    server = MoreUpstream()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def guardrail(upstream: MoreUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guardrail]:
    running = serve(tmp_path_factory.mktemp("guardrail-more"), upstream.url, settings=MEDIA)
    yield running
    assert running.stop() == 0, running.log.read_text()[-4000:]


@pytest.fixture
def client(guardrail: Guardrail) -> openai.OpenAI:
    return guardrail.client()


@pytest.fixture
def direct(upstream: MoreUpstream) -> openai.OpenAI:
    return openai.OpenAI(base_url=upstream.url, api_key="sk-direct", max_retries=0, timeout=20.0)


def without_ours(whole: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in whole.items() if key != "guardrail"}


# -- completions -----------------------------------------------------------------------------------------------------

REQUESTS: dict[str, dict[str, Any]] = {
    "text": {"prompt": "What is on the table?"},
    "two choices of three": {"prompt": "What is there?", "n": 2, "best_of": 3},
    "several prompts": {"prompt": ["What is there?", "And what else?"], "n": 2},
    "logprobs": {"prompt": "What is there?", "logprobs": 2},
    "echo": {"prompt": "On the table: ", "echo": True},
    "a suffix": {"prompt": "def f(x):\n", "suffix": "\n    return x"},
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_plain_completion_is_the_upstreams_but_for_the_guardrail_object(
    kind: str, client: openai.OpenAI, direct: openai.OpenAI, upstream: MoreUpstream
) -> None:
    model = upstream.arrange("talk", TALK, "Only crumbs, I fear.")
    ours = client.completions.create(model=model, **REQUESTS[kind]).model_dump()
    assert ours["guardrail"]["action"] == "allow"
    assert without_ours(ours) == direct.completions.create(model=model, **REQUESTS[kind]).model_dump()


@pytest.mark.parametrize("kind", [kind for kind in REQUESTS if "best_of" not in REQUESTS[kind]])
@pytest.mark.parametrize("piece", [0, 1, 7])
def test_a_streamed_completion_is_the_upstreams_chunk_by_chunk(
    kind: str, piece: int, client: openai.OpenAI, direct: openai.OpenAI, upstream: MoreUpstream
) -> None:
    model = upstream.arrange("talk", TALK, "Only crumbs, I fear.", piece=piece)
    request = {"model": model, **REQUESTS[kind], "stream": True, "stream_options": {"include_usage": True}}
    ours = [chunk.model_dump() for chunk in client.completions.create(**request)]
    theirs = [chunk.model_dump() for chunk in direct.completions.create(**request)]

    def key(chunk: dict[str, Any]) -> int:
        return chunk["choices"][0]["index"] if chunk["choices"] else 99

    assert sorted(map(without_ours, ours), key=key) == sorted(theirs, key=key), "order counts within each choice"
    marked = [chunk for chunk in ours if "guardrail" in chunk]
    assert len(marked) == 1
    assert marked[0]["choices"][0]["finish_reason"] == "stop"
    assert ours[-1]["usage"] is not None


async def test_the_asynchronous_client_gets_completions_too(guardrail: Guardrail, upstream: MoreUpstream) -> None:
    model = upstream.arrange("talk", TALK)
    async with guardrail.async_client() as client:
        stream = await client.completions.create(model=model, prompt="hm", stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == TALK


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"prompt": f"Say {BLOCKED}!"}, "prompt"),
        ({"prompt": ["fine", f"Say {BLOCKED}!"]}, "prompt[1]"),
        ({"prompt": "Once", "suffix": BLOCKED}, "suffix"),
        ({"prompt": "Once", "extra_body": {"x_made_up": [BLOCKED]}}, "x_made_up[0]"),
    ],
)
def test_a_blocked_prompt_is_a_bad_request_error_with_our_incident_id(
    request_: dict[str, Any], param: str, stream: bool, guardrail: Guardrail, upstream: MoreUpstream
) -> None:
    before = len(upstream.received)
    with pytest.raises(openai.BadRequestError) as caught:
        guardrail.client().completions.create(model="talk", stream=stream, **request_)
    assert (caught.value.code, caught.value.param) == ("content_filter", param)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["guardrail"]["incident"] == caught.value.response.headers["guardrail-incident"]
    assert len(upstream.received) == before


def test_token_ids_are_refused(client: openai.OpenAI, upstream: MoreUpstream) -> None:
    before = len(upstream.received)
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.completions.create(model="talk", prompt=[15496, 11])
    assert caught.value.code == "unreadable"
    with pytest.raises(openai.UnprocessableEntityError):
        client.embeddings.create(model="vectors", input=[[15496, 11], [995]])
    assert len(upstream.received) == before


@pytest.mark.parametrize("logprobs", [None, 1])
@pytest.mark.parametrize("piece", [0, 1, 5, 400])
def test_a_blocked_stream_ends_with_content_filter_and_without_a_character_of_the_phrase(
    piece: int, logprobs: int | None, guardrail: Guardrail, upstream: MoreUpstream
) -> None:
    model = upstream.arrange("harm", HARMFUL, piece=piece)
    stream = guardrail.client().completions.create(model=model, prompt="hm", stream=True, logprobs=logprobs)
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "First comes bread, then "
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    assert chunks[-1].model_dump()["guardrail"]["action"] == "block"
    assert "marmalade" not in json.dumps([chunk.model_dump() for chunk in chunks])


def test_the_upstream_is_let_go_when_its_stream_is_blocked(guardrail: Guardrail, upstream: MoreUpstream) -> None:
    model = upstream.arrange("long", f"First {BLOCKED}. " + "And on and on. " * 500, pause=0.02)
    chunks = list(guardrail.client().completions.create(model=model, prompt="hm", stream=True))
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    assert upstream.last.left.wait(5), "the upstream's connection stayed open"
    assert upstream.last.sent < 100


def test_of_two_plain_choices_the_clean_one_is_whole(client: openai.OpenAI, upstream: MoreUpstream) -> None:
    model = upstream.arrange("mixed", "All is well.", f"Here is {BLOCKED}.")
    answer = client.completions.create(model=model, prompt="hm", n=2, logprobs=1)
    assert [(choice.text, choice.finish_reason) for choice in answer.choices] == [
        ("All is well.", "stop"),
        ("Here is ", "content_filter"),
    ]
    assert answer.choices[0].logprobs is not None
    assert answer.choices[1].logprobs is None


@pytest.mark.parametrize("piece", [0, 1, 6])
def test_a_redacted_stream_arrives_redacted(piece: int, client: openai.OpenAI, upstream: MoreUpstream) -> None:
    model = upstream.arrange("badger", f"It is the {REDACTED}, I think.", piece=piece)
    chunks = list(client.completions.create(model=model, prompt=f"who is the {REDACTED}?", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "It is the [removed], I think."
    assert upstream.last.json["prompt"] == "who is the [removed]?"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_has_a_safe_answer_gets_it(stream: bool, client: openai.OpenAI, upstream: MoreUpstream) -> None:
    before = len(upstream.received)
    answer = client.completions.create(model="talk", prompt=f"please {ANSWERED}", stream=stream)
    parts: Any = answer if stream else [answer]
    assert "".join(part.choices[0].text for part in parts) == SAFE_ANSWER
    assert len(upstream.received) == before


# -- embeddings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}, {"dimensions": 3}])
def test_embeddings_are_the_upstreams(how: dict[str, Any], client: openai.OpenAI, direct: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": "vectors", "input": ["bread", "茶"], **how}
    ours = client.embeddings.create(**request).to_dict()
    assert ours["guardrail"] == {"action": "allow"}
    assert without_ours(ours) == direct.embeddings.create(**request).to_dict()


def test_embeddings_are_no_content_and_carry_no_label(client: openai.OpenAI) -> None:
    raw = client.embeddings.with_raw_response.create(model="vectors", input="bread")
    assert raw.headers["guardrail-action"] == "allow"
    assert "ai-generated" not in raw.headers
    assert "aigc" not in raw.headers


def test_what_is_embedded_is_screened(guardrail: Guardrail, upstream: MoreUpstream) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        guardrail.client().embeddings.create(model="vectors", input=["bread", f"with {BLOCKED}"])
    assert (caught.value.code, caught.value.param) == ("content_filter", "input[1]")
    guardrail.client().embeddings.create(model="vectors", input=f"the {REDACTED}")
    assert upstream.last.json["input"] == "the [removed]"


# -- moderations -----------------------------------------------------------------------------------------------------


def test_moderations_are_answered_from_our_own_verdicts(client: openai.OpenAI, upstream: MoreUpstream) -> None:
    before = len(upstream.received)
    texts = ["What is on the table?", "Write hate speech against immigrants.", f"about {BLOCKED}"]
    answer = client.moderations.create(model="omni-moderation-latest", input=texts)
    assert answer.id.startswith("modr-")
    assert answer.model == "guardrail"
    fine, hateful, ours = answer.results
    assert not fine.flagged
    assert not any(fine.categories.model_dump().values())
    assert set(fine.category_scores.model_dump().values()) == {0.0}
    assert hateful.flagged
    assert hateful.categories.hate
    assert hateful.category_scores.hate == 1.0
    assert hateful.category_applied_input_types.hate == ["text"]
    assert not hateful.categories.self_harm_intent
    assert ours.flagged, "a rule for which OpenAI has no word"
    assert ours.model_dump()["guardrail"]["categories"] == ["e2e-blocked"]
    assert len(upstream.received) == before


def test_asking_about_harm_is_no_strike(guardrail: Guardrail) -> None:
    client = guardrail.client()
    for _ in range(8):
        assert client.moderations.create(input=BLOCKED).results[0].flagged
    parts: Any = [{"type": "text", "text": "a table"}]
    [result] = client.moderations.create(input=parts).results
    assert not result.flagged
    assert guardrail.metric("guardrail_requests_total", surface="openai_moderations", outcome="moderated") >= 9


def test_pictures_are_refused_by_moderations(client: openai.OpenAI) -> None:
    parts: Any = [{"type": "image_url", "image_url": {"url": "https://x.example/y.png"}}]
    with pytest.raises(openai.UnprocessableEntityError):
        client.moderations.create(input=parts)


# -- pictures and sound ----------------------------------------------------------------------------------------------


def test_by_default_neither_pictures_nor_sound_are_asked_for(
    upstream: MoreUpstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    running = serve(tmp_path_factory.mktemp("guardrail-plain"), upstream.url)
    try:
        before = len(upstream.received)
        with pytest.raises(openai.UnprocessableEntityError, match="generated_images"):
            running.client().images.generate(model="art", prompt="a table")
        with pytest.raises(openai.UnprocessableEntityError, match="generated_audio"):
            running.client().audio.speech.create(model="tts", voice="alloy", input="hello")
        assert len(upstream.received) == before
    finally:
        assert running.stop() == 0


@pytest.mark.parametrize("how", [{}, {"n": 2}, {"response_format": "url"}])
def test_pictures_are_the_upstreams_and_are_labelled(
    how: dict[str, Any], guardrail: Guardrail, direct: openai.OpenAI, upstream: MoreUpstream
) -> None:
    model = upstream.arrange("art", revised="a table with bread")
    before = guardrail.metric("guardrail_bypassed_total", reason="media")
    raw = guardrail.client().images.with_raw_response.generate(model=model, prompt="a table", **how)
    ours = raw.parse().model_dump()
    assert ours["guardrail"]["label"]["aigc"]["Label"] == "1"
    assert without_ours(ours) == direct.images.generate(model=model, prompt="a table", **how).model_dump()
    assert raw.headers["ai-generated"] == "1"
    assert json.loads(base64.urlsafe_b64decode(raw.headers["aigc"]))["Label"] == "1"
    assert guardrail.metric("guardrail_bypassed_total", reason="media") == before + 1


def test_streamed_pictures_are_the_upstreams(client: openai.OpenAI, direct: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": "art", "prompt": "a table", "stream": True, "partial_images": 2}
    ours = [event.model_dump() for event in client.images.generate(**request)]
    assert [without_ours(event) for event in ours] == [
        event.model_dump() for event in direct.images.generate(**request)
    ]
    assert [event["type"] for event in ours if "guardrail" in event] == ["image_generation.completed"]
    assert ours[-1]["b64_json"] == PICTURE


def test_a_picture_goes_with_its_revised_prompt(guardrail: Guardrail, upstream: MoreUpstream) -> None:
    model = upstream.arrange("bad-art", revised=f"a table with {BLOCKED}")
    answer = guardrail.client().images.generate(model=model, prompt="a table")
    assert answer.data is not None
    assert (answer.data[0].b64_json, answer.data[0].revised_prompt) == (None, "a table with ")
    assert answer.model_dump()["guardrail"]["action"] == "block"


@pytest.mark.parametrize("text", [BLOCKED, ANSWERED])
def test_what_pictures_and_sound_are_made_of_is_screened(
    text: str, guardrail: Guardrail, upstream: MoreUpstream
) -> None:
    before = len(upstream.received)
    with pytest.raises(openai.BadRequestError) as drawn:
        guardrail.client().images.generate(model="art", prompt=f"draw {text}")
    with pytest.raises(openai.BadRequestError):
        guardrail.client().audio.speech.create(model="tts", voice="alloy", input="hello", instructions=f"as if {text}")
    assert (drawn.value.code, drawn.value.param) == ("content_filter", "prompt")
    assert (SAFE_ANSWER in drawn.value.message) == (text == ANSWERED)
    assert len(upstream.received) == before


def test_sound_is_the_upstreams_byte_for_byte_and_is_labelled(client: openai.OpenAI, upstream: MoreUpstream) -> None:
    answer = client.audio.speech.create(model="tts", voice="alloy", input=f"the {REDACTED}", response_format="wav")
    assert answer.content == SOUND
    assert answer.response.headers["content-type"] == "audio/wav"
    assert answer.response.headers["ai-generated"] == "1"
    assert upstream.last.json["input"] == "the [removed]"
    with client.audio.speech.with_streaming_response.create(model="tts", voice="alloy", input="hello") as stream:
        assert b"".join(stream.iter_bytes()) == SOUND


def test_streamed_sound_is_the_upstreams_event_for_event(guardrail: Guardrail, upstream: MoreUpstream) -> None:
    request = {"model": "tts", "voice": "alloy", "input": "hello", "stream_format": "sse"}
    ours = httpx.post(f"{guardrail.url}/v1/audio/speech", json=request).content.split(b"\n\n")
    theirs = httpx.post(f"{upstream.url}/audio/speech", json=request).content.split(b"\n\n")
    assert ours[:-2] == theirs[:-2]
    assert ours[-2].startswith(theirs[-2][:-1] + b',"guardrail":{"action":"allow"')
    assert ours[-1] == theirs[-1] == b""


def test_the_process_is_as_well_as_before(guardrail: Guardrail) -> None:
    guardrail.assert_healthy()
