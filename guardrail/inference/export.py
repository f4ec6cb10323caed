"""Turn a model folder into an int8 ONNX file once, and keep it where the next start finds it.

The file lies in a folder named after what it was made from, beside its own digest: other weights get another folder,
a damaged file is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from guardrail.errors import SettingsError
from guardrail.inference.card import ModelCard, file_sha256

if TYPE_CHECKING:
    from guardrail.inference.torch import TorchScorer

NEEDED = ("onnxruntime", "onnx", "onnxscript")
"""What guardrail[onnx] installs."""

RECIPE = 2
"""Raised whenever the file that is written for the same weights changes."""

FILE, DIGEST = "model.onnx", "made.json"
_log = logging.getLogger("guardrail.inference")


class Unsupported(Exception):
    """This model cannot be had in ONNX here: a package is missing, or the export failed. Torch serves it still."""


class Missing(Unsupported):
    """The extra guardrail[onnx] is not installed."""


class Made(msgspec.Struct, frozen=True):
    """What lies beside an exported file: its digest, what it was made from, and how its columns are read.

    `labels` are the model's own in the order of its logits, `pad` is its padding token; `sigmoid` says that labels
    are independent, else one of them holds (softmax).
    """

    sha256: str
    size: int
    source: str
    labels: tuple[str, ...]
    pad: int
    sigmoid: bool


def default_cache() -> Path:
    """The user's folder for what can be made again (XDG base directory specification)."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if os.path.isabs(root) else Path.home() / ".cache") / "guardrail"


def exported(
    folder: Path, card: ModelCard, cache: Path, scorer: Callable[[], TorchScorer], *, bits: int | None = None
) -> tuple[Path, Made]:
    """The folder's model as an int8 ONNX file under `cache`, made now if it is not there whole.

    `scorer` gives the loaded model and is called only when it has to be made, which takes 10 seconds or so. Raises
    Unsupported, or SettingsError naming the place when it cannot be written.
    """
    bits = weight_bits() if bits is None else bits
    home, source = _home(folder, card, cache, bits)
    if (found := kept(folder, card, cache, bits=bits)) is not None:
        return found
    if lacking := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise Missing(f"{', '.join(lacking)} not installed; guardrail[onnx] brings what is needed")
    _log.info("classifier: converting %s to int8 once; it is kept in %s", card.id, home)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=cache))
    except OSError as error:
        raise _unwritable(home, error) from None
    try:
        model = scorer()
        _export(model, making / "plain.onnx")
        _quantise(making / "plain.onnx", making / FILE, bits)
        (making / "plain.onnx").unlink()
        file = making / FILE
        made = Made(file_sha256(file), file.stat().st_size, source, model.own_labels, model.pad, model.sigmoid)
        (making / DIGEST).write_bytes(msgspec.json.encode(made))
        # In one step: whoever starts at the same time finds all of it or nothing.
        with contextlib.suppress(OSError):
            making.rename(home)
        # Another process may have been quicker; what it wrote is as good.
        if (found := _whole(home, source)) is not None:
            return found
        shutil.rmtree(home)
        making.rename(home)
    except OSError as error:
        raise _unwritable(home, error) from None
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return home / FILE, made


def kept(folder: Path, card: ModelCard, cache: Path, *, bits: int | None = None) -> tuple[Path, Made] | None:
    """The int8 file if it is there whole and onnxruntime is installed to run it."""
    if importlib.util.find_spec(NEEDED[0]) is None:
        return None
    return _whole(*_home(folder, card, cache, weight_bits() if bits is None else bits))


def weight_bits() -> int:
    """Bits of a weight for this processor: 8, but 7 on x86 without VNNI, where sums of two products overflow."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 8 if os.uname().machine in ("arm64", "aarch64") else 7
    return 7 if "avx2" in flags and "avx512_vnni" not in flags and "avx_vnni" not in flags else 8


def _home(folder: Path, card: ModelCard, cache: Path, bits: int) -> tuple[Path, str]:
    """Where a folder's file is kept, and a digest of all that decides what is written there."""
    known = {entry.name: entry.sha256 for entry in card.file}
    parts = [f"recipe={RECIPE}", f"bits={bits}"]
    for path in sorted(folder.iterdir()):
        if path.name == "config.json" or path.suffix in (".safetensors", ".bin"):
            parts.append(f"{path.name}={known.get(path.name) or file_sha256(path)}")
    source = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return cache / f"{card.id}-{source[:16]}", source


def _whole(home: Path, source: str) -> tuple[Path, Made] | None:
    """The exported file if it is there, made from `source`, and every byte of it is as it was written."""
    file = home / FILE
    try:
        made = msgspec.json.decode((home / DIGEST).read_bytes(), type=Made)
        whole = made.source == source and file.stat().st_size == made.size and file_sha256(file) == made.sha256
    except (OSError, msgspec.MsgspecError):
        return None
    return (file, made) if whole else None


def _export(scorer: TorchScorer, target: Path) -> None:
    import torch

    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), scorer.exportable() as module:
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                scorer.sample(),
                str(target),
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_shapes={"input_ids": any_size, "attention_mask": any_size},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except OSError:
        raise
    except Exception as error:  # the exporter has a kind for each of its stages
        raise Unsupported(f"torch could not export the model ({type(error).__name__})") from error
    finally:
        for logger, level in zip(noisy, before, strict=True):
            logger.setLevel(level)


def _quantise(source: Path, target: Path, bits: int) -> None:
    from guardrail.inference.quantize import quantise

    try:
        quantise(source, target, bits=bits)
    except ValueError as error:
        raise Unsupported(str(error)) from None


def _unwritable(home: Path, error: OSError) -> SettingsError:
    return SettingsError(
        f"{home}: {error.strerror or error}; expected a folder in which the converted classifier can be kept "
        f'([classifier] onnx_dir), or [classifier] runtime = "torch"'
    )
