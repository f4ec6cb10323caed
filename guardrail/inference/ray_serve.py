"""Our engine on Ray Serve: replicas that come and go with the load, each on cores or on a share of a GPU.

A replica answers `POST /predict` as `guardrail.inference.server` does, so that a proxy needs nothing but `[classifier]
url`. Needs `guardrail[ray]`; `deploy/ray/serve.yaml` is a file to start from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from ray import serve
from ray.serve import Application
from starlette.types import ASGIApp

from guardrail.errors import SettingsError
from guardrail.resources import model_path

Share = Annotated[float, msgspec.Meta(ge=0.0, le=64.0)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10_000)]


class Engine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `build` takes: the model and its engine as in `[classifier]`, and how replicas scale.

    `cpus` and `gpus` are a replica's share of a machine (`gpus = 0.25`: four replicas on a GPU); with `gpus` 0 it
    stays on the CPU. Ray starts replicas until each has about `target_requests` running, between `min_replicas` and
    `max_replicas`, once there were more, or fewer, for the delays (seconds). Each takes `max_requests` at once, and
    `max_queued` more wait before a proxy: beyond that a caller is told at once that there is no room.
    """

    model: str = "guard-zh-en"
    labels: dict[str, str] = {}
    threshold: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.5
    runtime: Literal["auto", "torch", "onnx"] = "auto"
    threads: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    batch_tokens: Annotated[int, msgspec.Meta(ge=128)] = 8192
    queue: Annotated[int, msgspec.Meta(ge=1)] = 1024
    deadline: Annotated[float, msgspec.Meta(gt=0.0)] = 10.0
    cpus: Share = 1.0
    gpus: Share = 0.0
    min_replicas: Count = 1
    max_replicas: Count = 4
    target_requests: Annotated[float, msgspec.Meta(gt=0.0)] = 16.0
    upscale_delay: Annotated[float, msgspec.Meta(ge=0.0)] = 10.0
    downscale_delay: Annotated[float, msgspec.Meta(ge=0.0)] = 600.0
    max_requests: Count = 256
    max_queued: Annotated[int, msgspec.Meta(ge=1)] = 1024


@serve.deployment(name="classifier")
@serve.ingress()
class Replica:
    """One copy of the model behind its own batcher."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        # Ray wants its replicas to answer health checks while they load.
        return await asyncio.to_thread(_app, self._engine)


def build(arguments: Mapping[str, Any]) -> Application:
    """The application for `serve run guardrail.inference.ray_serve:build KEY=VALUE ...` or a configuration's `args`.

    Keys are `Engine`'s. Raises SettingsError for one that is none, or has a value that it cannot have.
    """
    try:
        # On a command line everything is a string.
        engine = msgspec.convert(dict(arguments), Engine, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"ray serve: {error}; expected keys among {', '.join(Engine.__struct_fields__)}") from None
    if engine.min_replicas > engine.max_replicas:
        raise SettingsError(
            f"ray serve: min_replicas is {engine.min_replicas}; expected at most max_replicas ({engine.max_replicas})"
        )
    replica: Any = Replica
    application: Application = replica.options(
        ray_actor_options={"num_cpus": engine.cpus, "num_gpus": engine.gpus},
        autoscaling_config={
            "min_replicas": engine.min_replicas,
            "max_replicas": engine.max_replicas,
            "target_ongoing_requests": engine.target_requests,
            "upscale_delay_s": engine.upscale_delay,
            "downscale_delay_s": engine.downscale_delay,
        },
        max_ongoing_requests=engine.max_requests,
        max_queued_requests=engine.max_queued,
    ).bind(engine)
    return application


def _app(engine: Engine) -> ASGIApp:
    from guardrail.inference.engine import load_classifier
    from guardrail.inference.server import classifier_app

    classifier, _ = load_classifier(
        model_path(engine.model),
        label_map=engine.labels or None,
        threshold=engine.threshold,
        # Ray shows a replica the GPUs that it has a share of, and no other.
        device="cuda" if engine.gpus else "cpu",
        runtime=engine.runtime,
        threads=engine.threads or max(1, int(engine.cpus)),
        queue=engine.queue,
        batch_tokens=engine.batch_tokens,
        deadline=engine.deadline,
    )
    return classifier_app(classifier)
