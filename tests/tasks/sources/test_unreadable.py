"""Data that cannot be read: the message names what does not exist, for every kind of data that is read from a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptfed.allocation.cell import USERS
from promptfed.errors import DataError
from promptfed.tasks.sources import csv_file, csv_texts, jsonl, labelled_images, load_source, stations, tables, tsv
from promptfed.tasks.sources.cell_files import read_cells
from promptfed.tasks.sources.interactions import load_interactions
from promptfed.tasks.sources.metatool import source as metatool
from promptfed.tasks.sources.retrieval import load_collection
from promptfed.tasks.sources.stations import read_stations
from promptfed.tasks.sources.tool_descriptions import read_descriptions
from promptfed.tasks.sources.unreadable import why_unreadable
from promptfed.tasks.sources.visual_questions import load_visual_questions


def questions(data: str) -> None:
    load_visual_questions(data, images=1, about="all", seed=0, by="color")


READERS = {
    "beir": lambda path: load_collection(f"beir:{path}"),
    "testbed": lambda path: load_collection(f"testbed:{path}"),
    "feb4rag": lambda path: load_collection(f"feb4rag:{path}"),
    "squad": lambda path: load_collection(f"squad:{path}"),
    "movielens": lambda path: load_interactions(f"movielens:{path}", 0),
    "interactions": lambda path: load_interactions(f"interactions:{path}/a.csv,{path}/b.csv", 0),
    "easyvqa": lambda path: questions(f"easyvqa:{path}"),
    "vqarad": lambda path: questions(f"vqarad:{path}"),
    "cells": lambda path: read_cells(str(path)),
    "stations": lambda path: read_stations(str(path)),
    "metatool": lambda path: metatool(str(path), tables.Columns("text", "label", "")),
    "descriptions": read_descriptions,
    "folder": lambda path: load_source(f"folder:{path}"),
    "csv of images": lambda path: csv_file.source(str(path)),
    "csv": lambda path: csv_texts.source(str(path), tables.Columns()),
    "jsonl": lambda path: jsonl.source(str(path), tables.Columns()),
    "tsv": lambda path: tsv.source(str(path), tables.Columns()),
    "lists of images": lambda path: labelled_images.source(f"csv:{path}"),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_misspelt_folder_is_named_itself(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "nowhere é"
    with pytest.raises(DataError, match=f"'{path}' does not exist") as refused:
        READERS[kind](path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", READERS)
def test_a_misspelt_folder_above_is_named_and_not_what_is_in_it(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match=f"'{tmp_path}/no' does not exist; needed is '{tmp_path}/no/data"):
        READERS[kind](tmp_path / "no" / "data")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    for kind in ("stations", "metatool", "testbed", "vqarad"):
        with pytest.raises(DataError, match="a' is no folder: give "):
            READERS[kind](tmp_path / "a")


def test_the_first_missing_part_of_a_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "a" / "b").read_bytes()
    assert why_unreadable(caught.value) == f"'{tmp_path / 'a'}' does not exist; needed is '{tmp_path / 'a' / 'b'}'"
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "a").read_bytes()
    assert why_unreadable(caught.value) == f"'{tmp_path / 'a'}' does not exist"
    with pytest.raises(IsADirectoryError) as caught:
        tmp_path.read_bytes()
    assert why_unreadable(caught.value) == f"Is a directory: {tmp_path}"


def test_a_number_whose_square_is_none_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("temp\n1\n-1e308\n")
    with pytest.raises(DataError, match=r"line 3, column 'temp' is '-1e308', which is no number up to 1e\+30"):
        read_stations(str(tmp_path))
    assert float("inf") > stations.HIGHEST**2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "cell 1 is 1: input should be a valid dictionary"),
        ('[{"name": "a", "preferred": 3}]', "cell 1, preferred is 3: input should be a valid tuple"),
    ],
)
def test_a_cell_is_counted_and_its_value_shown(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "cells.json").write_text(text)
    with pytest.raises(DataError, match=said) as refused:
        read_cells(str(tmp_path))
    assert f"preferred ({USERS} x 3 indices" in str(refused.value)
