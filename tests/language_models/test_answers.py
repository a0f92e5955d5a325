"""Answers in free text: their likelihood against the plain way, what is written, and where a row is cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from promptfed.errors import ConfigError, DataError
from promptfed.examples.base import ANSWER_CLASSES, AnswerItem, TextItem
from promptfed.inserts.low_rank import LowRank
from promptfed.language_models import answers as answers_module
from promptfed.language_models.answers import token_losses
from promptfed.language_models.heads import build_head
from promptfed.language_models.insert import NO_INSERT, Insert
from promptfed.language_models.model import LanguageModel
from promptfed.prompt_template import PromptTemplate
from promptfed.scores import LOG_LIKELIHOOD, RIGHT, TOKEN_F1, WRONG

from ..tiny_language_models import CLASSES, language_model, tokenizer, transformer

FORM = PromptTemplate(template="{{ prompt }} {{ text }} say :", answer_tokens=4)
ITEMS = (
    AnswerItem("the movie was", "a", "very good"),
    AnswerItem("this film", "b", "is not bad but boring"),
    AnswerItem("the plot", "c", "great"),
)
CHAT = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}" + (
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def model_of(name: str = "llama", **form: Any) -> LanguageModel:
    return language_model(name, FORM.model_copy(update=form))


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_the_loss_is_that_of_the_answers_tokens_alone(name: str) -> None:
    model = model_of(name)
    soft = torch.randn(3, model.width, generator=torch.Generator().manual_seed(1)).requires_grad_()
    head = build_head("auto", model, ANSWER_CLASSES, reserve=3)
    loss, scores = head.loss({}, Insert(soft=soft), ITEMS, torch.ones(3, dtype=torch.int64))
    loss.backward()
    means = []
    for item in ITEMS:
        row = model.answers.rows.row(item)
        if name == "t5":
            vectors = torch.cat([soft, model.embed(row.question)])[None]
            ids = torch.tensor([[model.model.config.decoder_start_token_id, *row.answer[:-1]]])
            logits = model.model(inputs_embeds=vectors, decoder_input_ids=ids).logits[0]
        else:
            vectors = torch.cat([soft, model.embed([*row.question, *row.answer])])[None]
            logits = model.model(inputs_embeds=vectors).logits[0, len(soft) + len(row.question) - 1 : -1]
        means.append(F.cross_entropy(logits, torch.tensor(row.answer)))
    by_hand = torch.stack(means).mean()
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(-scores[:, LOG_LIKELIHOOD].float(), torch.stack(means).detach())
    assert soft.grad is not None
    torch.testing.assert_close(soft.grad, torch.autograd.grad(by_hand, soft)[0])


def test_parts_of_the_positions_give_the_same_loss_and_slopes() -> None:
    generator = torch.Generator().manual_seed(0)
    states, head = torch.randn(11, 8, generator=generator), torch.randn(20, 8, generator=generator)
    targets, weights = torch.arange(11) % 20, torch.rand(11, generator=generator)
    gradients = []
    for at_once in (20, 60, 10_000):  # one position, three, all
        leaf = states.clone().requires_grad_()
        losses, hits = token_losses(leaf, targets, lambda some: some @ head.T, at_once)
        (losses * weights).sum().backward()
        gradients.append(leaf.grad)
        assert torch.equal(hits, (states @ head.T).argmax(-1) == targets)
    leaf = states.clone().requires_grad_()
    (F.cross_entropy(leaf @ head.T, targets, reduction="none") * weights).sum().backward()
    for gradient in gradients:
        torch.testing.assert_close(gradient, leaf.grad)


@pytest.mark.parametrize("name", ["llama", "gemma", "t5"])
def test_what_is_written_is_what_transformers_generates(name: str) -> None:
    model = model_of(name)
    for item in ITEMS:
        row = model.answers.rows.row(item)
        ids = torch.tensor([row.question])
        made = model.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
                                    max_new_tokens=4, eos_token_id=3, pad_token_id=0)  # fmt: skip
        new = made[0, 1:] if name == "t5" else made[0, len(row.question) :]
        assert model.answers.write(NO_INSERT, [item]) == [model.tokens.said(new.tolist()).strip()]
    alone = [model.answers.write(NO_INSERT, [item])[0] for item in ITEMS]
    assert model.answers.write(NO_INSERT, ITEMS) == alone, "the same side by side"


@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2"])
def test_going_on_writes_what_reading_everything_again_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(name, answer_tokens=12)
    draw = torch.Generator().manual_seed(3)
    inserts = [NO_INSERT, Insert(soft=torch.randn(3, model.width, generator=draw))]
    kind = LowRank(model.matrices, model.default_targets, 0)
    changed = {key: torch.randn(tensor.shape, generator=draw) for key, tensor in kind.start("x").items()}
    inserts.append(kind.insert(changed))
    assert model.goes_on
    quick = [model.answers.write(insert, ITEMS, reserve=3) for insert in inserts]
    monkeypatch.setattr(LanguageModel, "goes_on", False)
    assert [model.answers.write(insert, ITEMS, reserve=3) for insert in inserts] == quick
    assert len({tuple(texts) for texts in quick}) > 1


def test_scores_of_answers_that_are_written_right_and_wrong() -> None:
    model = model_of()
    written = model.answers.write(NO_INSERT, ITEMS)
    items = (
        replace(ITEMS[0], answer=written[0].upper()),  # the same but for case
        replace(ITEMS[1], answer=f"{written[1]} {written[1]} good good good good good good good good"),
        replace(ITEMS[2], is_written=False),
    )
    scores = build_head("auto", model, ANSWER_CLASSES).scores({}, NO_INSERT, items, ANSWER_CLASSES)
    assert scores[:, RIGHT].tolist() == [1, 0, 0]
    assert scores[:, WRONG].tolist() == [0, 1, 1]
    assert scores[0, TOKEN_F1] == 1
    assert 0 < scores[1, TOKEN_F1] < 1
    assert bool((scores[:, LOG_LIKELIHOOD] < 0).all())
    assert scores.argmax(1).tolist() == [1, 0, 0]


def test_nothing_is_written_where_the_likelihood_says_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    (sure,) = (replace(item, is_written=False) for item in ITEMS[:1])
    monkeypatch.setattr(answers_module.Answers, "_write_batch", None)
    assert model.answers.scores(NO_INSERT, [sure], ANSWER_CLASSES)[0, RIGHT] == 0


def test_the_questions_end_is_cut_and_never_the_answer() -> None:
    model = model_of()
    long = AnswerItem("good " * 80, "long", "very bad")
    row = model.answers.rows.row(long, reserve=4)
    short = model.answers.rows.row(AnswerItem("good", "short", "very bad"))
    assert row.answer == short.answer
    assert len(row.question) + len(row.answer) == model.longest - 4
    assert row.question[-2:] == short.question[-2:], "the template's end stays"
    assert row.cut == 80 + len(short.question) - 1 - len(row.question)
    with pytest.raises(DataError, match="the answer of far has 71 tokens, and 'lm:llama' reads 64"):
        model.answers.rows.row(AnswerItem("good", "far", "bad " * 70))


def test_a_conversation_is_put_as_the_tokenizers_template_says() -> None:
    chat = tokenizer().__class__(tokenizer_object=tokenizer().backend_tokenizer, bos_token="[CLS]", eos_token="[SEP]")
    form = FORM.model_copy(update={"chat": True})
    model = LanguageModel("lm:llama", form, transformer("llama"), chat, "causal")
    turns = (("user", "the plot"), ("assistant", "great"), ("user", "the story"))
    item = AnswerItem("User: the plot ...", "x.jsonl:1", "very bad", turns=turns)
    with pytest.raises(ConfigError, match="the tokenizer of 'lm:llama' has no chat template"):
        model.answers.rows.row(item)
    chat.chat_template = CHAT
    messages = [{"role": role, "content": text} for role, text in (*turns, ("assistant", "very bad"))]
    whole = chat.apply_chat_template(messages, return_dict=True)["input_ids"]
    row = model.answers.rows.row(item)
    assert [*row.question, *row.answer] == whole
    assert row.answer[-1] == chat.eos_token_id
    assert row.answer[-1] in model.answers.rows.ends
    marked = replace(item, turns=(("user", "the [SEP] plot"),))
    assert model.answers.rows.row(marked).question.count(chat.eos_token_id) == 1, "a marker in a text is letters"
    chat.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match=r"refuses x.jsonl:1 \(.*roles must alternate"):
        model.answers.rows.row(replace(item, answer="new"))


def test_what_cannot_be() -> None:
    for name, why in (("bert", "an encoder model, which writes no answers"), ("masked", "a masked model")):
        with pytest.raises(ConfigError, match=why):
            _ = model_of(name).answers
    with pytest.raises(ConfigError, match="these data have classes"):
        build_head("completion", model_of(), CLASSES)
    with pytest.raises(ConfigError, match="these data have answers in free text"):
        build_head("linear", model_of(), ANSWER_CLASSES)
    with pytest.raises(DataError, match="has no answer"):
        model_of().answers.rows.row(TextItem("good"))


def test_a_low_rank_change_learns_to_write() -> None:
    model = model_of()
    kind = LowRank(model.matrices, model.default_targets, 0)
    values = {name: tensor.clone().requires_grad_() for name, tensor in kind.start("x").items()}
    head = build_head("auto", model, ANSWER_CLASSES)
    optimizer = torch.optim.Adam(values.values(), 0.02)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss, _ = head.loss(values, kind.insert(values), ITEMS, torch.ones(3, dtype=torch.int64))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3
    assert len(model.model.model.layers[0].self_attn.q_proj._forward_hooks) == 0
