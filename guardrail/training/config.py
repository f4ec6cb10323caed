"""What a training run is made of: a TOML file decoded into one frozen type. It opens no data and no model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from guardrail.errors import SettingsError

Positive = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class Quota(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most `rows` rows of one source (and, where given, one label, language, kind or class) enter the mix.

    The first quota that a row fits is the one it counts against; a row that fits none is left out, so that a
    source nobody named never trains a model. `rows = 0` shuts a source out by name.
    """

    source: str
    rows: Annotated[int, msgspec.Meta(ge=0)]
    label: Literal["safe", "unsafe", "borderline"] | None = None
    lang: str | None = None
    kind: str | None = None
    cls: str | None = None


class Backbone(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the encoder came from, for the model card: name, address or package, licence."""

    name: str
    source: str
    license: str


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the trained model is called and under which licence it is given on."""

    id: str
    title: str
    license: str
    languages: tuple[str, ...]
    backbone: Backbone


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run of `guardrail train`. Lengths are tokens, rates are AdamW's, `patience` counts epochs."""

    model: Model
    mix: tuple[Quota, ...]
    licenses: dict[str, str] = {}
    """Licence of a source whose rows do not name one, for the model card."""
    where: dict[str, str] = {}
    """A row that has one of these fields must hold this value there; rows without the field are ours and pass."""
    seed: int = 0
    layers: Positive = 5
    frozen_layers: Annotated[int, msgspec.Meta(ge=0)] = 2
    max_tokens: Annotated[int, msgspec.Meta(ge=8, le=512)] = 128
    max_rows: Positive = 20_000
    epochs: Positive = 3
    schedule_epochs: Positive | None = None
    """Epochs over which the learning rate falls to zero (default `epochs`); a run may end before it has."""
    batch_size: Positive = 32
    learning_rate: float = 2e-4
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: Share = 0.06
    dropout: Share = 0.1
    balance_classes: bool = False
    """Teach the class heads which harm an unsafe text is, rare ones as much as common ones: a last, short stage that
    starts from a finished model (`--backbone`), whose heads it keeps."""
    twin_weight: Annotated[float, msgspec.Meta(ge=0.0)] = 0.5
    """How much it counts that an unsafe text scores higher than its safe twin, beside each row's own loss."""
    averaging: Share = 0.998
    """What the running average of the weights keeps at each step; 0 takes the last step's."""
    augment: Share = 0.0
    """Hard variants of rows (`guardrail.training.augment`) added to the mix, as a share of it."""
    patience: Positive = 2
    checkpoint_steps: Positive = 200
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: Positive = 1
    holdout_source: str | None = None
    """The source whose pairs are split off to judge with, and `holdout` the share of them."""
    holdout: Share = 0.1
    dev_rows: Positive = 3_000
    false_positive_rate: Share = 0.04
    """The shipped threshold lets at most this share of the safe dev prompts of any language be blocked."""


def load_config(path: Path) -> TrainConfig:
    """Read a training file. Raises SettingsError naming the file, the key and what was expected."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=TrainConfig)
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file; expected a training file (TOML)") from None
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}; expected a readable training file") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from None
