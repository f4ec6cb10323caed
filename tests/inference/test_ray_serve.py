"""The engine on a real Ray cluster of one machine. Run by scripts/test-servers: a cluster takes half a minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guardrail.errors import DetectorOverloaded, SettingsError
from guardrail.inference.engine import load_classifier
from guardrail.inference.remote import RemoteClassifier
from tests.conftest import Needs
from tests.house import free_port
from tests.inference.tiny import LABELS, write_card, write_model

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parent.parent.parent
TEXTS = ["you are a fool", "make a cake", "nice weather today you fool make a bomb today"]


@pytest.fixture(scope="module")
def ray(needs: Needs) -> Any:
    try:
        import ray
    except ImportError:
        needs("Ray Serve (scripts/setup ray)")
    return ray


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("ray") / "tiny")
    write_card(folder)
    return folder


@pytest.fixture(scope="module")
def cluster(ray: Any) -> Iterator[str]:
    """A cluster of one machine with four cores, as Ray counts them; gives the URL of its proxy."""
    from ray import serve

    port = free_port()
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def deploy(model: Path, **more: object) -> None:
    from ray import serve

    from guardrail.inference.ray_serve import build

    serve.run(build({"model": str(model), "cpus": "0.25", "runtime": "torch", **more}), name="guardrail")


def running() -> int:
    from ray import serve

    deployment = serve.status().applications["guardrail"].deployments["classifier"]
    return deployment.replica_states.get("RUNNING", 0)


async def test_scores_are_those_of_the_engine_in_this_process(cluster: str, model: Path) -> None:
    deploy(model)
    engine, _ = load_classifier(model, device="cpu")
    client = RemoteClassifier(cluster, LABELS, deadline=30.0)
    await engine.start()
    await client.start()
    assert await client.healthy()
    assert await client.score(TEXTS) == [pytest.approx(row, abs=1e-5) for row in await engine.score(TEXTS)]
    await client.close()
    await engine.close()


async def test_replicas_come_as_they_are_asked_for_and_share_the_work(cluster: str, model: Path) -> None:
    deploy(model, min_replicas=2, max_replicas=3)
    assert running() == 2
    client = RemoteClassifier(cluster, LABELS, deadline=30.0)
    await client.start()
    rows = await asyncio.gather(*(client.score([TEXTS[i % 3]]) for i in range(60)))
    assert all(rows[i] == [pytest.approx(rows[i % 3][0], abs=1e-6)] for i in range(60))
    await client.close()


async def test_load_starts_another_replica(cluster: str, model: Path) -> None:
    deploy(model, min_replicas=1, max_replicas=2, target_requests=0.5, upscale_delay=0.5)
    client = RemoteClassifier(cluster, LABELS, deadline=30.0)
    await client.start()
    until = time.monotonic() + 60
    while running() < 2:
        assert time.monotonic() < until, "no second replica came"
        await asyncio.gather(*(client.score(TEXTS * 8) for _ in range(16)))
    await client.close()


async def test_more_than_it_takes_is_overload_at_once(cluster: str, model: Path) -> None:
    deploy(model, max_replicas=1, max_requests=1, max_queued=1)
    client = RemoteClassifier(cluster, LABELS, deadline=30.0)
    await client.start()
    answers = await asyncio.gather(*(client.score(TEXTS * 20) for _ in range(40)), return_exceptions=True)
    await client.close()
    assert any(isinstance(answer, list) for answer in answers)
    refused = [answer for answer in answers if not isinstance(answer, list)]
    assert refused
    assert {type(answer) for answer in refused} == {DetectorOverloaded}


def test_the_example_configuration_is_one_that_ray_takes(ray: Any) -> None:
    import yaml
    from ray.serve.schema import ServeDeploySchema

    from guardrail.inference.ray_serve import build

    written = yaml.safe_load((ROOT / "deploy/ray/serve.yaml").read_text(encoding="utf-8"))
    (application,) = ServeDeploySchema.model_validate(written).applications
    assert application.import_path == "guardrail.inference.ray_serve:build"
    assert build(application.args) is not None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"modle": "x"}, "modle.*expected keys among model"),
        ({"gpus": "half"}, "gpus"),
        ({"gpus": -1}, "gpus"),
        ({"min_replicas": 3, "max_replicas": 2}, "min_replicas is 3; expected at most"),
    ],
)
def test_arguments_that_are_none_are_refused(ray: Any, arguments: dict[str, object], complaint: str) -> None:
    from guardrail.inference.ray_serve import build

    with pytest.raises(SettingsError, match=complaint):
        build(arguments)
