"""A language model behind an oracle says what its own plain forward pass says, however it is asked."""

from __future__ import annotations

import pytest
import torch

from promptfed.blackbox.oracles.base import DIGITS
from promptfed.blackbox.oracles.budget import Budget
from promptfed.blackbox.oracles.local.language_model import load
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import Candidate, ProposalQuery, TextQuery
from promptfed.config import build_config
from promptfed.errors import BackboneError, ConfigError, OracleError
from promptfed.examples.base import TextItem
from promptfed.oracle_options import OracleOptions
from promptfed.resolve import resolve

LABELS = ("positive", "negative")
TEXTS = ("the movie was great", "a boring film and a terrible plot but very good actors", "it is bad", "wonderful")
CAUSAL = ("gpt2", "llama", "gemma")
ALL = (*CAUSAL, "bert")


def plain(backend, text: str) -> torch.Tensor:
    """Log-probabilities of the next word by the model's own forward pass over token ids."""
    ids = backend.tokens.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = backend.model(input_ids=ids["input_ids"]).logits[0]
    place = -1
    if backend.masked:
        place = ids["input_ids"][0].tolist().index(backend.tokens.tokenizer.mask_token_id)
    return logits[place].log_softmax(-1)


def word_id(backend, word: str) -> int:
    space = "" if backend.masked else " "
    return backend.tokens.tokenizer(space + word, add_special_tokens=False)["input_ids"][0]


@pytest.mark.parametrize("kind", ALL)
def test_scores_are_the_models_log_probabilities(kind, tiny_model, ask):
    backend = tiny_model(kind)
    with torch.no_grad():
        found = backend.scores([ask(TEXTS[0], LABELS, "this review says")])
    end = " [MASK]" if kind == "bert" else ""
    expected = plain(backend, f"this review says {TEXTS[0]} sentiment :{end}")
    wanted = torch.stack([expected[word_id(backend, word)] for word in LABELS])
    torch.testing.assert_close(found[0], wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ALL)
def test_a_batch_of_mixed_lengths_scores_as_one_by_one(kind, tiny_model, ask):
    backend = tiny_model(kind)
    queries = [ask(text, LABELS, prompt) for text in TEXTS for prompt in ("", "the review", torch.ones(3, 32))]
    with torch.no_grad():
        together = backend.scores(queries)
        alone = torch.cat([backend.scores([query]) for query in queries])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    assert together.std() > 0.1


@pytest.mark.parametrize("template", ["{{ prompt }} {{ text }} sentiment :", "review : {{ prompt }} {{ text }} it is"])
@pytest.mark.parametrize("kind", ALL)
def test_a_soft_prompt_of_word_embeddings_is_the_text_prompt(kind, template, tiny_model, ask):
    backend = tiny_model(kind, template)
    words = "what the story says"
    lead = "" if kind == "bert" or template.startswith("{{") else " "
    vectors = backend.embedded(backend.tokens.tokenizer(lead + words, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        soft, text = (backend.scores([ask(TEXTS[1], LABELS, prompt)]) for prompt in (vectors, words))
    torch.testing.assert_close(soft, text, atol=1e-5, rtol=0)


def test_gemma_soft_prompts_live_where_its_scaled_embeddings_do(tiny_model):
    backend = tiny_model("gemma")
    table = backend.model.get_input_embeddings().weight
    ids = list(backend.tokens.words(5).values())
    torch.testing.assert_close(backend.soft.words[:5], table[ids] * 32**0.5)
    assert backend.soft.std == pytest.approx(table.std().item() * 32**0.5, rel=1e-3)


@pytest.mark.parametrize("kind", CAUSAL)
def test_labels_that_begin_alike_are_scored_whole(kind, tiny_model, ask):
    backend = tiny_model(kind, good="it was good", bad="it was bad")
    with torch.no_grad():
        found = backend.scores([ask(TEXTS[0], ("good", "bad")), ask(TEXTS[3], ("good", "bad"))])
    for row, text in zip(found, (TEXTS[0], TEXTS[3]), strict=True):
        for score, word in zip(row, ("good", "bad"), strict=True):
            so_far, expected = f"{text} sentiment :", 0.0
            for token in backend.tokens.tokenizer(f" it was {word}", add_special_tokens=False)["input_ids"]:
                expected += plain(backend, so_far)[token].item()
                so_far += backend.tokens.tokenizer.decode([token])
            assert score.item() == pytest.approx(expected, abs=1e-4)


def test_the_log_says_how_labels_are_scored(tiny_model, ask, caplog):
    with caplog.at_level("INFO"):
        tiny_model("gpt2").scores([ask("a", LABELS)])
        tiny_model("gpt2", good="it was good", bad="it was bad").scores([ask("a", ("good", "bad"))])
    assert "first token" in caplog.messages[0]
    assert "all tokens" in caplog.messages[1]


def test_labels_that_cannot_be_told_apart_are_refused(tiny_model, ask):
    with pytest.raises(ConfigError, match=r"task\.words"):
        tiny_model("bert", good="it was good", bad="it was bad").scores([ask("a", ("good", "bad"))])
    with pytest.raises(ConfigError, match="good"):
        tiny_model("gpt2", one="good", two="good").scores([ask("a", ("one", "two"))])
    with pytest.raises(ConfigError, match="empty"):
        tiny_model("gpt2", "{{ prompt }} {{ text }}\n", one="good", two="").scores([ask("a", ("one", "two"))])


def test_the_word_behind_a_new_line_has_no_space(tiny_model, ask):
    backend = tiny_model("gpt2", "{{ prompt }} {{ text }}\n")
    found = backend.scores([ask("the film", ("the", "what"))])
    expected = plain(backend, "the film\n")
    ids = [backend.tokens.tokenizer(word)["input_ids"][0] for word in ("the", "what")]
    torch.testing.assert_close(found[0], expected[ids], atol=1e-5, rtol=0)


def test_a_mask_in_the_middle_of_the_template(tiny_model, ask):
    backend = tiny_model("bert", "{{ prompt }} it is {{ mask }} . {{ text }}")
    found = backend.scores([ask(TEXTS[1], LABELS, "this")])
    expected = plain(backend, f"this it is [MASK] . {TEXTS[1]}")
    torch.testing.assert_close(found[0], expected[[word_id(backend, word) for word in LABELS]], atol=1e-5, rtol=0)


def test_a_mask_is_for_masked_models(tiny_model):
    with pytest.raises(ConfigError, match="mask"):
        tiny_model("gpt2", "{{ prompt }} {{ text }} {{ mask }}")


def test_markers_in_a_text_are_letters(tiny_model, ask):
    backend = tiny_model("bert")
    found = backend.scores([ask("a [MASK]\x01 film\x00", LABELS, "\x00")])
    ids = [2, *backend.tokens.start("a [ mask ] film sentiment :"), 4, 3]
    with torch.no_grad():
        expected = backend.model(input_ids=torch.tensor([ids])).logits[0, -2].log_softmax(-1)
    torch.testing.assert_close(found[0], expected[[word_id(backend, word) for word in LABELS]], atol=1e-5, rtol=0)
    assert backend.tokens.tokenizer.eos_token_id not in tiny_model("gpt2").tokens.start("<eos>")


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_long_text_loses_its_end_and_nothing_else(kind, tiny_model, ask):
    backend = tiny_model(kind, "{{ prompt }} {{ text }} sentiment :")
    words = ["the", "a"] * 100
    soft = torch.ones(5, 32)
    long, cut = ask(" ".join(words), LABELS, soft), None
    room = 64 - 5 - len(backend.tokens.following(" sentiment :")) - (3 if kind == "bert" else 0)
    cut = ask(" ".join(words[:room]), LABELS, soft)
    assert len(backend._row(long, 0)) == 64
    torch.testing.assert_close(backend.scores([long]), backend.scores([cut]), atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="no room"):
        backend.scores([ask("the", LABELS, torch.ones(70, 32))])


@pytest.mark.parametrize("kind", CAUSAL)
def test_greedy_text_is_the_chain_of_likeliest_tokens(kind, tiny_model):
    backend = tiny_model(kind)
    texts = [TEXTS[0], TEXTS[1], "the"]
    queries = [TextQuery(text, 5) for text in texts]
    answers = dict(backend.answer(queries, Budget()))
    for k, text in enumerate(texts):
        ids = list(backend.tokens.tokenizer(text)["input_ids"])
        made: list[int] = []
        while len(made) < 5:
            with torch.no_grad():
                best = backend.model(input_ids=torch.tensor([ids + made])).logits[0, -1].argmax().item()
            if best == backend.tokens.tokenizer.eos_token_id:
                break
            made.append(best)
        assert answers[k].text == backend.tokens.said(made)
        assert answers[k].completion_tokens == len(made)


def test_drawn_text_depends_on_the_request_alone(tiny_model):
    backend = tiny_model("llama")
    queries = [TextQuery(text, 8, 1.0, sample) for text in TEXTS for sample in (0, 1)]
    before = torch.get_rng_state()
    together = dict(backend.answer(queries, Budget()))
    for k, query in enumerate(queries):
        [(_, alone)] = backend.answer([query], Budget())
        assert alone.text == together[k].text
    assert len({answer.text for answer in together.values()}) == len(queries)
    assert torch.equal(before, torch.get_rng_state())


def test_draws_follow_the_softmax(tiny_model):
    backend = tiny_model("llama")
    backend.rows = 500
    answers = dict(backend.answer([TextQuery("the movie", 1, 0.5, k) for k in range(500)], Budget()))
    probabilities = (plain(backend, "the movie") / 0.5).softmax(-1)
    best = int(probabilities.argmax())
    share = sum(answer.text == backend.tokens.said([best]) for answer in answers.values()) / 500
    expected = probabilities[best].item()
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 500) ** 0.5 + 1e-3


def test_text_ends_before_a_stop_string(tiny_model):
    backend = tiny_model("gpt2")
    [(_, whole)] = backend.answer([TextQuery("the movie", 12)], Budget())
    mark = whole.text[3:5]
    [(_, stopped)] = backend.answer([TextQuery("the movie", 12, stop=(mark,))], Budget())
    assert stopped.text == whole.text[: whole.text.index(mark)]
    assert stopped.completion_tokens < whole.completion_tokens


def test_a_masked_model_does_not_write(tiny_model):
    with pytest.raises(OracleError, match="write"):
        list(tiny_model("bert").answer([TextQuery("the", 3)], Budget()))


@pytest.mark.parametrize("kind", ["gemma", "bert"])
def test_proposals_are_the_likeliest_words(kind, tiny_model):
    backend = tiny_model(kind)
    query = ProposalQuery("the movie was", "and very good", 4)
    [(_, answer)] = backend.answer([query], Budget())
    end = " [MASK] and very good" if kind == "bert" else ""
    ranked = plain(backend, f"the movie was{end}").sort(descending=True).indices.tolist()
    names = backend.tokens.tokenizer.convert_ids_to_tokens(ranked)
    mark = "▁" if kind == "gemma" else ""
    words = [name.removeprefix(mark) for name in names if name.startswith(mark)]
    assert answer.tokens == tuple([word for word in words if word.isalpha() and len(word) > 1][:4])


@pytest.mark.parametrize("kind", ALL)
def test_proposals_for_an_empty_text(kind, tiny_model):
    [(_, answer)] = tiny_model(kind).answer([ProposalQuery("", "", 3)], Budget())
    assert len(answer.tokens) == 3


@pytest.mark.parametrize("kind", ALL)
def test_the_head_sees_one_position_of_each_row(kind, tiny_model, ask):
    backend, shapes = tiny_model(kind), []
    head = backend.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda module, given: shapes.append(tuple(given[0].shape)))
    backend.scores([ask(text, LABELS) for text in TEXTS])
    assert shapes == [(len(TEXTS), 1, 32)]


def test_calls_are_counted_and_answers_rounded(tiny_model):
    oracle = Oracle(tiny_model("gpt2"))
    items = [TextItem(text) for text in TEXTS]
    oracle.score([Candidate(), Candidate(soft=torch.zeros(2, 32))], items, LABELS)
    found = oracle.score([Candidate()], items, LABELS)
    assert oracle.usage().oracle_calls == 8
    assert oracle.usage().oracle_cache_hits == 4
    assert torch.equal(found.double().round(decimals=DIGITS).float(), found)


def test_a_changed_weight_is_noticed(tiny_model):
    backend = tiny_model("gpt2")
    backend.verify_frozen()
    backend.model.transformer.ln_f.bias[0] += 1e-3
    with pytest.raises(BackboneError, match="changed"):
        backend.verify_frozen()


def test_the_fingerprint_is_that_of_model_and_form(tiny_model):
    one, same, other = tiny_model("gpt2"), tiny_model("gpt2"), tiny_model("gpt2", "{{ prompt }} {{ text }}")
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.fingerprint != tiny_model("llama").fingerprint


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_saved_folder_loads(kind, precision, tiny_model, ask, tmp_path):
    backend = tiny_model(kind)
    backend.model.save_pretrained(tmp_path)
    backend.tokens.tokenizer.save_pretrained(tmp_path)
    loaded = load(backend.form, str(tmp_path), OracleOptions(rows=16), "cpu", precision)
    assert loaded.masked == (kind == "bert")
    assert loaded.rows == 16
    with torch.no_grad():
        found, expected = (model.scores([ask(TEXTS[0], LABELS, "the")]) for model in (loaded, backend))
    torch.testing.assert_close(found, expected, atol=1e-5 if precision == "float32" else 0.5, rtol=0)


def test_a_run_finds_its_folder_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    for given, kept in (("local:model", f"local:{tmp_path}/model"), ("local:some/name", "local:some/name")):
        assert resolve(build_config({"task": "blackbox-text", "oracle": given})).oracle == kept


def test_what_is_no_language_model_is_refused(tiny_model, tmp_path):
    form, options = tiny_model("bert").form, OracleOptions()
    with pytest.raises(BackboneError, match="not a folder"):
        load(form, str(tmp_path / "absent"), options, "cpu", "float32")
    with pytest.raises(BackboneError, match=r"save_pretrained"):
        load(form, str(tmp_path), options, "cpu", "float32")
    with pytest.raises(BackboneError, match="HF_HUB_OFFLINE"):
        load(form, "nobody/no-such-model", options, "cpu", "float32")
    backend = tiny_model("bert")
    backend.model.bert.save_pretrained(tmp_path)
    backend.tokens.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="no whole language model"):
        load(form, str(tmp_path), options, "cpu", "float32")
