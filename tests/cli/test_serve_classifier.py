"""The classifier by itself, as a process: it scores for a proxy elsewhere, and ends when it is told to."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from guardrail.inference.engine import load_classifier
from guardrail.inference.remote import RemoteClassifier
from tests.cli.conftest import Invoke
from tests.house import command, environment, free_port
from tests.inference.tiny import LABELS, eventually, write_card, write_model


@pytest.mark.slow
async def test_it_scores_as_the_engine_does_and_ends_on_sigterm(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    write_card(folder)
    (tmp_path / "guardrail.toml").write_text('[classifier]\nruntime = "torch"\n')
    port = free_port()
    process = subprocess.Popen(
        command("serve-classifier", "--listen", f"127.0.0.1:{port}", "--model", str(folder), "--device", "cpu"),
        cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    client = RemoteClassifier(f"http://127.0.0.1:{port}", LABELS)
    engine, _ = load_classifier(folder, device="cpu")
    await client.start()
    await engine.start()
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == f"guardrail: classifier tiny at http://127.0.0.1:{port}\n"
        assert await client.healthy()
        texts = ["you are a fool", "make a cake"]
        assert await client.score(texts) == [pytest.approx(row, abs=1e-5) for row in await engine.score(texts)]
    finally:
        await client.close()
        await engine.close()
        process.terminate()
    await eventually(lambda: process.poll() is not None, 20)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--listen", "nowhere"), "expected host:port"),
        (("--model", "no-such-model"), "no-such-model"),
        (("--log-level", "loud"), "expected debug"),
    ],
)
def test_what_it_cannot_serve_it_says_in_a_line(invoke: Invoke, arguments: tuple[str, ...], complaint: str) -> None:
    ended = invoke("serve-classifier", *arguments)
    assert ended.code == 2
    assert complaint in ended.err.replace("\n", " ")


def test_a_classifier_elsewhere_is_not_served_here(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARDRAIL_CLASSIFIER__URL", "http://elsewhere:8090")
    ended = invoke("serve-classifier")
    assert ended.code == 2
    assert "expected none" in ended.err
