import os
import socket
import time

import pytest

from promptfed.errors import FormatError, PromptFedError
from promptfed.readers.files import open_regular, read_bytes
from promptfed.readers.json_reader import read_json
from promptfed.readers.tensors import read_header, read_tensors
from promptfed.readers.text import read_text
from promptfed.readers.torch_files import read_torch
from promptfed.readers.yaml_reader import read_yaml_file

READERS = (
    read_json,
    read_yaml_file,
    read_text,
    read_tensors,
    read_header,
    lambda path: read_torch(path, 10**6),
    lambda path: read_bytes(path, 10**6),
)


def test_content_up_to_the_limit_is_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(FormatError, match="has 5 bytes; at most 4 are read"):
        read_bytes(path, 4)


def test_a_sparse_terabyte_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(10**12)
    for read in READERS[:-1]:
        with pytest.raises(PromptFedError):
            read(path)


@pytest.mark.parametrize("read", READERS)
def test_a_pipe_a_socket_and_a_device_are_refused_at_once(read, tmp_path):
    pipe, name = tmp_path / "pipe", tmp_path / "socket"
    os.mkfifo(pipe)
    start = time.monotonic()
    with pytest.raises(FormatError, match="is a pipe, not a regular file"):
        read(pipe)
    with pytest.raises(FormatError, match="is a device, not a regular file"):
        read("/dev/zero")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(name))
        with pytest.raises(OSError, match="No such device or address"):
            read(name)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("name", ["a\0b", "half \ud800 pair"])
def test_names_that_no_system_takes(name):
    with pytest.raises(FormatError, match="is no name of a file"):
        read_bytes(name, 10)


def test_what_the_system_refuses_stays_its_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


def test_ctrl_c_while_a_file_is_opened_is_ctrl_c(monkeypatch, tmp_path):
    """The new file closes its handle when it goes; a second close would hit another file."""
    (tmp_path / "a").write_bytes(b"a")
    opened = os.fdopen

    def interrupted(handle, mode):
        opened(handle, mode).close()
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fdopen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_regular(tmp_path / "a")
