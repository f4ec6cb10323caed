"""Whose classifier it is, is a matter of settings: the same policies judge what any of them says."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from guardrail.app import Guard
from guardrail.cli.evaluate import evaluate
from guardrail.engines import served_classifier
from guardrail.errors import SettingsError
from guardrail.settings import Settings
from tests.inference.guard_server import serving
from tests.inference.test_tei import Tei
from tests.inference.tiny import LABELS, write_model

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("engines") / "tiny")


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    file = tmp_path / "guardrail.toml"
    file.write_text(f'state_dir = "{tmp_path}/state"\n[keywords]\nenabled = false\n[pii]\nenabled = false\n')
    return file


def refusal(**classifier: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        served_classifier(Settings.load(env={}, overrides={"classifier": classifier}))
    return str(caught.value)


def openai(**more: Any) -> dict[str, Any]:
    return {"engine": "openai", "url": "http://127.0.0.1:9/v1", "model": "g", "template": "qwen3guard", **more}


def test_what_an_engine_needs_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(engine="tei").startswith("classifier.url: it is missing")
    assert refusal(**openai(url="")).startswith("classifier.url: it is missing")
    assert refusal(**openai(template="")).startswith("classifier.template: it is missing")
    assert "expected none" in refusal(**openai(risks=["violence"]))
    assert "expected a category for one" in refusal(engine="tei", url="http://x", labels={"toxic": ""})
    assert 'expected "", "qwen3guard"' in refusal(**openai(template="shieldgemma"))


def test_a_key_for_the_classifiers_server_comes_from_the_environment_alone(tmp_path: Path) -> None:
    file = tmp_path / "guardrail.toml"
    file.write_text('[classifier]\napi_key = "sk-hush"\n')
    with pytest.raises(SettingsError, match="GUARDRAIL_CLASSIFIER_API_KEY") as caught:
        Settings.load(file, env={})
    assert "sk-hush" not in str(caught.value)
    file.write_text("")
    settings = Settings.load(file, env={"GUARDRAIL_CLASSIFIER_API_KEY": "sk-guard"})
    assert settings.secrets.classifier_api_key == "sk-guard"
    assert "sk-guard" not in repr(settings)


async def test_a_tei_server_is_judged_by_the_shipped_policies_as_far_as_its_labels_go(
    settings_file: Path, tiny: Path
) -> None:
    tei = Tei(tiny)
    labels = {"unsafe": "unsafe", "political": "", "insult": "", "violence_terror": ""}
    async with serving(tei.app()) as url:
        served = {"engine": "tei", "url": url, "activation": "sigmoid", "labels": labels, "threshold": 0.1}
        async with Guard.from_settings(settings_file, classifier=served) as guard:
            verdict = await guard.screen("you are a fool")
        assert {match.rule.id for match in verdict.enforced} == {"mlcommons/unsafe/classifier"}
        assert "mlcommons/hte-hate/classifier" in guard.policies.not_enforced
        assert "mlcommons/unsafe/classifier" not in guard.policies.not_enforced
        async with Guard.from_settings(settings_file, classifier=served | {"threshold": 0.999}) as guard:
            assert not (await guard.screen("you are a fool")).stops
    assert all(body["raw_scores"] for body in tei.asked)


async def test_a_guard_model_names_the_rule_and_political_speech_passes_where_no_rule_asks_about_it(
    settings_file: Path,
) -> None:
    said = {"bomb": ["unsafe", "\nS1"], "vote": ["unsafe", "\nS13"], "lamp": ["safe"]}

    async def chat(request: web.Request) -> web.Response:
        asked = (await request.json())["messages"][0]["content"]
        tokens = next(tokens for word, tokens in said.items() if word in asked)
        other = {"safe": "unsafe", "unsafe": "safe"}[tokens[0]]
        top = [{"token": tokens[0], "logprob": -0.02}, {"token": other, "logprob": -4.0}]
        content = [{"token": token, "logprob": -0.02, "top_logprobs": top} for token in tokens]
        return web.json_response({"choices": [{"logprobs": {"content": content}, "finish_reason": "stop"}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    async with serving(app) as url:
        served = openai(url=url, template="llama-guard-3")
        async with Guard.from_settings(settings_file, classifier=served) as guard:
            rules = [
                {match.rule.id for match in (await guard.screen(f"a {word}")).enforced}
                for word in ("bomb", "vote", "lamp")
            ]
    assert rules == [
        {"mlcommons/vcr-violent-crimes/classifier"},
        {"mlcommons/ncr-non-violent-crimes/classifier"},
        set(),
    ]
    assert "prompt-injection/classifier" in guard.policies.not_enforced


async def test_a_server_that_is_away_blocks_as_the_policies_say(settings_file: Path) -> None:
    async with Guard.from_settings(settings_file, classifier=openai()) as guard:
        verdict = await guard.screen("hello")
    assert verdict.stops
    assert {failure.kind for failure in verdict.failures} == {"error"}


# -- a folder of Hugging Face's -----------------------------------------------------------------------------------


async def test_a_plain_folder_needs_no_more_than_a_label_map_in_a_card(
    settings_file: Path, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    card = 'id = "tiny"\ntitle = "A tiny model"\nmax_tokens = 16\noverlap = 4\n'
    (folder / "model.toml").write_text(card + '[labels.insult]\ncategory = "hate"\nblock = 0.1\n')
    local = {"model": str(folder), "device": "cpu", "runtime": "torch"}
    async with Guard.from_settings(settings_file, classifier=local) as guard:
        verdict = await guard.screen("you are a fool")
    assert {match.rule.id for match in verdict.enforced} == {"mlcommons/hte-hate/classifier"}
    (folder / "model.toml").write_text(card + "[labels.insult]\nblock = 0.1\n")
    with pytest.raises(SettingsError, match=r"model\.toml: .*`category`"):
        Guard.from_settings(settings_file, classifier=local)
    (folder / "model.toml").write_text(card + '[labels.threat]\ncategory = "hate"\n')
    with pytest.raises(SettingsError, match=r"threat.*it has \['insult'"):
        Guard.from_settings(settings_file, classifier=local)


def test_a_map_in_the_settings_names_every_label_of_the_model(settings_file: Path, tiny: Path) -> None:
    partial = {label: "hate" for label in LABELS if label != "political"}
    with pytest.raises(SettingsError, match=r"the label map lacks \['political'\].*expected each of"):
        Guard.from_settings(settings_file, classifier={"model": str(tiny), "labels": partial, "runtime": "torch"})


async def test_a_server_is_measured_like_any_other_classifier(
    settings_file: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(
            json.dumps({"text": text, "label": label, "lang": "en", "kind": "prompt"}) + "\n"
            for text, label in [
                ("you fool", "unsafe"),
                ("bomb you", "unsafe"),
                ("bake a cake", "safe"),
                ("nice", "safe"),
            ]
        )
    )
    tei = Tei(tiny)
    async with serving(tei.app()) as url:
        with settings_file.open("a") as file:
            file.write(f'[classifier]\nengine = "tei"\nurl = "{url}"\nactivation = "sigmoid"\nthreshold = 0.0\n')
            file.write('labels = { unsafe = "unsafe" }\n')
        # The command has an event loop of its own, and the server here needs this one.
        await asyncio.to_thread(evaluate, [rows], config=settings_file, as_json=True)
    (measured,) = json.loads(capsys.readouterr().out)["files"].values()
    assert measured["n"] == 4
    assert measured["recall"] == measured["fpr"] == 1.0
    assert sum(len(body["inputs"]) for body in tei.asked) == 4
