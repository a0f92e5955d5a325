"""The task clip-domains: who holds which domain, and what is tested where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from promptfed.config import build_config
from promptfed.errors import ConfigError, DataError
from promptfed.resolve import resolve
from promptfed.tasks import TASKS
from promptfed.tasks.sources import load_source
from promptfed.types import FederatedTask, Split

Deal = Callable[..., FederatedTask]


@pytest.fixture
def deal() -> Deal:
    """``deal(data=..., shots=...)``: the task ``clip-domains`` with these options."""

    def make(**options: object) -> FederatedTask:
        return TASKS["clip-domains"].build(build_config({"task": "clip-domains"}, options))

    return make


@pytest.fixture
def animals(make_folder: Callable[..., Path]) -> str:
    """Three domains of three classes with 20 pictures each; nobody sketched a yak."""
    counts = {f"{d}/{c}": 20 for d in ("photo", "cartoon", "sketch") for c in ("cat", "dog", "yak")}
    del counts["sketch/yak"]
    return f"folder:{make_folder(counts)}"


def names(split: Split) -> set[str]:
    return {item.name for item in split.items}


def domains_of(split: Split) -> set[str]:
    return {Path(item.name).parts[-3] for item in split.items}


def test_every_domain_has_a_client_with_its_own_images(deal: Deal, animals: str) -> None:
    task = deal(data=animals, shots=4)
    assert [c.name for c in task.clients] == ["cartoon", "photo", "sketch"]
    assert task.domains == ("cartoon", "photo", "sketch")
    assert (task.base_classes, task.new_classes) == (("cat", "dog", "yak"), ())
    for client in task.clients:
        for split in (client.train, client.val, client.test):
            assert domains_of(split) == {client.domain}
        assert not names(client.train) & names(client.val)
        assert not (names(client.train) | names(client.val)) & names(task.base_test)
    assert Counter(task.clients[0].train.labels.tolist()) == {0: 4, 1: 4, 2: 4}
    assert task.clients[2].classes == (0, 1)
    assert set(task.domain_tests) == {"cartoon", "photo", "sketch"}
    assert set().union(*(names(s) for s in task.domain_tests.values())) == names(task.base_test)


def test_a_held_out_domain_has_no_client_and_is_tested_apart(deal: Deal, animals: str) -> None:
    task = deal(data=animals, shots=4, task_options={"held_out": "sketch"})
    assert [c.domain for c in task.clients] == ["cartoon", "photo"]
    assert domains_of(task.base_test) == {"cartoon", "photo"}
    assert domains_of(task.domain_tests["sketch"]) == {"sketch"}
    assert any("sketch" in note for note in task.notes)
    both = deal(data=animals, shots=4, task_options={"held_out": ["sketch", "photo"]})
    assert [c.domain for c in both.clients] == ["cartoon"]


def test_holding_a_domain_out_changes_nothing_in_the_others(deal: Deal, animals: str) -> None:
    whole, part = deal(data=animals, shots=4), deal(data=animals, shots=4, task_options={"held_out": "cartoon"})
    for before, after in zip(whole.clients[1:], part.clients, strict=True):
        assert names(before.train) == names(after.train)
        assert names(before.test) == names(after.test)
    assert names(whole.domain_tests["cartoon"]) == names(part.domain_tests["cartoon"])


def test_clients_of_one_domain_share_no_image(deal: Deal, animals: str) -> None:
    task = deal(data=animals, shots=3, task_options={"clients_per_domain": 2, "val_shots": 2})
    assert [c.name for c in task.clients[:3]] == ["cartoon 0", "cartoon 1", "photo 0"]
    assert [c.domain for c in task.clients[:3]] == ["cartoon", "cartoon", "photo"]
    held = [name for c in task.clients for name in names(c.train) | names(c.val)]
    assert len(held) == len(set(held))
    assert names(task.clients[0].test) == names(task.clients[1].test)
    again = deal(data=animals, shots=3, clients=6, task_options={"val_shots": 2})
    assert [names(c.train) for c in again.clients] == [names(c.train) for c in task.clients]


def test_new_classes_are_possible(deal: Deal, make_folder: Callable[..., Path]) -> None:
    root = make_folder({f"{d}/{c}": 20 for d in ("photo", "sketch") for c in ("ant", "bee", "cat", "dog")})
    task = deal(data=f"folder:{root}", shots=4, task_options={"base_fraction": 0.5, "held_out": "sketch"})
    assert (task.base_classes, task.new_classes) == (("ant", "bee"), ("cat", "dog"))
    assert domains_of(task.new_test) == {"photo", "sketch"}


def test_plain_icons_are_four_styles_that_tiny_never_saw(deal: Deal) -> None:
    task = deal(shots=2, task_options={"test_per_class": 4})
    assert [c.domain for c in task.clients] == ["phosphor fill", "phosphor thin", "remix fill", "remix line"]
    assert len(task.base_classes) == 24
    thin = task.clients[1].train.items
    assert {item.glyph.style for item in thin} == {"thin"}  # type: ignore[attr-defined]
    assert {item.glyph.family for item in thin} == {"phosphor"}  # type: ignore[attr-defined]
    assert load_source("icons:styles").domains == tuple(sorted(task.domains))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task_options": {"held_out": "skech"}}, "Did you mean 'sketch'"),
        ({"task_options": {"held_out": ["photo", "sketch", "cartoon"]}}, "names all domains"),
        ({"clients": 4}, "clients=4 do not fit 3 domains"),
        ({"clients": 3, "task_options": {"clients_per_domain": 2}}, "clients=3 do not fit"),
    ],
)
def test_errors_name_value_and_fix(deal: Deal, animals: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        deal(data=animals, shots=4, **options)
    assert "\n" not in str(caught.value)


def test_data_without_domains_are_refused(deal: Deal, make_folder: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"two domains or more.*has none"):
        deal(data=f"folder:{make_folder({'cat': 9, 'dog': 9})}", shots=1)


def test_the_partition_is_by_domain_and_says_so() -> None:
    assert resolve(build_config({"task": "clip-domains"})).partition == "domain"
    assert resolve(build_config({"task": "clip-fewshot"})).partition == "classes"
    with pytest.raises(ConfigError, match="partition 'iid' does not go with task 'clip-domains'"):
        resolve(build_config({"task": "clip-domains", "partition": "iid"}))


def test_clip_fewshot_by_domain_has_domain_tests_too(build: Deal, animals: str) -> None:
    task = build(data=animals, shots=4, partition="domain", clients=2, task_options={"base_fraction": 1})
    assert task.domains == ("cartoon + photo", "sketch")
    assert {d: domains_of(s) for d, s in task.domain_tests.items()} == {d: {d} for d in ("cartoon", "photo", "sketch")}
    assert build(data=animals, shots=4, task_options={"base_fraction": 1}).domain_tests == {}


@pytest.mark.parametrize("held_out", ["photo", "sketch", "cartoon"])
def test_a_class_of_held_out_domains_alone_is_said_to_be_there(deal: Deal, make_folder, held_out: str) -> None:
    counts = {f"{d}/{c}": 6 for d in ("photo", "cartoon", "sketch") for c in ("cat", "dog")}
    data = f"folder:{make_folder({**counts, f'{held_out}/yak': 6})}"
    with pytest.raises(DataError, match=r"'yak' .* has no test images in the domains .*hold out other"):
        deal(data=data, shots=2, task_options={"held_out": held_out})
