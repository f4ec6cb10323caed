"""The wheel as somebody installs it: in a virtual environment of its own, used from a folder that is no checkout.

`test_package` looks at what the wheel holds; this runs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import Needs
from tests.house import Running, environment, free_port

ROOT = Path(__file__).resolve().parent.parent
MODEL = "guard-zh-en"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = out.glob("guardrail-*.whl")
    return path


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of a fresh environment are, into which the wheel alone was installed.

    What it depends on is taken from the environment of the tests: its folder is named in a .pth file, which does not
    read the .pth files there, so that the checkout is not found.
    """
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run([*pip, str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [site] = home.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return tmp_path


def call(scripts: Path, cwd: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(scripts / command[0]), *command[1:]],
        cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_it_holds_policies_templates_and_the_model_with_the_files_its_card_names(wheel: Path, needs: Needs) -> None:
    held = {info.filename: info.file_size for info in zipfile.ZipFile(wheel).infolist()}
    for name in ("mlcommons", "cn-genai", "pii", "prompt-injection"):
        assert f"guardrail/_data/policies/{name}/policy.toml" in held
        assert f"guardrail/_data/policies/{name}/cases.toml" in held
    assert "guardrail/_data/policies/profiles/neutral.toml" in held
    templates = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("guardrail/**/templates/**/*.*")}
    migrations = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("guardrail/stores/migrations/**/*.py")}
    assert templates
    assert migrations
    assert templates | migrations <= held.keys()
    assert any(name.endswith("/licenses/LICENSE") for name in held)
    assert any(name.endswith("/licenses/THIRD_PARTY.md") for name in held)

    needs(f"the shipped model {MODEL}", (ROOT / "models" / MODEL / "model.toml").is_file())
    from guardrail.inference.card import load_card

    for entry in load_card(ROOT / "models" / MODEL).file:
        assert held[f"guardrail/_data/models/{MODEL}/{entry.name}"] == entry.size


def test_what_is_imported_is_the_installed_one(scripts: Path, elsewhere: Path) -> None:
    code = (
        "import guardrail; from guardrail.resources import *; print(guardrail.__file__, policies_dir(), models_dir())"
    )
    done = call(scripts, elsewhere, "python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(scripts.parent)) for path in done.stdout.split())


def test_its_own_policies_pass_their_cases(scripts: Path, elsewhere: Path) -> None:
    off = {"GUARDRAIL_CLASSIFIER__ENABLED": "false", "GUARDRAIL_PII__ENABLED": "false"}
    done = call(scripts, elsewhere, "guardrail", "check", **off)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mlcommons" in done.stdout
    assert "FAILED" not in done.stdout
    assert list(elsewhere.iterdir()) == []


@contextlib.contextmanager
def served(scripts: Path, home: Path, **env: str) -> Iterator[Running]:
    public, admin = free_port(), free_port()
    listen = ("--listen", f"127.0.0.1:{public}", "--admin-listen", f"127.0.0.1:{admin}")
    with (home / "serve.log").open("ab") as log:
        process = subprocess.Popen(
            [str(scripts / "guardrail"), "serve", *listen],
            cwd=home, env=environment(**env), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    running = Running(process, f"http://127.0.0.1:{public}", f"http://127.0.0.1:{admin}", home)
    try:
        yield running.ready(120)
        running.terminate()
        assert running.wait() == 0, running.log
    finally:
        process.kill()
        process.wait()


def test_it_serves_as_it_comes_with_model_and_all(scripts: Path, elsewhere: Path, needs: Needs) -> None:
    needs(f"the shipped model {MODEL}", (ROOT / "models" / MODEL / "model.toml").is_file())
    with served(scripts, elsewhere, GUARDRAIL_CLASSIFIER__DEVICE="cpu") as running:
        assert httpx.get(f"{running.url}/readyz").json()["detectors"] == ["classifier", "keywords", "pii"]
        answer = running.ask("Hello, my e-mail is jane@example.org.")
        assert answer.status_code == 200
        said = answer.json()["choices"][0]["message"]["content"]
        assert "built-in demo upstream, not a model" in said
        assert "Hello" in said
        assert "jane@example.org" not in said
        assert running.counts(1, "guardrail_detector_seconds_count", detector="classifier", phase="prompt")
    assert {path.name for path in elsewhere.iterdir()} == {"serve.log", "state"}
    assert os.stat(elsewhere / "state" / "admin-token").st_mode & 0o077 == 0
    recorded = call(scripts, elsewhere, "guardrail", "records", "list", "--json")
    assert {hit["rule"] for incident in json.loads(recorded.stdout) for hit in incident["hits"]} == {"pii/email"}
