"""Fixtures around the tiny classifier."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from guardrail.inference.tokens import TokenEncoder
from tests.inference.tiny import FakeDevice, tiny_tokenizer, write_card, write_model


@pytest.fixture(scope="session")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture
def folder(tmp_path: Path, plain_folder: Path) -> Path:
    copy = tmp_path / "tiny"
    shutil.copytree(plain_folder, copy)
    write_card(copy)
    return copy


@pytest.fixture
def encoder() -> TokenEncoder:
    return TokenEncoder(tiny_tokenizer(), 16)


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()
