"""Class names: a classes.csv beside the data, names that clash, lists given on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from promptfed.errors import ConfigError, DataError
from promptfed.tasks.blackbox_text import BlackboxTextConfig, form_for, load_texts
from promptfed.tasks.sources import checked, csv_file, load_source
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.class_names import check_names, parse_class_list
from promptfed.tasks.sources.tables import Columns

MakeFolder = Callable[..., Path]
CLASHES = [("red panda", "Red Panda"), ("sea lion", "sea  Lion"), ("T-shirt", "t-SHIRT"), ("cafe", "ca\u200bfe"),
           ("blackbird", "black bird"), ("STRASSE", "straße")]  # fmt: skip


def make_csv(root: Path, rows: list[tuple[str, str, str]]) -> str:
    lines = [f'{path},"{label}",{client}' for path, label, client in rows]
    (root / "who.csv").write_text("path,label,client\n" + "\n".join(lines), encoding="utf-8")
    return str(root / "who.csv")


def pictures(root: Path, count: int) -> list[str]:
    rng = np.random.default_rng(count)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).save(root / f"{i}.png")
    return [f"{i}.png" for i in range(count)]


def folder_source(root: Path, names: tuple[str, str]) -> Source:
    files = pictures(root, 6)
    for i, file in enumerate(files):
        (root / "d" / names[i % 2]).mkdir(parents=True, exist_ok=True)
        (root / file).rename(root / "d" / names[i % 2] / file)
    return load_source(f"folder:{root / 'd'}")


def csv_source(root: Path, names: tuple[str, str]) -> Source:
    rows = [(file, names[i % 2], "ab"[i // 3]) for i, file in enumerate(pictures(root, 6))]
    return checked(csv_file.source(make_csv(root, rows)))


def tsv_source(root: Path, names: tuple[str, str]) -> Source:
    rows = "\n".join(f"text {i}\t{names[i % 2]}" for i in range(6))
    (root / "t.tsv").write_text(f"text\tlabel\n{rows}\n", encoding="utf-8")
    return load_texts(f"tsv:{root / 't.tsv'}", Columns())


def jsonl_source(root: Path, names: tuple[str, str]) -> Source:
    rows = "\n".join(f'{{"text": "text {i}", "label": "{names[i % 2]}"}}' for i in range(6))
    (root / "t.jsonl").write_text(rows, encoding="utf-8")
    return load_texts(f"jsonl:{root / 't.jsonl'}", Columns())


def hf_source(root: Path, names: tuple[str, str]) -> Source:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    rows = {"image": [str(root / p) for p in pictures(root, 6)], "label": [0, 1] * 3}
    datasets.Dataset.from_dict(rows, features).save_to_disk(str(root / "hf"))
    return load_source(f"hf:{root / 'hf'}")


SOURCES = [folder_source, csv_source, tsv_source, jsonl_source, hf_source]


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("names", CLASHES[:3])
def test_names_that_differ_in_case_or_blanks_only_are_refused_in_every_source(
    make: Callable[..., Source], names: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"class names '.*' and '.*' of data .* rename one, or tell them apart"):
        make(tmp_path, names)


@pytest.mark.parametrize("names", CLASHES)
def test_what_counts_as_the_same_name(names: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="differ in case, blanks or hidden characters only"):
        check_names(names, "class", "x")
    check_names(("cat", "cats", "chat", "貓"), "class", "x")
    with pytest.raises(DataError, match="are the same"):
        check_names(("crane", "maillot", "crane"), "class", "x")


@pytest.mark.parametrize("name", ["a\nb", "x\x1b[31m", "a\u2028b", "", "  "])
def test_names_that_cannot_be_shown_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"control characters|has no name") as error:
        check_names(("cat", name), "class", "x")
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)


def test_labels_that_are_one_name_by_underscores_are_merged_with_a_note(
    tmp_path: Path, make_folder: MakeFolder
) -> None:
    root = make_folder({"red panda": 2, "red_panda": 3, "sea__lion": 1, "sea lion": 2})
    source = load_source(f"folder:{root}")
    assert source.classes == ("red panda", "sea lion")
    assert [s.label for s in source.samples].count(0) == 5
    assert "folders 'red panda', 'red_panda' are one class, 'red panda'" in source.notes
    rows = [(f, ("red panda", "red_panda", "cat")[i % 3], "ab"[i // 3]) for i, f in enumerate(pictures(tmp_path, 6))]
    table = checked(csv_file.source(make_csv(tmp_path, rows)))
    assert table.classes == ("cat", "red panda")
    assert "labels 'red panda', 'red_panda' are one class, 'red panda'" in table.notes


# ---------------------------------------------------------------------------------------------------- classes.csv


def test_folders_take_their_names_from_classes_csv(make_folder: MakeFolder) -> None:
    root = make_folder({"n02124075": 2, "7": 2, "tench": 2})
    (root / "classes.csv").write_text('\ufefffolder,name\nn02124075,"cat, Egyptian"\n7,cock\nn9,unused\n', "utf-8")
    source = load_source(f"folder:{root}")
    assert source.classes == ("cat, Egyptian", "cock", "tench")
    assert source.notes == (
        f"class names come from {root / 'classes.csv'}",
        f"{root / 'classes.csv'} has no row for 'tench': own names are kept",
    )


def test_classes_csv_makes_folders_one_class_or_tells_them_apart(make_folder: MakeFolder) -> None:
    root = make_folder({"Cat": 2, "cat": 3, "dog": 2})
    with pytest.raises(DataError, match="'Cat' and 'cat'"):
        load_source(f"folder:{root}")
    (root / "classes.csv").write_text("folder,name\nCat,cat\ncat,cat\ndog,dog\n")
    source = load_source(f"folder:{root}")
    assert source.classes == ("cat", "dog")
    assert "folders 'Cat', 'cat' are one class, 'cat'" in source.notes
    (root / "classes.csv").write_text("label,name\nCat,big cat\ncat,small cat\n")
    assert load_source(f"folder:{root}").classes == ("big cat", "dog", "small cat")


def test_every_other_source_reads_classes_csv_too(tmp_path: Path) -> None:
    table = 'label,name,description\nc1,"cat, small",A cat sits.\nc2,dog,A dog barks.\n'
    for make in (csv_source, tsv_source, jsonl_source):
        home = tmp_path / make.__name__
        home.mkdir()
        (home / "classes.csv").write_text(table)
        source = make(home, ("c1", "c2"))
        assert source.classes == ("cat, small", "dog")
        assert source.descriptions == {"cat, small": "A cat sits.", "dog": "A dog barks."}
    form = form_for("tsv:x", BlackboxTextConfig(descriptions=dict(source.descriptions)))
    assert form.description("dog") == "A dog barks."


def test_numbered_labels_are_named_by_number_or_name(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "classes.csv").write_text("label,name\n0,crane (bird)\n1,crane (machine)\n")
    assert hf_source(tmp_path, ("crane", "Crane")).classes == ("crane (bird)", "crane (machine)")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a,b\n1,2\n", "has columns 'a', 'b': its first line must be folder,name or label,name"),
        ("", "has columns none"),
        ("folder,name\ncat,\n", "line 2 lacks its name"),
        ("folder,name\n,x\n", "line 2 lacks its folder or label"),
        ("folder,name\ncat,x\ncat,y\n", "line 3 calls 'cat' 'y', and an earlier line 'x'"),
        ("folder,name\nyak,x\n", "names none of the classes: it has 'yak', the data have 'cat', 'dog'"),
        ("folder,name\ncat,\x1b[2J\n", "control characters"),
    ],
)
def test_a_wrong_classes_csv_is_one_line(make_folder: MakeFolder, text: str, why: str) -> None:
    root = make_folder({"cat": 2, "dog": 2})
    (root / "classes.csv").write_text(text)
    with pytest.raises(DataError, match=why):
        load_source(f"folder:{root}")
    (root / "classes.csv").write_bytes(b"folder,name\ncat,caf\xe9\n")
    with pytest.raises(DataError, match=r"classes\.csv"):
        load_source(f"folder:{root}")


# ------------------------------------------------------------------------------------------------------ --classes


def test_class_lists_from_the_command_line_and_from_files(tmp_path: Path) -> None:
    assert parse_class_list("cat, dog ,sea lion") == ("cat", "dog", "sea lion")
    lines = tmp_path / "names.txt"
    lines.write_bytes("\ufeffcat, small\r\n\r\nchien é\r\nseal\r\n".encode())
    assert parse_class_list(f"@{lines}") == ("cat, small", "chien é", "seal")
    table = tmp_path / "classes.csv"
    table.write_text('folder,name\nn1,"cat, small"\nn2,dog\nn3,dog\n')
    assert parse_class_list(f"@{table}") == ("cat, small", "dog")


@pytest.mark.parametrize("name", ["absent.txt", "folder", "empty.txt", "latin.txt", "bad.csv"])
def test_class_lists_that_cannot_be_read_are_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "bad.csv").write_text("a,b\n")
    with pytest.raises(ConfigError, match=f"--classes @.*{name}"):
        parse_class_list(f"@{tmp_path / name}")


def class_folders(root: Path, names: list[str]) -> str:
    for name, file in zip(names, pictures(root, len(names)), strict=True):
        (root / "d" / name).mkdir(parents=True)
        (root / file).rename(root / "d" / name / "0.png")
    return f"folder:{root / 'd'}"


@pytest.mark.parametrize("name", ["_", "\u00a0", "\u200b", "\u2066 \u2069"])
def test_a_folder_of_whose_name_nothing_is_left_is_named_as_it_is_written(tmp_path: Path, name: str) -> None:
    data = class_folders(tmp_path, [name, "cat", "dog"])
    with pytest.raises(DataError) as caught:
        load_source(data)
    assert f"of the folders one, {name!a}, has no name to show" in str(caught.value)
    (tmp_path / "d" / "classes.csv").write_text(f"folder,name\n{name},bird\n")
    if name.strip():
        assert load_source(data).classes == ("bird", "cat", "dog")


@pytest.mark.parametrize("pair", [("café", "cafe\u0301"), ("ñu", "n\u0303u"), ("Å", "A\u030a")])
def test_names_that_look_the_same_are_shown_as_they_are_written(tmp_path: Path, pair: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="look the same, and differ in how Unicode writes them") as caught:
        load_source(class_folders(tmp_path, [*pair, "dog"]))
    assert all(ascii(name)[1:-1] in str(caught.value) for name in pair)


@pytest.mark.parametrize("kind", ["client", "domain"])
def test_classes_csv_is_no_way_out_for_names_of_clients(kind: str) -> None:
    for names in (("a\x1b", "b"), ("a", "A"), ("a", " ")):
        with pytest.raises(DataError, match=f"{kind}.*rename") as caught:
            check_names(names, kind, "d")
        assert "classes.csv" not in str(caught.value)


@pytest.mark.parametrize(
    "table",
    [
        "label,name\n0,cat\n1,dog\n2,fish\n",  # by number, which folders have none of
        "label,name\n1,cat\n2,dog\n",
        "folder,name\nn9,lion\n",
    ],
)
def test_a_table_that_names_no_folder_does_not_claim_to(tmp_path: Path, table: str) -> None:
    data = class_folders(tmp_path, ["n1", "n2", "n3"])
    (tmp_path / "d" / "classes.csv").write_text(table)
    with pytest.raises(DataError, match="names none of the classes"):
        load_source(data)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("folder,name\nn1,cat, Egyptian\n", "line 2 has 3 values, and its first line names 2 columns"),
        ("folder,name,name\nn1,cat,dog\n", "has column 'name' twice"),
        ("folder,label,name\nn1,n2,cat\n", "line 2 names a folder and a label: give one of them"),
        ("folder,name,description\nn1,cat,a\nn1,cat,b\n", "line 3 describes 'n1' anew"),
        ('folder,name\nn1,"cat\nn2,dog\n', "a double quote is not closed"),
    ],
)
def test_what_a_table_cannot_mean_is_refused(tmp_path: Path, table: str, message: str) -> None:
    data = class_folders(tmp_path, ["n1", "n2", "n3"])
    (tmp_path / "d" / "classes.csv").write_text(table)
    with pytest.raises(DataError, match=message):
        load_source(data)


@pytest.mark.parametrize("name", ["Classes.csv", "CLASSES.CSV", "classes.CSV"])
def test_a_table_under_another_spelling_is_not_passed_over(tmp_path: Path, name: str) -> None:
    data = class_folders(tmp_path, ["n1", "n2"])
    (tmp_path / "d" / name).write_text("folder,name\nn1,cat\n")
    with pytest.raises(DataError, match=f"{name} is not read under this name: call it classes.csv"):
        load_source(data)


def test_a_dangling_table_is_not_passed_over(tmp_path: Path) -> None:
    data = class_folders(tmp_path, ["n1", "n2"])
    (tmp_path / "d" / "classes.csv").symlink_to("nowhere.csv")
    with pytest.raises(DataError, match=r"cannot read .*classes.csv: No such file"):
        load_source(data)


def test_a_csv_file_of_class_names_needs_its_names_alone(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text('name\n"cat, Egyptian"\ndog\n')
    assert parse_class_list(f"@{tmp_path / 'names.csv'}") == ("cat, Egyptian", "dog")


@pytest.mark.parametrize(
    "names", ["cat,Cat", "dog,cat,CAT", "red_panda,red panda", "café,cafe\u0301", "sea lion,sealion"]
)
def test_listed_names_that_cannot_be_told_apart_are_refused(tmp_path: Path, names: str) -> None:
    (tmp_path / "names.txt").write_text(names.replace(",", "\n"), encoding="utf-8")
    for text in (names, f"@{tmp_path / 'names.txt'}"):
        with pytest.raises(ConfigError, match="differ in case, blanks or hidden characters only: keep one"):
            parse_class_list(text)
