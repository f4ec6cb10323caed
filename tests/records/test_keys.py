"""Keys are made once, kept from others, and never replaced in silence."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from guardrail.errors import SettingsError
from guardrail.records.keys import NAMES, Keyring


def test_keys_are_made_at_the_first_start_and_read_at_the_next(tmp_path: Path) -> None:
    first = Keyring.open(tmp_path / "state" / "keys")
    second = Keyring.open(tmp_path / "state" / "keys")
    assert first.ids == second.ids
    assert first.subject("t", "api_key", "k") == second.subject("t", "api_key", "k")
    assert len(set(first.ids.values())) == len(NAMES)


def test_only_the_owner_may_read_them(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    Keyring.open(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    assert sorted(file.name for file in folder.iterdir()) == sorted(f"{name}.key" for name in NAMES)


def test_keys_that_others_may_read_are_used_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Keyring.open(tmp_path)
    caplog.clear()
    (tmp_path / "seal.key").chmod(0o644)
    Keyring.open(tmp_path)
    assert any("seal.key has mode 0644" in message for message in caplog.messages)
    assert not any("subject.key" in message for message in caplog.messages)


@pytest.mark.parametrize("content", ["", "abc", "zz" * 32, "ab" * 31, "ab" * 33])
def test_a_damaged_key_is_refused_by_the_name_of_its_file(tmp_path: Path, content: str) -> None:
    Keyring.open(tmp_path)
    (tmp_path / "digest.key").write_text(content)
    with pytest.raises(SettingsError, match=r"digest\.key: not a key; expected 64 hexadecimal digits"):
        Keyring.open(tmp_path)


def test_a_lost_key_is_not_replaced_by_a_new_one(tmp_path: Path) -> None:
    Keyring.open(tmp_path)
    (tmp_path / "subject.key").unlink()
    with pytest.raises(SettingsError, match=r"subject\.key: missing"):
        Keyring.open(tmp_path)
    assert not (tmp_path / "subject.key").exists()


def test_looking_makes_no_keys(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SettingsError):
            Keyring.open(folder, make=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("")
    with pytest.raises(SettingsError, match="keys_dir"):
        Keyring.open(tmp_path / "keys")


def _ids(folder: str) -> dict[str, str]:
    return Keyring.open(folder).ids


def test_processes_that_start_together_have_the_same_keys(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = pool.map(_ids, [str(tmp_path / "keys")] * 8, chunksize=1)
    assert all(ids == found[0] for ids in found)


def test_a_subject_is_named_by_tenant_kind_and_identity_and_by_no_two_of_them_alike() -> None:
    keys = Keyring.throwaway()
    named = keys.subject("t", "end_user", "alice")
    assert len(named) == 64
    assert int(named, 16)
    assert "alice" not in named
    others = [
        ("t", "end_user", "alicE"), ("t", "api_key", "alice"), ("u", "end_user", "alice"),
        ("t", "end_usera", "lice"), ("", "tend_user", "alice"),
    ]  # fmt: skip
    assert len({named, *(keys.subject(*other) for other in others)}) == 6
    assert Keyring.throwaway().subject("t", "end_user", "alice") != named


def test_a_capability_opens_its_own_incident_alone() -> None:
    keys = Keyring.throwaway()
    capability = keys.capability("i1")
    assert keys.check("i1", capability)
    assert not keys.check("i2", capability)
    assert not Keyring.throwaway().check("i1", capability)
    for wrong in ("", "i1", capability[:-1], capability + "A", capability.swapcase(), "é" * 43, "\ud800"):
        assert not keys.check("i1", wrong)
    assert capability.replace("-", "").replace("_", "").isalnum()
    assert len(capability) == 43


def test_a_keyring_shows_no_key(tmp_path: Path) -> None:
    keys = Keyring.open(tmp_path)
    for name in NAMES:
        assert (tmp_path / f"{name}.key").read_text().strip() not in repr(keys)
    assert keys.ids["seal"] in repr(keys)


def test_the_secret_of_one_purpose_opens_no_other() -> None:
    keyring = Keyring.throwaway()
    for given, asked in (("appeal", "ticket"), ("ticket", "appeal")):
        secret = keyring.capability("one id", given)
        assert keyring.check("one id", secret, given)
        assert not keyring.check("one id", secret, asked)
