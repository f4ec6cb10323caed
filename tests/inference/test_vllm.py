"""Guard models at a real vLLM server on the CPU. Run by scripts/test-servers: vLLM wants an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from guardrail.core.content import Direction
from guardrail.errors import DetectorError
from guardrail.inference.guardmodels import Exchange
from guardrail.inference.openai import GuardModelClassifier
from guardrail.protocols import Priority
from tests.conftest import Needs
from tests.house import free_port
from tests.inference.guards import write_guard

pytestmark = pytest.mark.servers

BOMB, LAMP, VOTE = "tell me about my bomb", "tell me about my lamp", "tell me about my election"
KEY = "sk-guard"


@pytest.fixture(scope="module", params=["qwen3guard", "llama-guard-3"])
def server(request: pytest.FixtureRequest, needs: Needs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server with a tiny guard model, as (URL, template)."""
    python = shutil.which(os.environ.get("TEST_VLLM_PYTHON", ""))
    needs("vLLM (the Python that has it, in TEST_VLLM_PYTHON)", python)
    template: str = request.param
    root = tmp_path_factory.mktemp("vllm")
    folder = write_guard(root / "model", template)
    port = free_port()
    command = [
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", "tiny",
        "--host", "127.0.0.1", "--port", str(port), "--api-key", KEY, "--dtype", "float32", "--enforce-eager",
        "--max-model-len", "1024", "--max-num-seqs", "8",
    ]  # fmt: skip
    quiet = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    log = root / "vllm.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=os.environ | quiet, stdout=out, stderr=out)
    try:
        until = time.monotonic() + 170
        while not _healthy(port):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", template
    finally:
        process.terminate()
        process.wait(30)


def _healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def classifier(server: tuple[str, str], **more: Any) -> GuardModelClassifier:
    url, template = server
    return GuardModelClassifier(url, "tiny", template, **{"key": KEY, "deadline": 60.0, **more})


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
@pytest.mark.parametrize("categories", [True, False])
async def test_harm_is_told_from_harmless_through_both_endpoints(
    server: tuple[str, str], endpoint: Any, categories: bool
) -> None:
    client = classifier(server, endpoint=endpoint, categories=categories)
    await client.start()
    assert await client.healthy() is True
    bomb, lamp = [dict(zip(client.labels, row, strict=True)) for row in await client.score([BOMB, LAMP])]
    await client.close()
    assert bomb["unsafe"] > 0.8
    assert lamp["unsafe"] < 0.2
    assert bomb.get("violence_terror", 1.0) == 1.0
    assert lamp.get("violence_terror", 0.0) == 0.0


async def test_an_answer_is_judged_with_its_question(server: tuple[str, str]) -> None:
    client = classifier(server)
    await client.start()
    bomb, lamp = await client.judge([Exchange("hello", BOMB), Exchange("hello", LAMP)])
    await client.close()
    assert bomb[0] > 0.8
    assert lamp[0] < 0.2


async def test_what_it_refuses_is_named_and_nothing_else_of_what_it_says(server: tuple[str, str]) -> None:
    for client, said in (
        (classifier(server, key="sk-wrong"), r"401.*GUARDRAIL_CLASSIFIER_API_KEY"),
        (GuardModelClassifier(server[0], "another", server[1], key=KEY), r"404 \(NotFoundError\).*model's name"),
        (classifier(server, window=100_000), r"400 \(BadRequestError\)"),
    ):
        await client.start()
        with pytest.raises(DetectorError, match=said) as caught:
            await client.score(["a secret word " * 3000])
        assert "secret" not in str(caught.value)
        await client.close()


async def test_a_guard_of_the_settings_asks_it(
    server: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guardrail.app import Guard

    monkeypatch.setenv("GUARDRAIL_CLASSIFIER_API_KEY", KEY)
    served = {"engine": "openai", "url": server[0], "model": "tiny", "template": server[1], "deadline": 60}
    (tmp_path / "guardrail.toml").touch()
    guard = Guard.from_settings(
        tmp_path / "guardrail.toml",
        state_dir=str(tmp_path / "state"),
        classifier=served,
    )
    async with guard:
        bad = await guard.screen(BOMB, direction=Direction.PROMPT, priority=Priority.PROMPT)
        good = await guard.screen(LAMP)
    assert bad.stops
    assert {match.rule.id for match in bad.enforced} == {"mlcommons/vcr-violent-crimes/classifier"}
    assert not good.stops
    assert not good.failures
