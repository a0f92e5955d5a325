"""Folders of exported things replace only folders of their own kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptfed.errors import BundleError
from promptfed.files.export_folder import ExportKind, write_export_folder

KIND = ExportKind("an", "adapter", "config.json", frozenset({"config.json", "weights"}))
OLD, NEW = {"config.json": b"1", "weights": b"2"}, {"config.json": b"3"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_of_the_kind_is_replaced_only_on_request(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    write_export_folder(folder, OLD, KIND, overwrite=False)
    with pytest.raises(BundleError, match="already holds an adapter"):
        write_export_folder(folder, NEW, KIND, overwrite=False)
    assert contents(folder) == OLD
    write_export_folder(folder, NEW, KIND, overwrite=True)
    assert contents(folder) == NEW


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"weights": b"mine"}, r"no adapter \(it holds no config\.json\)"),
        ({**OLD, "cat\x1b.jpg": b"mine"}, r"no adapter \(it holds cat\\x1b\.jpg\)"),
    ],
)
def test_any_other_folder_is_left_alone(tmp_path: Path, files: dict[str, bytes], why: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BundleError, match=why):
        write_export_folder(tmp_path, NEW, KIND, overwrite=True)
    assert contents(tmp_path) == files


def test_an_empty_folder_is_taken_and_a_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(BundleError, match=r"cannot write adapter .*: there is a file of that name"):
        write_export_folder(tmp_path / "file", NEW, KIND, overwrite=True)
    with pytest.raises(BundleError, match="cannot write adapter"):
        write_export_folder(tmp_path / "file" / "below", NEW, KIND, overwrite=True)
    (tmp_path / "empty").mkdir()
    write_export_folder(tmp_path / "empty", NEW, KIND, overwrite=False)
    assert contents(tmp_path / "empty") == NEW
