"""FedPIT's generation: what a draft may say, what is refused, and how the server collects."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
import torch

from promptfed.aggregators.mean import Mean
from promptfed.blackbox.text.tensors import text_of, text_tensor
from promptfed.build_method import build_method
from promptfed.errors import TrainingError
from promptfed.examples.base import TextItem
from promptfed.methods.fedpit import FedPIT
from promptfed.methods.fedpit.draft_collector import DRAFTS, read_drafts
from promptfed.methods.fedpit.writer import SHORT_WORDS
from promptfed.prompt_state import PromptState
from promptfed.prompts.synthetic_texts import synthetic_texts
from promptfed.seeding import torch_stream
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split, Update

from ...tiny_language_models import CLASSES, client, setup

FREE = {"nearest": 1.0, "alike": 1.0, "margin": -1e9, "pool": 12}


def build(**options: object) -> FedPIT:
    return build_method("fedpit", {**FREE, **options}, setup("bert", domains=("a", "b")))


@pytest.fixture(scope="module")
def method() -> FedPIT:
    return build()


def holder(*texts: str, label: int = 1) -> ClientData:
    split = Split(tuple(map(TextItem, texts)), torch.full((len(texts),), label))
    return ClientData(0, "a", (label,), split, Split((), torch.zeros(0, dtype=torch.int64)), split)


def update(drafts: list[tuple[int, str]], number: int = 0) -> Update:
    return Update(number, PromptState({DRAFTS: text_tensor(json.dumps(drafts))}), 4, 0.0, 1.0)


def test_words_that_the_vocabulary_lacks_never_travel(method: FedPIT) -> None:
    stream = torch_stream(0, "drafts")
    private = ["Zebra, the film of Quagga was good! 0176 5551234 me@home.org"]
    texts = [method.writer.draft(private, 0, 1, stream) for _ in range(50)]
    words = {word for text in texts for word in re.findall(r"\w+", text)}
    assert words - set(method.writer.pool.words) <= SHORT_WORDS
    assert not any(character.isdigit() for text in texts for character in text)
    assert texts[0].count(",") == 1, "marks stay"


def test_a_short_word_stays_only_if_it_is_on_the_list(method: FedPIT) -> None:
    stream = torch_stream(0, "drafts")
    private = ["Li and Bo met JD of \u6771\u4eac at the film, x_y is me"]
    words = {word for _ in range(50) for word in re.findall(r"\w+", method.writer.draft(private, 0, 1, stream))}
    assert not words & {"li", "bo", "jd", "\u6771\u4eac", "x_y"}
    assert {"of", "at", "is", "me"} <= words


def test_some_words_of_the_template_stay_and_others_are_near_or_of_another_example(method: FedPIT) -> None:
    private = ["this movie was very good", "wonderful story"]
    near = {method.writer.pool.words[k] for word in private[0].split() for k in method.writer.pool.near_word(word)}
    stream, kept = torch_stream(0, "drafts"), 0
    for _ in range(200):
        words = method.writer.draft(private, 0, 1, stream).split()
        assert len(words) == 5
        assert set(words) <= {*" ".join(private).split(), *near}
        kept += sum(word == of for word, of in zip(words, private[0].split(), strict=True))
    assert 0.45 < kept / 1000 < 0.75, "half of the words change, now and then to the same one"


def test_a_client_sends_drafts_of_its_classes_that_quote_nothing(method: FedPIT) -> None:
    data = client()
    drafts = method.drafts(Broadcast(1, method.init_shared()), data)
    assert {label for label, _ in drafts} == {0, 1}
    assert max(sum(label == of for of, _ in drafts) for label in (0, 1)) <= method.config.send
    assert drafts == method.drafts(Broadcast(1, method.init_shared()), data), "a round draws the same again"
    strict = build(quoted_words=2)
    private = [words for item in data.train.items for words in pairwise(item.text.split())]
    for _, text in strict.drafts(Broadcast(1, strict.init_shared()), data):
        words = text.replace(",", "").split()
        assert not set(pairwise(words)) & set(private)


@pytest.mark.parametrize("options", [{"nearest": 1e-6}, {"margin": 1e9}])
def test_drafts_that_are_too_near_or_of_another_class_are_refused(options: dict[str, float]) -> None:
    method = build(**options)
    assert method.drafts(Broadcast(1, method.init_shared()), client()) == []


def test_the_judge_goes_by_the_margin_of_log_probabilities(method: FedPIT) -> None:
    texts = ["the film was very good", "a boring plot"]
    split = Split(tuple(map(TextItem, texts)), torch.tensor([1, 1]))
    logs = method.model.template_scores("review :", split, CLASSES).log_softmax(-1)
    margins = (logs[:, 1] - logs[:, 0]).tolist()
    examples = method.states.unit_of_texts(["news of the world"])
    for margin in (min(margins) - 1, sum(margins) / 2, max(margins) + 1):
        passed = [text for text, value in zip(texts, margins, strict=True) if value >= margin]
        assert build(margin=margin)._passing(texts, 1, examples) == passed


def test_the_server_takes_clients_in_turn_drops_copies_and_balances_classes() -> None:
    method = build(keep=3, send=2, alike=0.9999)
    rule, shared = method.server_side(Mean(Mean.Config())), method.init_shared()
    updates = [
        update([(0, "bad plot"), (0, "boring film"), (1, "good story")], 0),
        update([(0, "terrible actors"), (0, "not it"), (1, "good story")], 1),
    ]
    state, server = rule.apply(shared, updates[::-1], rule.init(shared))
    negative, positive = method.texts(state)
    assert set(negative[:2]) == {"bad plot", "terrible actors"}, "the first draft of each comes first"
    assert negative[2] == {"bad plot": "boring film", "terrible actors": "not it"}[negative[0]], "the same client again"
    assert positive == ["good story"]
    assert rule.apply(shared, updates, rule.init(shared))[0] == state, "the order of updates does not matter"
    assert synthetic_texts(state, CLASSES) == [(negative[0], "negative"), ("good story", "positive")]
    later, _ = rule.apply(state, [update([(0, "news"), (1, "very great")])], server)
    assert method.texts(later) == [negative, ["good story", "very great"]]
    assert len(synthetic_texts(later, CLASSES)) == 4
    assert method.drafts(Broadcast(2, later), holder("a boring plot", label=0)) == [], "the class is full"


def test_the_first_client_is_drawn_for_each_class_and_seed() -> None:
    method = build(keep=1, send=1)
    rule, shared = method.server_side(Mean(Mean.Config())), method.init_shared()
    names = ["bad plot", "terrible actors", "boring film", "good story"]
    updates, firsts = [update([(0, name), (1, name)], client) for client, name in enumerate(names)], []
    for seed in range(20):
        method.setup = method.setup.agreeing(seed=seed)
        firsts.append([text for [text] in method.texts(rule.apply(shared, updates, NO_PROMPT)[0])])
    assert {first for first, _ in firsts} == {second for _, second in firsts} == set(names)
    assert any(first != second for first, second in firsts)


def test_a_run_without_any_accepted_draft_is_an_error_that_names_the_options(method: FedPIT) -> None:
    with pytest.raises(TrainingError, match=r"no draft .* method.margin, raise method.nearest or method.quoted_words"):
        method.check_trained(method.init_shared())
    method.check_trained(method.state([["a bad plot"], []]))


def test_a_round_trains_and_texts_are_prototypes(method: FedPIT) -> None:
    rule, shared = method.server_side(Mean(Mean.Config())), method.init_shared()
    sent, personal = method.train(Broadcast(1, shared), client(), NO_PROMPT)
    assert personal is NO_PROMPT
    assert json.loads(text_of(sent.shared[DRAFTS]))
    state, _ = rule.apply(shared, [sent], rule.init(shared))
    split = client().train
    scores, before = (method.logits(s, NO_PROMPT, CLASSES, split) for s in (state, shared))
    means = [method.states.unit_of_texts(texts).mean(0) for texts in method.texts(state)]
    means = torch.nn.functional.normalize(torch.stack(means), dim=-1)
    torch.testing.assert_close(scores, 20 * method.states.unit_of_texts([item.text for item in split.items]) @ means.T)
    torch.testing.assert_close(before, method.model.cosines(method.states.of(split.items), CLASSES))


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "{}1",
        '[[0, "a\\tb"]]',
        '[[0, "a\\nb\\tx"]]',
        '[[0, "a\\u0007"]]',
        '[[2, "x"]]',
        '[["0", "x"]]',
        '[[0, " "]]',
        f'[[0, "{"x" * 401}"]]',
        '[[0, "a"], [0, "b"], [0, "c"]]',
    ],
)
def test_what_is_no_list_of_drafts_is_refused(sent: str) -> None:
    with pytest.raises(ValueError, match=r"draft|Expecting|Extra"):
        read_drafts(text_tensor(sent), 2, 2)
