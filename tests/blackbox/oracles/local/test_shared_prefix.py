"""What rows begin with is read once, whatever it is, and the scores are those of rows that are read whole."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.examples.base import TextItem
from promptfed.language_models.shared_prefix import CausalReader

LABELS = ("positive", "negative")
LONG = {"positive": "it was good", "negative": "it was not good but bad"}
TEXTS = ("", "the movie was great", "a boring film and a plot but very good actors", "it is bad", "wonderful")
ITEMS = [TextItem(text) for text in TEXTS]
CAUSAL = ("gpt2", "llama", "gemma")
BEFORE, BEHIND = "review : {{ prompt }} {{ text }} it is", "{{ text }} what {{ prompt }} says :"
FRAMED = "the story of a film is what this review says of the actors and the {{ prompt }} {{ text }} it is"


def soft(count: int = 3, tokens: int = 20) -> list[Candidate]:
    return [
        Candidate(soft=torch.randn(tokens, 32, generator=torch.Generator().manual_seed(k)) * 0.5) for k in range(count)
    ]


def words() -> list[Candidate]:
    """Prompts of several lengths: none, and some that are longer than the tiny Gemma's window of 16 tokens."""
    return [Candidate(text) for text in ("", "the", "this review says", "what the movie says of the actors and " * 2)]


@pytest.fixture
def both(monkeypatch):
    """``both(backend, prompts, items)``: scores with and without sharing, and the tokens that the blocks read."""

    def scores(backend, prompts, items=ITEMS):
        tokens = [0]

        def count(module, inputs, named) -> None:
            tokens[-1] += named["inputs_embeds"].shape[:2].numel()

        if not backend.masked:
            assert backend._can_share
        backend.model.base_model.register_forward_pre_hook(count, with_kwargs=True)
        shared = Oracle(backend).score(prompts, items, LABELS)
        again = Oracle(backend).score(prompts, items, LABELS)
        assert torch.equal(shared, again), "what was read is not changed by those who read on"
        tokens = [tokens[0] // 2, 0]
        monkeypatch.setattr(backend, "_reader", None)
        plain = Oracle(backend).score(prompts, items, LABELS)
        assert plain.std() > 0.05
        return shared, plain, tokens

    return scores


@pytest.mark.parametrize("labels", [{}, LONG], ids=["first tokens", "whole labels"])
@pytest.mark.parametrize("kind", CAUSAL)
def test_soft_prompts_before_the_texts_are_read_once(kind, labels, tiny_model, both):
    shared, plain, tokens = both(tiny_model(kind, BEFORE, **labels), soft())
    torch.testing.assert_close(shared, plain, atol=1e-4, rtol=0)
    assert tokens[0] < (0.5 if labels else 0.7) * tokens[1]


@pytest.mark.parametrize("labels", [{}, LONG], ids=["first tokens", "whole labels"])
@pytest.mark.parametrize("kind", CAUSAL)
def test_text_prompts_of_any_length_are_read_once(kind, labels, tiny_model, both):
    shared, plain, tokens = both(tiny_model(kind, BEFORE, **labels), words())
    torch.testing.assert_close(shared, plain, atol=1e-4, rtol=0)
    assert tokens[0] < 0.8 * tokens[1]


@pytest.mark.parametrize("prompts", [soft(6, 4), words()], ids=["soft", "text"])
@pytest.mark.parametrize("kind", CAUSAL)
def test_texts_before_the_prompts_are_read_once(kind, prompts, tiny_model, both):
    long = [TextItem(f"{text} a film and a plot of the actors") for text in TEXTS]
    shared, plain, tokens = both(tiny_model(kind, BEHIND), prompts, long)
    torch.testing.assert_close(shared, plain, atol=1e-4, rtol=0)
    assert tokens[0] < 0.8 * tokens[1]


@pytest.mark.parametrize("kind", CAUSAL)
def test_what_stands_before_all_prompts_is_read_once_for_all(kind, tiny_model, both):
    backend, seen = tiny_model(kind, FRAMED), []
    start = len(backend.tokens.start(FRAMED.split(" {{")[0]))
    backend.model.base_model.register_forward_pre_hook(
        lambda module, inputs, named: seen.append(tuple(named["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    shared, plain, tokens = both(backend, soft(5, 8), ITEMS[1:])
    torch.testing.assert_close(shared, plain, atol=1e-4, rtol=0)
    assert tokens[0] < 0.45 * tokens[1]
    assert any(rows == 1 and abs(length - start) <= 1 for rows, length in seen)
    assert (5, 8) in seen


def test_a_masked_model_shares_nothing(tiny_model, both):
    shared, plain, tokens = both(tiny_model("bert", BEFORE), soft())
    assert torch.equal(shared, plain)
    assert tokens[0] == tokens[1]


class Recurrent(torch.nn.Module):
    """A model whose state is a running sum; it takes a cache of keys and values, and leaves it empty."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(get_text_config=SimpleNamespace)

    @property
    def base_model(self):
        return self

    def forward(self, inputs_embeds, attention_mask=None, past_key_values=None, use_cache=False):
        return SimpleNamespace(last_hidden_state=inputs_embeds.cumsum(1), past_key_values=past_key_values)


def test_a_model_that_keeps_other_things_is_read_whole(tiny_model, monkeypatch):
    backend = tiny_model("llama", BEFORE)
    vectors = backend.embedded(range(9))
    assert CausalReader(backend.model).agrees(vectors)
    assert not CausalReader(Recurrent()).agrees(vectors)
    monkeypatch.setattr(backend, "_reader", CausalReader(Recurrent()))
    found = Oracle(backend).score(soft(), ITEMS, LABELS)
    monkeypatch.setattr(backend, "_reader", None)
    assert torch.equal(found, Oracle(backend).score(soft(), ITEMS, LABELS))


def test_prompts_of_one_text_each_are_read_whole(tiny_model, both):
    """Each example has a soft prompt of its own: only the first words of the template are shared, too few of them."""
    prompts = [Candidate(soft=torch.stack([candidate.soft for candidate in soft(5)]))]
    shared, plain, tokens = both(tiny_model("gpt2", BEFORE), prompts)
    assert torch.equal(shared, plain)
    assert tokens[0] == tokens[1]


def test_groups_are_read_a_few_at_a_time(tiny_model, both, monkeypatch):
    backend = tiny_model("gemma", BEFORE)
    backend.rows = 8
    prompts = soft(9, 10) + words()
    shared, plain, tokens = both(backend, prompts)
    torch.testing.assert_close(shared, plain, atol=1e-4, rtol=0)
    assert tokens[0] < tokens[1]


@pytest.mark.parametrize("kind", CAUSAL)
def test_beginnings_of_several_lengths_end_together(kind, tiny_model):
    """Read in three parts of unequal lengths, one of them empty, a model says what it says of the whole."""
    model = tiny_model(kind).model
    reader, vectors = CausalReader(model), torch.randn(12, 40, 32, generator=torch.Generator().manual_seed(1))
    first = reader.beginnings([vectors[0, :5]])
    lengths, ends = (0, 21, 9), (3, 1, 6)
    second = reader.beginnings([vectors[k, :length] for k, length in enumerate(lengths)], first.select([0, 0, 0]))
    assert second.lengths.tolist() == [5, 26, 14]
    parents = [2, 0, 1]
    rows = [vectors[5 + k, :length] for k, length in enumerate(ends)]
    with torch.no_grad():
        output, _ = reader.read(model.base_model, rows, second.select(parents))
        for k, parent in enumerate(parents):
            whole = torch.cat([vectors[0, :5], vectors[parent, : lengths[parent]], rows[k]])
            expected = model.base_model(inputs_embeds=whole[None]).last_hidden_state[0, -len(rows[k]) :]
            torch.testing.assert_close(output.last_hidden_state[k, : len(rows[k])], expected, atol=1e-4, rtol=1e-4)
