"""Every text file that a user gives is read alike: UTF-8 with or without a mark, UTF-16 with one, any line end."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest

from promptfed.blackbox.tokens.vocabulary import read_vocabulary
from promptfed.commands.predict import _lines
from promptfed.config import read_yaml
from promptfed.errors import ConfigError, DataError, PromptFedError
from promptfed.tasks.sources.class_names import parse_class_list, read_class_table
from promptfed.tasks.sources.coop import read_split
from promptfed.tasks.sources.csv_file import read_rows
from promptfed.tasks.sources.jsonl import rows as jsonl_rows
from promptfed.tasks.sources.tsv import rows as tsv_rows

SPLIT = {"train": [["é/1.jpg", 0, "thé"]], "val": [], "test": []}
TEXT_FILES = {
    "tsv": (
        "text\tlabel\nthé\tbon\n",
        lambda path: [row for _, row in tsv_rows(path)],
        [{"text": "thé", "label": "bon"}],
    ),
    "jsonl": (
        '{"text": "thé", "label": "bon"}\n',
        lambda path: [row for _, row in jsonl_rows(path)],
        [{"text": "thé", "label": "bon"}],
    ),
    "csv": (
        "path,label,client\né.png,thé,nice\n",
        read_rows,
        [{"path": "é.png", "label": "thé", "client": "nice", "split": ""}],
    ),
    "yaml": ("data: thé\nrounds: 3\n", read_yaml, {"data": "thé", "rounds": 3}),
    "lines": ("thé\n\ncafé\n", partial(_lines, kind="text"), ["thé", "café"]),
    "class list": ("thé\ncafé\n", lambda path: parse_class_list(f"@{path}"), ("thé", "café")),
    "vocabulary": (
        "thé\ncafé\n",
        lambda path: read_vocabulary({"vocabulary": f"file:{path}", "candidates": 5})["vocabulary"],
        ["thé", "café"],
    ),
    "classes.csv": (
        "folder,name\nn01,thé\n",
        lambda path: read_class_table(path.rename(path.parent / "classes.csv").parent).names,
        {"n01": "thé"},
    ),
}
KINDS = pytest.mark.parametrize(("content", "read", "expected"), TEXT_FILES.values(), ids=TEXT_FILES)


@KINDS
@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_marks_and_line_ends_change_nothing(tmp_path, content, read, expected, encoding, ends):
    path = tmp_path / "file"
    path.write_bytes(content.replace("\n", ends).encode(encoding))
    assert read(path) == expected


@KINDS
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le", "utf-32"])
def test_other_encodings_are_refused_in_one_line(tmp_path, content, read, expected, encoding):
    path = tmp_path / "file"
    path.write_bytes(content.encode(encoding))
    with pytest.raises(PromptFedError, match=r"not UTF-8: byte 0xe9 at place \d+|NUL|UTF-32") as caught:
        read(path)
    assert isinstance(caught.value, ConfigError | DataError)
    assert str(caught.value).isprintable()


@KINDS
def test_a_pipe_is_refused_at_once(tmp_path, content, read, expected):
    os.mkfifo(tmp_path / "file")
    with pytest.raises((ConfigError, DataError), match="is a pipe, not a regular file"):
        read(tmp_path / "file")


def test_the_split_files_of_coop(tmp_path):
    path = tmp_path / "split_zhou_x.json"
    for content in (json.dumps(SPLIT), json.dumps(SPLIT, ensure_ascii=False), "\ufeff" + json.dumps(SPLIT)):
        path.write_bytes(content.encode())
        assert read_split(path) == [("é/1.jpg", 0, "thé", "train")]
    for content in (
        "[" * 9000,
        '{"train": 1, "train": 2}',
        '{"train": [["a", 1e400, "b"]]}',
        '{"train": [["a", [], 1]]}',
    ):
        path.write_text(content)
        with pytest.raises(DataError, match="cannot read split file"):
            read_split(path)


def test_the_locale_plays_no_part(tmp_path):
    for name, (content, _, _) in TEXT_FILES.items():
        (tmp_path / name.replace(" ", "_")).write_text(content, encoding="utf-8")
    program = (
        "import sys; from pathlib import Path; from promptfed.config import read_yaml; "
        "from promptfed.tasks.sources.tsv import rows; from promptfed.tasks.sources.csv_file import read_rows; "
        "from promptfed.tasks.sources.class_names import parse_class_list; "
        "print(ascii([read_yaml(Path('yaml'))['data'], list(rows(Path('tsv')))[0][1]['text'], "
        "read_rows(Path('csv'))[0]['label'], parse_class_list('@class_list')[0]]))"
    )
    environment = {**os.environ, "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ascii(["thé"] * 4)
