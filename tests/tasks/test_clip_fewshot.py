from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from promptfed.config import build_config
from promptfed.errors import ConfigError, DataError
from promptfed.tasks import TASKS
from promptfed.tasks.sources import icons
from promptfed.types import FederatedTask, Split

Build = Callable[..., FederatedTask]


def names(split: Split) -> set[str]:
    return {item.name for item in split.items}


def everything(task: FederatedTask) -> list[object]:
    """All that a task says, in a form that can be compared."""
    parts = [task.base_test, task.new_test, *(s for c in task.clients for s in (c.train, c.val, c.test))]
    return [
        task.base_classes,
        task.new_classes,
        [(c.client, c.name, c.classes) for c in task.clients],
        [([item.name for item in part.items], part.labels.tolist()) for part in parts],
    ]


def check_disjoint(task: FederatedTask) -> None:
    """No image is held twice, none is both learned from and tested on, and labels fit their images."""
    for client in task.clients:
        assert not names(client.train) & names(client.val)
        assert names(client.test) <= names(task.base_test)
        assert client.classes == tuple(sorted(set(client.train.labels.tolist())))
        for part in (client.val, client.test):
            assert set(part.labels.tolist()) <= set(client.classes)
        assert len(client.train) > 0
        assert len(client.test) > 0
    held = [name for c in task.clients for part in (c.train, c.val) for name in names(part)]
    assert len(held) == len(set(held))
    tested = names(task.base_test) | names(task.new_test)
    assert not tested & set(held)
    assert not names(task.base_test) & names(task.new_test)
    for part in (task.base_test, *(c.train for c in task.clients)):
        assert 0 <= part.labels.min() <= part.labels.max() < len(task.base_classes)


@pytest.mark.parametrize("partition", ["classes", "dirichlet", "iid", "domain"])
def test_default_task_is_disjoint_under_every_partition_and_draws_no_pixel(
    build: Build, monkeypatch: pytest.MonkeyPatch, partition: str
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a pixel was drawn")

    for drawing in ("render", "glyph_mask", "_font"):
        monkeypatch.setattr(icons, drawing, refuse)
    task = build(partition=partition)
    check_disjoint(task)
    assert (len(task.base_classes), len(task.new_classes)) == (24, 24)
    assert (len(task.base_test), len(task.new_test)) == (24 * 24, 24 * 24)
    assert len(task.clients) == (2 if partition == "domain" else 8)
    assert len(task.templates) >= 7
    assert task.templates[0] == "an icon of a {}."


def test_classes_partition_deals_disjoint_classes_with_exact_counts(build: Build) -> None:
    task = build()
    assert [c for client in task.clients for c in client.classes] == list(range(24))
    for client in task.clients:
        assert set(Counter(client.train.labels.tolist()).values()) == {8}
        assert set(Counter(client.val.labels.tolist()).values()) == {4}
        assert set(Counter(client.test.labels.tolist()).values()) == {24}


def test_labels_name_the_concept_that_an_icon_shows(build: Build) -> None:
    task = build()
    for split, classes in ((task.clients[3].train, task.base_classes), (task.new_test, task.new_classes)):
        for item, label in zip(split.items, split.labels.tolist(), strict=True):
            assert isinstance(item, icons.IconItem)
            assert item.glyph.concept == classes[label]


@pytest.mark.parametrize("partition", ["classes", "dirichlet", "iid", "domain"])
def test_partition_depends_on_the_partition_seed_alone(build: Build, partition: str) -> None:
    first = everything(build(partition=partition))
    other = {"seed": 9, "method": "zero_shot", "aggregator": "fedavg", "backbone": "lit", "rounds": 3}
    assert everything(build(partition=partition, participation=0.5, **other)) == first
    assert everything(build(partition=partition, partition_seed=1)) != first


def test_number_of_clients_does_not_change_who_is_drawn_for_a_class(build: Build) -> None:
    few, many = build(clients=2), build(clients=20)
    assert set().union(*(names(c.train) for c in few.clients)) == set().union(*(names(c.train) for c in many.clients))


def test_dirichlet_keeps_its_unevenness_and_the_shots_on_average(build: Build) -> None:
    task = build(partition="dirichlet", alpha=0.2, clients=4, shots=8)
    total = sum(len(c.train) + len(c.val) for c in task.clients)
    assert total == 24 * 4 * (8 + 4)
    most = max(max(Counter(c.train.labels.tolist()).values()) for c in task.clients)
    assert most > 16


def test_fedtpg_option_and_base_fraction(build: Build) -> None:
    task = build(task_options={"classes_per_client": 20, "base_fraction": 1.0}, data="icons:phosphor,remix")
    assert [len(c.classes) for c in task.clients] == [20, 20, 20, 20, 20, 15]
    assert task.new_classes == ()
    assert len(task.new_test) == 0
    with pytest.raises(ConfigError, match="classes_per_client does not go with partition 'iid'"):
        build(partition="iid", task_options={"classes_per_client": 20})


def test_test_per_class_limits_all_tests(build: Build) -> None:
    task = build(task_options={"test_per_class": 6})
    assert set(Counter(task.base_test.labels.tolist()).values()) == {6}
    assert set(Counter(task.new_test.labels.tolist()).values()) == {6}
    check_disjoint(task)


def test_folder_without_a_test_split(build: Build, make_folder: Callable[..., Path]) -> None:
    root = make_folder({"cat": 20, "dog": 20, "sea_lion": 20, "yak": 20})
    task = build(data=f"folder:{root}", shots=4, clients=2)
    check_disjoint(task)
    assert task.base_classes == ("cat", "dog")
    assert task.new_classes == ("sea lion", "yak")
    assert (len(task.base_test), len(task.new_test)) == (16, 16)
    assert task.templates[0] == "a photo of a {}."


def test_two_classes_are_both_base_and_a_note_says_so(build: Build, make_folder: Callable[..., Path]) -> None:
    task = build(data=f"folder:{make_folder({'cat': 20, 'dog': 20})}", shots=4)
    assert (task.base_classes, task.new_classes) == (("cat", "dog"), ())
    assert any("none is new" in note for note in task.notes)


def test_skipped_images_are_noted_with_their_path(build: Build, make_folder: Callable[..., Path]) -> None:
    root = make_folder({"cat": 20, "dog": 20})
    (root / "cat" / "broken.jpg").write_bytes(b"no picture")
    task = build(data=f"folder:{root}", shots=4)
    assert f"skipped unreadable image {root / 'cat' / 'broken.jpg'}" in task.notes
    with pytest.raises(DataError, match=r"broken.jpg.*without --strict"):
        build(data=f"folder:{root}", shots=4, strict=True)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"partition": "clases"}, ConfigError, "Did you mean 'classes'"),
        ({"clients": 25, "partition": "classes"}, ConfigError, "25 clients are more than the 24 base classes"),
        ({"clients": 3, "partition": "domain"}, ConfigError, r"3 clients are more than the 2 domains"),
        ({"shots": 500}, DataError, r"class 'alarm' has 120 training images.*--shots 116"),
        ({"data": "iconz"}, ConfigError, "Did you mean 'icons'"),
        ({"data": "icons:phosfor"}, ConfigError, "Did you mean 'phosphor'"),
        ({"task_options": {"val_shot": 3}}, ConfigError, "did you mean 'val_shots'"),
        ({"task_options": {"templates": ["a photo"]}}, ConfigError, "must hold {} once"),
        ({"task_options": {"templates": ["a {} {name}"]}}, ConfigError, "must hold {} once"),
        ({"task_options": {"test_fraction": 1.5}}, ConfigError, "test_fraction"),
    ],
)
def test_errors_name_value_and_fix(build: Build, options: dict[str, object], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said) as caught:
        build(**options)
    assert "\n" not in str(caught.value)


def test_domain_partition_needs_domains(build: Build, make_folder: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="needs data with domains"):
        build(data=f"folder:{make_folder({'cat': 9, 'dog': 9})}", shots=1, partition="domain")


# ------------------------------------------------------------------------------------------------------------ CSV


@pytest.fixture
def who(make_folder: Callable[..., Path]) -> Path:
    """Clients 2 and 10 hold cats and dogs, nobody holds the yaks."""
    root = make_folder({"a": 20, "b": 20, "c": 5, "d": 5})
    rows = ["path,label,client"]
    for folder, label, client in (("a", "cat", "10"), ("b", "dog", "2"), ("c", "wild_yak", ""), ("d", "gnu", "")):
        rows += [f"{p.relative_to(root.parent)},{label},{client}" for p in sorted((root / folder).iterdir())]
    file = root.parent / "who.csv"
    file.write_text("\n".join([*rows, ""]))
    return file


def test_csv_says_who_holds_what(build: Build, who: Path) -> None:
    task = build(partition=f"csv:{who}", shots=4)
    check_disjoint(task)
    assert [c.name for c in task.clients] == ["2", "10"]
    assert [c.classes for c in task.clients] == [(1,), (0,)]
    assert (task.base_classes, task.new_classes) == (("cat", "dog"), ("gnu", "wild yak"))
    assert len(task.new_test) == 10
    assert {Path(n).parent.name for n in names(task.clients[0].train)} == {"b"}
    assert (len(task.clients[0].train), len(task.clients[0].val), len(task.clients[0].test)) == (4, 4, 8)


def test_csv_does_not_depend_on_the_order_of_its_clients(build: Build, who: Path) -> None:
    first = everything(build(partition=f"csv:{who}", shots=4))
    head, *rows = who.read_text().split()
    who.write_text("\n".join([head, *rows[20:], *rows[:20]]))
    again = everything(build(partition=f"csv:{who}", shots=4))
    assert again[:3] == first[:3]


def test_csv_split_column_is_kept(build: Build, who: Path) -> None:
    head, *rows = who.read_text().split()
    lines = [f"{row},{'test' if i % 20 < 10 else 'train'}" for i, row in enumerate(rows)]
    who.write_text("\n".join([f"{head},split", *lines]))
    task = build(partition=f"csv:{who}", shots=4)
    assert {Path(n).stem for n in names(task.clients[0].test)} == {f"{i:03}" for i in range(10)}
    check_disjoint(task)


def test_csv_client_without_test_images_is_noted(build: Build, who: Path) -> None:
    head, *rows = who.read_text().split()
    lines = [f"{row},{'test' if row.endswith(',10') and i < 10 else 'train'}" for i, row in enumerate(rows)]
    more = [line.replace(",2,train", ",10,test") for line in lines if ",2,train" in line][:5]
    lines = [line for line in lines if line.replace(",2,train", ",10,test") not in more]
    who.write_text("\n".join([f"{head},split", *lines, *more]))
    task = build(partition=f"csv:{who}", shots=4)
    assert [len(c.test) for c in task.clients] == [0, 10]
    assert "no test images of their own, so no local accuracy: 2" in task.notes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\na.png,cat\n", "lacks column client"),
        ("path,label,client\n", "lists no images"),
        ("path,label,client\n,cat,1\n", "line 2 lacks its path"),
        ("path,label,client\na.png,cat,\nb.png,dog,\n", "names no client"),
        ("path,label,client\na.png,cat,1\nb.png,dog,2\n", "no readable image"),
        ("path,label,client,split\na.png,cat,1,exam\n", "split 'exam'"),
    ],
)
def test_csv_errors(build: Build, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        build(partition=f"csv:{tmp_path / 'bad.csv'}")


def test_csv_missing_file_and_wrong_number_of_clients(build: Build, tmp_path: Path, who: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.csv.*does not exist"):
        build(partition=f"csv:{tmp_path / 'nowhere.csv'}")
    with pytest.raises(ConfigError, match=r"clients=5, but the CSV names 2"):
        build(partition=f"csv:{who}", clients=5)


# ------------------------------------------------------------------------------------------------------ real data


def test_pacs_by_domain(build: Build, photos: Path) -> None:
    task = build(data=f"folder:{photos / 'pacs'}", partition="domain")
    check_disjoint(task)
    assert [c.name for c in task.clients] == ["art painting", "cartoon", "photo", "sketch"]
    assert task.base_classes == ("dog", "elephant", "giraffe", "guitar")
    for client in task.clients:
        assert {Path(n).parts[-3].replace("_", " ") for n in names(client.test)} == {client.name}
        assert (len(client.train), len(client.val), len(client.test)) == (32, 16, 96)


def test_caltech_has_forty_classes_and_its_own_split(build: Build, photos: Path) -> None:
    task = build(data=f"folder:{photos / 'caltech101_40'}", clients=5)
    check_disjoint(task)
    assert len(task.base_classes) == len(task.new_classes) == 20
    assert len(task.base_test) == len(task.new_test) == 400
    assert all(Path(n).name.startswith("test_") for n in names(task.base_test))
    assert all(Path(n).name.startswith("train_") for c in task.clients for n in names(c.train) | names(c.val))
    assert "car side" in task.base_classes


def test_task_is_registered_with_its_options() -> None:
    assert "clip-fewshot" in list(TASKS)
    assert TASKS["clip-fewshot"].Config().model_dump()["val_shots"] == 4
    with pytest.raises(ConfigError, match="Did you mean 'clip-fewshot'"):
        TASKS["clip-fewshots"]
    assert build_config({}).task == "clip-fewshot"


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ({"cat": 6, "dog": 1}, "it has one image, and it takes two to train and to test"),
        ({"x/cat": 6, "y/cat": 6, "x/dog": 1, "y/dog": 1}, "its 2 images are one for each domain or client"),
        ({"x/cat": 6, "y/dog": 1}, "it has one image"),
    ],
)
def test_a_class_of_too_few_images_is_said_to_be_one(build: Build, make_folder, counts: dict, why: str) -> None:
    with pytest.raises(DataError, match=rf"'dog' .* has no test images \({why}"):
        build(data=f"folder:{make_folder(counts)}", partition="auto", task_options={"base_fraction": 1})


def test_a_class_whose_copies_are_left_out_is_said_to_be_one(build: Build, make_folder) -> None:
    root = make_folder({"train/cat": 4, "train/dog": 4, "test/cat": 1})
    (root / "test" / "dog").mkdir()
    for image in (root / "train" / "dog").iterdir():
        (root / "test" / "dog" / image.name).write_bytes(image.read_bytes())
    with pytest.raises(DataError, match=r"'dog' .* no training images \(not trained on, since they stand in the test"):
        build(data=f"folder:{root}", task_options={"base_fraction": 1})


@pytest.mark.parametrize("new", [["dog", "fish"], ["dog", "emu"], ["emu", "fish"]])
def test_a_domain_without_a_base_class_is_named(build: Build, make_folder, new: list[str]) -> None:
    counts = {"a/ant": 6, "b/bee": 6, **{f"c/{name}": 6 for name in new}}
    task = build(data=f"folder:{make_folder(counts)}", partition="domain", task_options={"base_fraction": 0.5})
    assert [client.name for client in task.clients] == ["a", "b"]
    assert any(note.startswith("without a client") and note.endswith(": c") for note in task.notes)


@pytest.mark.parametrize(("classes", "share"), [(2, 0.5), (3, 0.5), (10, 0.9)])
def test_a_share_that_holds_out_nothing_is_said(build: Build, make_folder, classes: int, share: float) -> None:
    data = f"folder:{make_folder({f'c{i}': 8 for i in range(classes)})}"
    task = build(data=data, partition="iid", clients=2, task_options={"base_fraction": share})
    assert (len(task.base_classes), task.new_classes) == (classes, ())
    assert any(f"a share of {1 - share:g} of {classes} classes held out would leave" in note for note in task.notes)
