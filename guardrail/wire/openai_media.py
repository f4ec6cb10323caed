"""OpenAI's surfaces that answer with pictures or sound: images generations and audio speech.

Fields follow the API reference for `POST /v1/images/generations` and `POST /v1/audio/speech`. What is asked for is
screened; what is made is not, so that it passes only where the settings say so (`[media]`).
"""

from __future__ import annotations

from guardrail.core.surface import Screened
from guardrail.wire.textless import Textless


class OpenAIImages(Textless):
    """The dialect of `/v1/images/generations`, at once or streamed (`image_generation.*` events)."""

    surface = "openai_images"
    paths: tuple[str, ...] = ("/v1/images/generations",)
    screened = Screened(
        prompt=("prompt", "*"),
        answer=("data[].revised_prompt", "data[].*", "*"),
        blocked="an item without its picture; streamed, an `error` event",
        passes='the pictures (`b64_json`, `url`), which are refused unless `media.generated_images = "pass"`',
    )
    media = "image"
    inputs = ("prompt",)
    words = frozenset(
        {
            "background", "model", "moderation", "object", "output_format", "quality", "response_format",
            "safety_identifier", "size", "style", "type",
        }
    )  # fmt: skip
    blobs = frozenset({"b64_json", "url"})


class OpenAISpeech(Textless):
    """The dialect of `/v1/audio/speech`: bytes of sound, or `speech.audio.*` events (`stream_format: "sse"`)."""

    surface = "openai_speech"
    paths: tuple[str, ...] = ("/v1/audio/speech",)
    screened = Screened(
        prompt=("input", "instructions", "*"),
        answer=("*",),
        blocked="an `error` event, where texts beside the sound are streamed",
        passes='the sound, which is refused unless `media.generated_audio = "pass"`',
    )
    media = "audio"
    inputs = ("input", "instructions")
    words = frozenset({"model", "response_format", "stream_format", "type", "voice"})
    blobs = frozenset({"audio"})
