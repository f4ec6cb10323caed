"""The wheel carries what the first run needs, and works where there is no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from guardrail.errors import SettingsError
from guardrail.resources import data_dir, model_path, models_dir, policies_dir

ROOT = Path(__file__).resolve().parent.parent


def test_policies_and_models_are_found_in_a_checkout() -> None:
    assert policies_dir() == ROOT / "policies"
    assert models_dir() == ROOT / "models"
    assert model_path("guard-zh-en") == ROOT / "models/guard-zh-en"
    with pytest.raises(SettingsError, match="install guardrail again"):
        data_dir("nowhere")


def test_a_model_is_an_id_or_a_folder(tmp_path: Path) -> None:
    assert model_path(str(tmp_path)) == tmp_path
    with pytest.raises(SettingsError, match=r"classifier\.model: got 'guard-zh'.*guard-zh-en, or a folder"):
        model_path("guard-zh")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as it would be published."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("guardrail-*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_every_file_that_policies_and_models_have(wheel: Path, needs: Callable[..., None]) -> None:
    needs("a git checkout", (ROOT / ".git").exists())
    held = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", "-z", "policies", "models"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    kept = {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}
    trained_on = {name for name in kept if "/corpus/" in name}  # for whoever trains anew: not needed to run
    assert len(trained_on) >= 3
    expected = {f"guardrail/_data/{name}" for name in kept - trained_on}
    assert expected
    assert expected <= held
    assert not held & {f"guardrail/_data/{name}" for name in trained_on}
    assert "guardrail/py.typed" in held
    templates = {f"guardrail/portal/templates/{file.name}" for file in (ROOT / "guardrail/portal/templates").iterdir()}
    assert templates
    assert templates <= held
    assert not [name for name in held if name.startswith(("tests/", "state/", "policies/")) or ".pyc" in name]


@pytest.mark.slow
def test_an_installed_wheel_finds_its_own_policies_and_models(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True)
    code = (
        "import guardrail; from guardrail.resources import model_path, policies_dir\n"
        "from guardrail.settings import Settings\n"
        "Settings.load(None, {})\n"
        "print(guardrail.__file__, policies_dir(), model_path('guard-zh-en'), sep='\\n')"
    )
    env = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(str(site / "guardrail")) for line in done.stdout.splitlines()), done.stdout
