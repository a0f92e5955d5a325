"""Texts dealt out to clients, and how they are put."""

from __future__ import annotations

import pytest

from promptfed.config import build_config
from promptfed.errors import ConfigError
from promptfed.tasks import TASKS


@pytest.fixture
def build_text():
    def make(data="texts:requests", partition="dirichlet", **options):
        config = {"task": "blackbox-text", "data": data, "partition": partition, **options}
        return TASKS["blackbox-text"].build(build_config(config))

    return make


@pytest.fixture
def letters(tmp_path):
    """60 texts of two classes in three languages."""
    rows = [f"text {k}\t{'ab'[k % 2]}\t{('en', 'de', 'fr')[k % 3]}" for k in range(60)]
    (tmp_path / "letters.tsv").write_text("\n".join(["text\tlabel\tlang", *rows]) + "\n")
    return f"tsv:{tmp_path / 'letters.tsv'}"


def ids(task):
    """Everything about who holds what."""
    splits = [split for data in task.clients for split in (data.train, data.val, data.test)]
    return [([item.content_id() for item in s.items], s.labels.tolist()) for s in (*splits, task.base_test)]


@pytest.mark.parametrize("partition", ["dirichlet", "iid"])
def test_shares_are_apart_and_of_every_class_in_all(build_text, partition):
    task = build_text(partition=partition, clients=4, shots=8)
    held = [i.content_id() for data in task.clients for split in (data.train, data.val) for i in split.items]
    assert len(held) == len(set(held))
    assert not set(held) & {item.content_id() for item in task.base_test.items}
    assert task.new_classes == ()
    assert {int(k) for data in task.clients for k in data.train.labels} == set(range(6))
    if partition == "iid":
        assert len({len(data.train) + len(data.val) for data in task.clients}) == 1


def test_domains_of_the_bundled_texts_are_clients(build_text):
    task = build_text(partition="domain", shots=4)
    assert task.domains == ("airline", "bank", "shop", "telephone")
    assert set(task.domain_tests) == set(task.domains)
    assert [len(data.train) for data in task.clients] == [6 * 4] * 4


def test_a_column_says_who_holds_a_text(build_text, letters):
    task = build_text(letters, "domain", task_options={"domain_column": "lang"})
    assert task.domains == ("de", "en", "fr")
    number = {"en": 0, "de": 1, "fr": 2}
    for data in task.clients:
        for item in (*data.train.items, *data.val.items, *data.test.items):
            assert int(item.text.split()[1]) % 3 == number[data.domain]


def test_without_a_domain_column_there_are_no_domains(build_text, letters):
    with pytest.raises(ConfigError, match="needs data with domains"):
        build_text(letters, "domain")


def test_the_same_seed_gives_the_same_task_and_another_one_another(build_text):
    one = ids(build_text(partition_seed=3))
    assert one == ids(build_text(partition_seed=3, seed=7, rounds=2))
    assert one != ids(build_text(partition_seed=4))


def test_options_change_the_form(build_text):
    words = {"refund": "money"}
    options = {"template": "{{ text }} {{ prompt }}", "words": words, "prompts": ["A:", "B:"]}
    form = build_text(task_options=options).form
    assert form.render("A:", "x") == "x A:"
    assert form.prompts == ("A:", "B:")
    assert (form.word("refund"), form.word("cancel")) == ("money", "cancellation")
    assert form.description("cancel") == "The customer wants to cancel."


def test_a_text_is_never_read_as_a_template(build_text, tmp_path):
    rows = [f"{{{{ x{k} }}}} {{% if %}}\t{'ab'[k % 2]}" for k in range(40)]
    (tmp_path / "evil.tsv").write_text("\n".join(["text\tlabel", *rows]))
    task = build_text(f"tsv:{tmp_path / 'evil.tsv'}", "iid", clients=2)
    [item, *_] = task.clients[0].train.items
    assert item.text in task.form.render("", item.text)


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        ("texts:requests", {"template": "{{ text }}"}, "must hold {{ prompt }} once"),
        ("texts:requests", {"prompts": []}, "prompts"),
        ("texts:nothing", {}, "unknown bundled texts 'nothing'"),
        ("tsv", {}, "lacks its name or path: write tsv:PATH"),
        ("parquet:x", {}, "unknown source of texts 'parquet'"),
    ],
)
def test_what_cannot_be(build_text, data, options, said):
    with pytest.raises(ConfigError) as error:
        build_text(data, task_options=options)
    assert said in str(error.value)


def table_of(folder, *classes):
    rows = [f"text {k} of {classes[k % len(classes)]}\t{classes[k % len(classes)]}" for k in range(40)]
    (folder / "own.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n", encoding="utf-8")
    return f"tsv:{folder / 'own.tsv'}"


@pytest.mark.parametrize(
    ("classes", "options", "said"),
    [
        (("pos", "neg"), {"words": {"positive": "great", "negative": "bad"}}, "'positive'.*did you mean 'pos'"),
        (("pos", "neg"), {"descriptions": {"pos": "Fine.", "nge": "Bad."}}, "'nge'.*did you mean 'neg'"),
        (("refund", "cancel"), {"words": {"refnud": "money", "cancel": "end"}}, "'refnud'.*did you mean 'refund'"),
        (("猫", "狗"), {"words": {"猫": "喵", "犬": "汪"}}, "'犬', which is no class here.*'狗', '猫'"),
        (("pos", "neg"), {"words": {"pos": "good", "neg": "good"}}, "'neg' and 'pos' are both called"),
        (("pos", "neg"), {"words": {"pos": "Good ", "neg": "good"}}, "are both called"),
        (("one", "two"), {"words": {"one": "\uff21\uff22", "two": "ab"}}, "are both called"),
        (("one", "two"), {"words": {"one": "two", "two": "Two"}}, "are both called"),
        (("a_b", "c"), {"descriptions": {"a_b": "Some  text.", "c": "some text."}}, "are both called"),
        (("pos", "neg"), {"words": {"pos": "good"}}, "nothing for class 'neg'"),
        (("a", "b", "c"), {"descriptions": {"b": "It is b."}}, "nothing for class 'a', 'c'"),
        (("pos", "neg"), {"words": {"pos": "good", "neg": " "}}, "'neg' has an empty text"),
        (("yes", "no"), {"words": {True: "good", False: "bad"}}, "put it in quotes"),
        (("[red]x", "b"), {"words": {"red x": "good", "b": "bad"}}, "'red x', which is no class"),
    ],
)
def test_words_that_do_not_fit_the_classes_are_refused(build_text, tmp_path, classes, options, said):
    with pytest.raises(ConfigError, match=said) as error:
        build_text(table_of(tmp_path, *classes), "iid", clients=2, shots=2, task_options=options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("pos", "neg"), {"pos": "good", "neg": "bad"}),
        (("0", "1", "2"), {0: "none", 1: "some", 2: "many"}),
        (("猫", "狗"), {"猫": "喵", "狗": "汪"}),
        (("pos", "neg"), {"pos": "good", "neg": "neg"}),
    ],
)
def test_words_that_fit_are_taken(build_text, tmp_path, classes, words):
    form = build_text(table_of(tmp_path, *classes), "iid", clients=2, shots=2, task_options={"words": words}).form
    assert [form.word(name) for name in classes] == list(words.values())


@pytest.mark.parametrize("data", ["texts:requests", "texts:reviews"])
def test_words_of_bundled_texts_are_checked_too(build_text, data):
    with pytest.raises(ConfigError, match="'positiv', which is no class here"):
        build_text(data, task_options={"words": {"positiv": "x"}})
