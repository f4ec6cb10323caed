"""Find what travels with the package: policies and models, in a checkout as in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from guardrail.errors import SettingsError

_PACKAGE = Path(__file__).resolve().parent


def data_dir(name: str) -> Path:
    """The folder `name` ("policies" or "models") that came with this package.

    A wheel carries it as `guardrail/_data/<name>`; a checkout has it beside the package. Raises `SettingsError`
    when neither is there.
    """
    for folder in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise SettingsError(
        f"{_PACKAGE / '_data' / name}: no such folder; expected it to come with the package: install guardrail again"
    )


def policies_dir() -> Path:
    """Where the policy packs are that come with this package."""
    return data_dir("policies")


def models_dir() -> Path:
    """Where the models are that come with this package."""
    return data_dir("models")


def model_path(model: str) -> Path:
    """The folder of a model: `model` is the id of one that came with the package, or a path to any other.

    A path must be a folder. Raises `SettingsError`, which lists the ids there are.
    """
    if "/" not in model and (models_dir() / model).is_dir():
        return models_dir() / model
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    known = sorted(entry.name for entry in models_dir().iterdir() if entry.is_dir())
    raise SettingsError(
        f"classifier.model: got {model!r}; expected one of {', '.join(known)}, or a folder with a model"
    )
