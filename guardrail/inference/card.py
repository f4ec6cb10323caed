"""`model.toml`, the card a model folder carries: what it is, what its labels mean, and the digest of every file.

It needs no torch, so that settings and policies can be checked against a model that is not loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from guardrail.errors import SettingsError

CARD = "model.toml"
Score = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Role = Literal["unsafe", "class", "own"]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a label's score is made of the encoder's log-odds and the n-gram scorer's (`guardrail.inference.blend`)."""

    scale: float = 1.0
    ngrams: float = 0.0
    bias: float = 0.0


class LabelUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one label of the model is for, and from which score it counts.

    `role`: `unsafe` is the one number that says whether a text is harmful; a `class` names the kind of
    harm and carries no threshold of its own kind; `own` is a finding with its own score. `category` is the word
    rules use. `flag` is the loose threshold, `block` the shipped one, `strike` the strict one. `directions` are those
    the label speaks about, prompt or completion; empty: both.
    """

    category: str
    role: Role = "own"
    flag: Score = 0.5
    block: Score = 0.5
    strike: Score = 0.9
    directions: tuple[Literal["prompt", "completion"], ...] = ()
    calibration: Calibration | None = None


class Backbone(msgspec.Struct, frozen=True):
    """The encoder a model was trained from."""

    name: str
    source: str
    license: str


class Source(msgspec.Struct, frozen=True):
    """A set of texts a model was trained on: rows used and the licence they came under."""

    name: str
    rows: int
    license: str


class FileDigest(msgspec.Struct, frozen=True):
    """A file of the folder: SHA-256 in hex and size in bytes."""

    name: str
    sha256: str
    size: int


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole card. `max_tokens` and `overlap` say how long texts are cut; `metrics` are what training measured."""

    id: str
    title: str
    license: str = ""
    languages: tuple[str, ...] = ()
    max_tokens: Annotated[int, msgspec.Meta(ge=8)] = 128
    overlap: Annotated[int, msgspec.Meta(ge=0)] = 32
    backbone: Backbone | None = None
    labels: dict[str, LabelUse]
    harm: tuple[str, ...] = ()
    """The labels whose highest score is a text's harm score in evaluation; empty: `unsafe`, or else every label."""
    metrics: dict[str, Any] = {}
    training: dict[str, Any] = {}
    data: tuple[Source, ...] = ()
    file: tuple[FileDigest, ...] = ()

    @property
    def harm_labels(self) -> tuple[str, ...]:
        """The labels whose highest score is a text's harm score; the first one's `block` is its threshold."""
        unsafe = tuple(label for label, use in self.labels.items() if use.role == "unsafe")
        return self.harm or unsafe or tuple(self.labels)


def load_card(folder: Path, label_map: Mapping[str, str] | None = None, *, threshold: float = 0.5) -> ModelCard:
    """Read and check a folder's card; a plain Hugging Face folder has none and needs `label_map` (label -> category).

    With a label map each label becomes a finding of its own at `threshold`. Raises SettingsError naming the file,
    what was expected, and how to get it.
    """
    path = folder / CARD
    if not folder.is_dir():
        raise SettingsError(f"{folder}: no such model folder; {_remedy(folder)}")
    if not path.is_file():
        if label_map is None:
            raise SettingsError(
                f"{path}: no such file; expected a model card, or in the settings a label map "
                f"([classifier.labels], label = category) for a plain Hugging Face folder"
            )
        return _card_from_map(folder, label_map, threshold)
    try:
        card = msgspec.toml.decode(path.read_bytes(), type=ModelCard)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from None
    if unknown := [label for label in card.harm if label not in card.labels]:
        raise SettingsError(f"{path}: harm names {unknown}; expected labels among {list(card.labels)}")
    if card.overlap >= card.max_tokens - 2:
        raise SettingsError(
            f"{path}: overlap is {card.overlap}; expected less than max_tokens ({card.max_tokens}) less 2"
        )
    verify_files(folder, card)
    return card


def verify_files(folder: Path, card: ModelCard) -> None:
    """Check every file the card names. Raises SettingsError for one that is missing, cut short or altered."""
    for entry in card.file:
        path = folder / entry.name
        if not path.is_file():
            raise SettingsError(
                f"{path}: missing; expected {entry.size} bytes, sha256 {entry.sha256}; {_remedy(folder)}"
            )
        size = path.stat().st_size
        if size != entry.size:
            raise SettingsError(f"{path}: {size} bytes; {CARD} expects {entry.size}; {_remedy(folder)}")
        found = file_sha256(path)
        if found != entry.sha256:
            raise SettingsError(f"{path}: altered: sha256 {found}; {CARD} expects {entry.sha256}; {_remedy(folder)}")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _card_from_map(folder: Path, label_map: Mapping[str, str], threshold: float) -> ModelCard:
    config = folder / "config.json"
    try:
        decoded = msgspec.json.decode(config.read_bytes())
        labels = list(decoded["id2label"].values())
        longest = min(int(decoded.get("max_position_embeddings", 512)), 512)
    except FileNotFoundError:
        raise SettingsError(f"{config}: no such file; expected a Hugging Face sequence classifier") from None
    except (msgspec.MsgspecError, KeyError, AttributeError, TypeError, ValueError):
        raise SettingsError(f"{config}: no id2label; expected a Hugging Face sequence classifier") from None
    missing = [label for label in labels if label not in label_map]
    unknown = [label for label in label_map if label not in labels]
    if missing or unknown:
        raise SettingsError(
            f"{config}: the label map lacks {missing or 'nothing'} and names {unknown or 'nothing'} that the model has "
            f"not; expected each of {labels}, '' for one to be ignored"
        )
    uses = {label: LabelUse(category, block=threshold) for label, category in label_map.items() if category}
    return ModelCard(id=folder.name, title=folder.name, labels=uses, max_tokens=longest)


def _remedy(folder: Path) -> str:
    return f"reinstall guardrail to get the model it ships, or train one with `guardrail train --output {folder}`"
