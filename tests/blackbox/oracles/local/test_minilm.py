"""MiniLM as an oracle: the same scores in any company, soft prompts in the place of words, on either side."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptfed.backbones.minilm import load_minilm, word_ids
from promptfed.blackbox.oracles.local.minilm import LONGEST, SCALE, MiniLM
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import Candidate, ProposalQuery, ScoreQuery
from promptfed.errors import BackboneError, DataError
from promptfed.examples.base import Item, TextItem
from promptfed.prompt_template import PromptTemplate
from promptfed.worked_examples import WorkedExample, with_examples

CLASSES = ("food", "sport")
ITEMS = [
    TextItem(text)
    for text in (
        "The soup was cold but the bread came warm from the oven.",
        "Two goals in the last minute!",
        "They ran",
        "After a long summer without a single match the team is at last back on the pitch, and so is its old captain.",
    )
]
PROMPTS = [Candidate(), Candidate("What is this about?"), Candidate(soft=torch.full((5, 384), 0.02))]


FORM = PromptTemplate(descriptions={"food": "Something to eat.", "sport": "A game or a race."})


@pytest.fixture(scope="module", params=["label", "text"])
def minilm(request: pytest.FixtureRequest) -> MiniLM:
    return MiniLM(FORM, *load_minilm(), side=request.param)


@pytest.fixture
def oracle(minilm: MiniLM) -> Oracle:
    return Oracle(minilm)


def test_a_population_in_one_batch_scores_as_one_by_one(minilm, oracle):
    together = oracle.score(PROMPTS, ITEMS, CLASSES)
    for number, prompt in enumerate(PROMPTS):
        for row, item in enumerate(ITEMS):
            minilm._texts.clear()
            minilm._labels.clear()
            alone = Oracle(minilm).score([prompt], [item], CLASSES)[0, 0]
            torch.testing.assert_close(together[number, row], alone, atol=1e-5, rtol=0)


def test_texts_and_descriptions_are_read_once(monkeypatch):
    backend, read = MiniLM(FORM, *load_minilm()), []
    plain = backend._encode
    monkeypatch.setattr(backend, "_encode", lambda rows: read.append(len(rows)) or plain(rows))
    Oracle(backend).score(PROMPTS, ITEMS, CLASSES)
    Oracle(backend).score(PROMPTS[:2], ITEMS[:3], CLASSES)
    assert sum(read) == len(ITEMS) + len(PROMPTS) * len(CLASSES)


def test_it_tells_food_from_sport(oracle):
    assert oracle.score([Candidate()], ITEMS, CLASSES)[0].argmax(-1).tolist() == [0, 1, 1, 1]


def test_a_soft_prompt_of_word_embeddings_is_the_text_prompt(minilm, oracle):
    words = "what is this about"
    vectors = minilm._table[word_ids(minilm._tokenizer, words)]
    text, soft = oracle.score([Candidate(words), Candidate(soft=vectors)], ITEMS, CLASSES)
    torch.testing.assert_close(soft, text, atol=1e-5, rtol=0)
    assert (text - oracle.score([Candidate()], ITEMS, CLASSES)[0]).abs().max() > 0.01


def test_worked_examples_are_texts_of_their_class(minilm, oracle):
    """A class's vector is the unit sum of its description's and the mean of its examples'; both sides agree."""
    examples = [WorkedExample("They won the cup.", "sport"), WorkedExample("A late goal.", "sport")]
    prompt = Candidate(with_examples(FORM, "", examples))
    words = ["Something to eat.", "A game or a race.", *(example.text for example in examples)]
    food, sport, one, other = minilm._encode_all([minilm._row(Candidate(), minilm._of(text)) for text in words])
    vectors = F.normalize(torch.stack([food, sport + (one + other) / 2]), dim=-1)
    texts = torch.stack(minilm._encode_all([minilm._row(Candidate(), minilm._of(item.text)) for item in ITEMS]))
    torch.testing.assert_close(oracle.score([prompt], ITEMS, CLASSES)[0], SCALE * texts @ vectors.T, atol=1e-4, rtol=0)


def test_an_instruction_before_worked_examples_is_read_as_without_them(minilm, oracle):
    shown = [WorkedExample("They won the cup.", "sport")]
    plain, beside = oracle.score(
        [Candidate("Sort this."), Candidate(with_examples(FORM, "Sort this.", shown))], ITEMS, CLASSES
    )
    torch.testing.assert_close(plain[:, 0], beside[:, 0], atol=1e-4, rtol=0)
    assert (plain[:, 1] - beside[:, 1]).abs().max() > 0.1


def test_only_prompts_with_examples_have_answers_of_their_own_kind(minilm):
    item, shown = ITEMS[0], with_examples(FORM, "", [WorkedExample("They won.", "sport")])
    plain, beside = (ScoreQuery(Candidate(text), item, CLASSES, {"text": text}) for text in ("Sort this.", shown))
    assert minilm.fingerprint_of(plain) == minilm.fingerprint
    assert minilm.fingerprint_of(beside) != minilm.fingerprint


def test_a_long_text_is_cut_at_its_end(minilm, oracle):
    words = ["bread", "goal"] * LONGEST
    soft = Candidate(soft=torch.full((6, 384), 0.02))
    room = LONGEST - (8 if minilm.side == "text" else 2)
    long, cut, other = (TextItem(" ".join(some)) for some in (words, words[:room], [*words[: room - 1], "soup"]))
    found = oracle.score([soft], [long, cut, other], CLASSES)[0]
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)
    assert not torch.equal(found[0], found[2])


def test_words_to_start_from_and_to_propose(oracle):
    assert oracle.soft.words.shape == (2000, 384)
    assert oracle.soft.std == pytest.approx(oracle.soft.words.std().item(), rel=0.5)
    proposed = oracle.propose("the football", "was played", 5)
    assert len(set(proposed)) == 5
    assert all(word.isalpha() for word in proposed)
    assert oracle.ask([ProposalQuery("", "", 2)])[0].tokens


def test_images_are_refused(oracle):
    class Picture(Item):
        name = "picture 1"

        def content_id(self) -> str:
            return "0" * 64

    with pytest.raises(DataError, match="picture 1 is not a text"):
        oracle.score([Candidate()], [Picture()], CLASSES)


def test_a_changed_weight_is_noticed():
    backend = MiniLM(PromptTemplate(), *load_minilm())
    backend.verify_frozen()
    next(backend._reader.parameters()).data.view(-1)[0] += 1e-3
    with pytest.raises(BackboneError, match="changed"):
        backend.verify_frozen()


def test_precision_and_side_are_part_of_the_fingerprint(minilm):
    narrow = MiniLM(minilm.form, *load_minilm(), side=minilm.side, precision="bfloat16")
    turned = MiniLM(minilm.form, *load_minilm(), side="text" if minilm.side == "label" else "label")
    assert len({narrow.fingerprint, turned.fingerprint, minilm.fingerprint}) == 3
    wide_scores, narrow_scores = (Oracle(one).score([Candidate()], ITEMS, CLASSES) for one in (minilm, narrow))
    torch.testing.assert_close(narrow_scores, wide_scores, atol=0.5, rtol=0)
