from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from promptfed.errors import FormatError
from promptfed.files.mapped_arrays import map_arrays, write_arrays

ARRAYS = {
    "bytes": np.frombuffer(b"abc", dtype=np.uint8),
    "ends": np.array([0, 2**40], dtype=np.int64),
    "empty": np.array([], dtype=np.int32),
    "table": np.arange(6, dtype=np.int32).reshape(2, 3),
}


def test_arrays_come_back_mapped_with_their_texts(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a", ARRAYS, {"key": "naïve"})
    arrays, about = map_arrays(tmp_path / "a")
    assert about["key"] == "naïve"
    assert all(
        np.array_equal(arrays[name], array) and arrays[name].dtype == array.dtype for name, array in ARRAYS.items()
    )
    assert isinstance(arrays["table"], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        arrays["table"][0, 0] = 1


def test_one_flipped_bit_is_seen(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a", ARRAYS, {})
    content = bytearray((tmp_path / "a").read_bytes())
    content[-2] ^= 1
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(FormatError, match="damaged"):
        map_arrays(tmp_path / "a")
    (tmp_path / "a").write_bytes(content[:-4])
    with pytest.raises(FormatError, match="not usable safetensors"):
        map_arrays(tmp_path / "a")
