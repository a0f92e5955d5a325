"""What a language model reads with an insert equals the plain forward pass of transformers."""

from __future__ import annotations

import ast
import pickle
import re

import pytest
import torch
from torch.nn import functional as F

from promptfed.config import parse_settings
from promptfed.errors import BackboneError, ConfigError, DataError
from promptfed.examples.base import TextItem
from promptfed.language_models.insert import NO_INSERT, Factors, Insert
from promptfed.python_words import in_python

from ..tiny_language_models import CLASSES, LAYERS, TEXTS, WIDTH, language_model, split

WITH_WORDS = ("llama", "gemma", "gpt2", "masked", "t5")


def rows_of(model, rows=range(4)):
    return [model.writer.row(item) for item in split(rows).items]


def plain_logits(model, row, soft=None):
    """Full logits at the place that answers, one text alone."""
    vectors = model.model.get_input_embeddings()(torch.tensor([row.ids]))
    front = 0 if soft is None else len(soft)
    if soft is not None:
        vectors = torch.cat([soft[None], vectors], 1)
    if model.family == "encoder-decoder":
        return model.model(inputs_embeds=vectors, decoder_input_ids=torch.tensor([[0]])).logits[0, 0]
    return model.model(inputs_embeds=vectors).logits[0, row.at + front]


@pytest.mark.parametrize("name", WITH_WORDS)
def test_logits_of_words_and_gradients_are_those_of_the_whole_model(name):
    model = language_model(name)
    soft = (0.3 * torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1))).requires_grad_()
    rows = rows_of(model)
    places = [[0 if name == "t5" else row.at] for row in rows]
    hidden = model.hidden([row.ids for row in rows], Insert(soft=soft), places)[:, 0]
    logits = model.word_logits(hidden, [7, 30, 11])
    (gradient,) = torch.autograd.grad(logits.square().sum(), soft)
    expected = torch.stack([plain_logits(model, row, soft)[[7, 30, 11]] for row in rows])
    (whole,) = torch.autograd.grad(expected.square().sum(), soft)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, whole, atol=1e-5, rtol=1e-4)
    without = model.word_logits(model.hidden([row.ids for row in rows], NO_INSERT, places)[:, 0], None)
    expected = torch.stack([plain_logits(model, row) for row in rows])
    torch.testing.assert_close(without, expected, atol=1e-5, rtol=1e-5)


def test_an_encoder_answers_with_the_mean_over_its_tokens():
    model = language_model("bert")
    soft = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(2))
    rows = rows_of(model)
    means = model.hidden([row.ids for row in rows], Insert(soft=soft))
    table = model.model.get_input_embeddings()
    for mean, row in zip(means, rows, strict=True):
        vectors = torch.cat([soft, table(torch.tensor(row.ids))])[None]
        expected = model.model(inputs_embeds=vectors).last_hidden_state[0].mean(0)
        torch.testing.assert_close(mean, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "masked", "bert"])
def test_low_rank_changes_equal_changed_weights(name):
    model = language_model(name)
    assert model.default_targets
    path = next(path for path in model.matrices if path.endswith(model.default_targets[-1]))
    out, width = model.matrices[path]
    stream = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, width, generator=stream), torch.randn(out, 2, generator=stream)
    rows = rows_of(model)
    at = None if name == "bert" else [[row.at] for row in rows]
    ids = [row.ids for row in rows]
    before = model.hidden(ids, NO_INSERT, at)
    nothing = model.hidden(ids, Insert(low_rank={path: (Factors(a, torch.zeros_like(b)),)}), at)
    changed = model.hidden(ids, Insert(low_rank={path: (Factors(a, b, 0.5), Factors(a, b, 0.25))}), at)
    weight = model.model.get_submodule(path).weight
    whole = 0.75 * (b @ a)
    with torch.no_grad():
        weight += whole.T if name == "gpt2" else whole
    expected = model.hidden(ids, NO_INSERT, at)
    assert torch.equal(before, nothing)
    torch.testing.assert_close(changed, expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(BackboneError, match="changed during the run"):
        model.verify_frozen()


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_keys_and_values_of_a_text_are_that_text(name):
    model = language_model(name)
    ids = [2, 8, 9, 10]
    read = model._reader.beginnings([model.embed(ids)])
    prefix = torch.stack([torch.stack([keys[0], values[0]]) for keys, values in read.layers])
    prefix = prefix.permute(3, 0, 1, 2, 4).reshape(len(ids), -1)
    assert prefix.shape == (len(ids), LAYERS * 2 * model.kv_heads * model.head_size)
    rows = rows_of(model)
    at = [[row.at] for row in rows]
    with_prefix = model.hidden([row.ids for row in rows], Insert(prefix=prefix), at)
    with_text = model.hidden([row.ids for row in rows], Insert(soft=model.embed(ids)), at)
    torch.testing.assert_close(with_prefix, with_text, atol=1e-5, rtol=1e-5)


def test_no_hook_is_left_and_the_weights_stay():
    model = language_model("llama")
    path = next(iter(model.matrices))
    out, width = model.matrices[path]
    factors = Factors(torch.ones(1, width), torch.ones(out, 1))
    rows = rows_of(model)
    model.hidden([row.ids for row in rows], Insert(low_rank={path: (factors,)}), [[0]] * 4)
    with pytest.raises(IndexError):
        model.hidden([[10_000]], Insert(low_rank={path: (factors,)}), [[0]])
    for module in model.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    model.verify_frozen()
    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    assert model.usage().model_rows == 4


def test_zero_shot_scores_are_label_words_or_cosines():
    masked, encoder = language_model("masked"), language_model("bert")
    scores = masked.template_scores("review :", split(), CLASSES)
    two_parts = language_model("t5").template_scores("review :", split(), CLASSES)  # which answers at place 0
    assert two_parts.shape == scores.shape
    row = masked.writer.row(TextItem(TEXTS[0]), "review :")
    words = [masked.tokenizer.convert_tokens_to_ids(word) for word in ("terrible", "great")]
    torch.testing.assert_close(scores[0], plain_logits(masked, row)[words], atol=1e-5, rtol=1e-5)
    cosines = encoder.template_scores("review :", split(), CLASSES)
    text = encoder.hidden([encoder.writer.row(TextItem(TEXTS[1]), "review :").ids])
    label = encoder.hidden([encoder.tokenizer("a good review")["input_ids"]])
    torch.testing.assert_close(cosines[1, 1], 20 * F.cosine_similarity(text, label)[0], atol=1e-4, rtol=1e-4)


def test_a_long_text_is_cut_and_the_template_stays():
    model = language_model("masked")
    row = model.writer.row(TextItem("good " * 200), reserve=10)
    assert len(row.ids) == model.longest - 10 == 54
    assert row.cut == 200 + 5 - 54
    assert model.tokenizer.convert_ids_to_tokens(row.ids)[-4:] == ["it", "was", "[MASK]", "[SEP]"]
    assert row.ids[row.at] == model.tokenizer.mask_token_id
    with pytest.raises(ConfigError, match="leave no room for a text"):
        model.writer.row(TextItem("good"), prompt="the film " * 40)


def test_another_process_gets_the_same_model():
    model = language_model("llama")
    copy = pickle.loads(pickle.dumps(model))
    assert copy.fingerprint == model.fingerprint
    expected = model.template_scores("review :", split(), CLASSES)
    torch.testing.assert_close(copy.template_scores("review :", split(), CLASSES), expected, atol=0, rtol=0)


def test_label_words_that_begin_alike_are_refused():
    model = language_model("llama")
    model.writer.form = model.form.model_copy(update={"words": {"negative": "not good", "positive": "not bad"}})
    with pytest.raises(ConfigError, match="'not good' and 'not bad' begin with the same token") as error:
        model.label_ids(CLASSES)
    words = {"negative": "terrible", "positive": "great"}
    typed = re.search('--set "(.*)"', str(error.value))[1].replace(
        "CLASS: WORD, ...", "negative: terrible, positive: great"
    )
    assert parse_settings([typed]) == {"task_options": {"words": words}}
    called = in_python(str(error.value)).partition(" with task_options=")[2]
    assert ast.literal_eval(called.replace("CLASS: WORD, ...", str(words)[1:-1])) == {"words": words}
    model.writer.form = model.form.model_copy(update={"words": words})
    assert len(set(model.label_ids(CLASSES))) == 2


def test_an_image_is_no_text(tmp_path):
    from promptfed.examples.base import FileItem

    with pytest.raises(DataError, match="is not a text"):
        language_model("bert").writer.row(FileItem(tmp_path / "cat.png"))
