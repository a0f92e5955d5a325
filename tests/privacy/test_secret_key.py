"""The key of a private run: its file is its owner's alone, and nothing that is printed or pickled shows it."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import pytest

from promptfed.errors import PromptFedError, RunError
from promptfed.privacy.noise import NoiseStream
from promptfed.privacy.secret_key import KEY_BYTES, SecretKey, create_key, read_key

CANARY = b"canary in the mine, canary, 32 b"


def test_a_key_is_read_back_and_each_run_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    key = create_key(tmp_path)
    assert read_key(tmp_path) == key
    assert (tmp_path / "privacy.key").read_bytes() == key.reveal()
    assert len(key.reveal()) == KEY_BYTES
    assert create_key(tmp_path / "other") != key
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["other", "privacy.key"]


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o377, 0o777])
def test_the_file_is_its_owners_under_any_mask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        create_key(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / "privacy.key").stat().st_mode & 0o777 == 0o600


def test_a_run_has_one_key(tmp_path: Path) -> None:
    key = create_key(tmp_path)
    with pytest.raises(RunError, match="a run has one key"):
        create_key(tmp_path)
    assert read_key(tmp_path) == key


def test_a_link_is_neither_written_nor_read(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").write_bytes(CANARY)
    (tmp_path / "elsewhere").chmod(0o600)
    (tmp_path / "run" / "privacy.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="exists"):
        create_key(tmp_path / "run")
    with pytest.raises(RunError, match="is a link"):
        read_key(tmp_path / "run")
    assert (tmp_path / "elsewhere").read_bytes() == CANARY


def test_a_missing_damaged_or_open_key_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "privacy.key"
    with pytest.raises(PromptFedError, match=r"^a private run cannot go on without its privacy\.key: .* is missing$"):
        read_key(tmp_path)
    for content in (b"", CANARY[:-1], CANARY + b"x"):
        path.write_bytes(content)
        with pytest.raises(RunError, match="is damaged: a key is a file of 32 bytes"):
            read_key(tmp_path)
    path.write_bytes(CANARY)
    path.chmod(0o640)
    with pytest.raises(RunError, match=r"can be read by others.*chmod 600"):
        read_key(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(RunError, match="is damaged"):
        read_key(tmp_path)


def test_neither_printing_nor_pickling_shows_the_bytes() -> None:
    key = SecretKey(CANARY)
    stream = NoiseStream(key, "x")
    for value in (key, stream):
        for text in (repr(value), str(value), f"{value}", repr({"key": value})):
            assert "not shown" in text
            assert "canary" not in text
            assert CANARY.hex() not in text
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="never pickled"):
                pickle.dumps(value, protocol)
        with pytest.raises(TypeError):
            vars(value)
    assert copy.deepcopy(key) is key
    with pytest.raises(TypeError):
        hash(key)


def test_a_fingerprint_tells_keys_apart_and_shows_none() -> None:
    key, other = SecretKey(CANARY), SecretKey(bytes(KEY_BYTES))
    assert key.fingerprint == SecretKey(CANARY).fingerprint != other.fingerprint
    assert len(key.fingerprint) == 64
    assert CANARY.hex() not in key.fingerprint


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 5"):
        SecretKey(b"short")
