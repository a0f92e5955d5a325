"""FeS around FedPrompt on a tiny random encoder: what clients label, what stays with them, what the loss is."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from promptfed.aggregators.mean import Mean
from promptfed.agreement import Agreement
from promptfed.config import validate
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError
from promptfed.examples.base import TextItem
from promptfed.federation import Federation
from promptfed.language_models.model import LanguageModel
from promptfed.method import METHODS, Method
from promptfed.methods.fedprompt import FedPrompt
from promptfed.methods.fes import FeS
from promptfed.methods.fes.options import FeSConfig
from promptfed.methods.fes.pseudo_labels import PseudoLabels, remembered, with_pseudo_labels
from promptfed.processors.client_state import MEMORY
from promptfed.prompt_state import PromptState
from promptfed.prompt_template import PromptTemplate
from promptfed.prompts.language_method import LanguageMethod
from promptfed.setup import Setup
from promptfed.tasks.few_labels import with_few_labels
from promptfed.types import NO_PROMPT, Broadcast, ClientData, FederatedTask, FederationState, Split

CLASSES = ("w1 w2", "w50 w51", "w90")
OPTIONS = {"n_tokens": 2, "k": 50, "lr": 0.05, "local_epochs": 1}


@cache
def model() -> LanguageModel:
    """A random encoder of 100 words, which also stands for the one that finds representative texts."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, **{f"w{k}": k for k in range(4, 100)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=40,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bert = BertModel(
            BertConfig(
                vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                max_position_embeddings=64,
            ),
            add_pooling_layer=False,
        )  # fmt: skip
    return LanguageModel("lm:minilm", PromptTemplate(), bert.eval(), fast, "encoder")


def split(name: str, count: int) -> Split:
    labels = [k % 3 for k in range(count)]
    return Split(
        tuple(TextItem(f"w{4 + 30 * c + k % 25} w{5 + (7 * k) % 90}", f"{name} {k}") for k, c in enumerate(labels)),
        torch.tensor(labels),
    )


def task(labels: int | None = 7) -> FederatedTask:
    clients = tuple(
        ClientData(k, f"client {k}", (0, 1, 2), split(f"train {k}", 18), split("val", 3), split("test", 3))
        for k in range(2)
    )
    whole = FederatedTask("t", CLASSES, (), clients, split("base", 6), split("new", 0), ("",))
    return with_few_labels(whole, labels, seed=0)


def build(kind: str = "fes", rounds: int = 5, **options: Any) -> Any:
    options = {**OPTIONS, **options} if kind == "fes" else options
    setup = Setup(model(), Agreement(classes=CLASSES, templates=("",), rounds=rounds, seed=0))
    return METHODS[kind](validate(METHODS[kind].Config, options, "method option"), setup)


def federation(method: Method) -> Federation:
    return Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, task())), range(2))


def after(federation: Federation, state: FederationState, rounds: int) -> FederationState:
    for _ in range(rounds):
        state, replies = federation.run_round(state)
        assert not any(reply.failure for reply in replies)
    return state


def test_round_one_is_that_of_the_method_inside() -> None:
    fes, plain = build(), build("fedprompt", n_tokens=2, lr=0.05, local_epochs=1)
    data, broadcast = task().clients[0], Broadcast(1, plain.init_shared())
    assert fes.init_shared() == plain.init_shared()
    update, personal = fes.train(broadcast, data, NO_PROMPT)
    assert update.shared == plain.train(broadcast, data, NO_PROMPT)[0].shared
    assert update.samples == len(data.train)
    assert all(name.startswith(MEMORY) for name in personal)


def test_round_two_trains_on_the_most_confident_guesses_of_the_prompt_that_was_sent() -> None:
    fes, data = build(filter="none", balanced=False), task().clients[0]
    broadcast = Broadcast(2, fes.init_shared())
    update, personal = fes.train(broadcast, data, NO_PROMPT)
    pseudo = remembered(personal)
    assert pseudo is not None
    count = len(data.unlabelled) * 50 // 100
    probabilities = fes.inner.logits(broadcast.shared, NO_PROMPT, CLASSES, data.unlabelled).softmax(-1)
    best = probabilities.max(-1).values.sort(descending=True, stable=True).indices[:count]
    assert pseudo.rows.tolist() == best.tolist()
    assert torch.equal(pseudo.labels, probabilities.argmax(-1)[best])
    assert update.samples == len(data.train) + count
    items = (*data.train.items, *(data.unlabelled.items[row] for row in best))
    supervised = Split(items, torch.cat([data.train.labels, pseudo.labels]))
    plain = build("fedprompt", n_tokens=2, lr=0.05, local_epochs=1)
    assert update.shared == plain.train(broadcast, replace(data, train=supervised), NO_PROMPT)[0].shared
    assert set(update.shared) == set(broadcast.shared), "nothing of the guesses is sent"
    even = remembered(build(filter="none").train(broadcast, data, NO_PROMPT)[1])
    assert even is not None
    assert max(even.labels.bincount(minlength=3).tolist()) <= math.ceil(count / 3)


def test_guesses_never_depend_on_the_true_labels() -> None:
    fes, data = build(), task().clients[0]
    broadcast = Broadcast(2, fes.init_shared())
    others = replace(data, true_labels=(data.true_labels + 1) % 3)
    for nobody in (others, replace(data, true_labels=data.true_labels[:0])):
        assert fes.train(broadcast, data, NO_PROMPT)[0].shared == fes.train(broadcast, nobody, NO_PROMPT)[0].shared


def test_one_hot_distributions_are_supervised_training_and_the_own_output_has_no_gradient() -> None:
    fes, data = build(labels="soft"), task().clients[0]
    values, rows = fes.init_shared(), torch.arange(4)
    scores = fes.inner.scores_with(values, CLASSES, data.unlabelled)
    hard = scores.argmax(-1)

    def gradient(split: Split) -> tuple[float, torch.Tensor]:
        problem = fes.inner.objective(values, split)
        parameters = {name: tensor.clone().requires_grad_(True) for name, tensor in problem.start.items()}
        loss, _ = problem.loss(parameters, (), rows)
        loss.backward()
        return loss.item(), parameters["prompt_embeddings"].grad

    items = data.unlabelled.items
    loss, exact = gradient(Split(items, hard))
    one_hot_loss, one_hot = gradient(Split(items, hard, torch.nn.functional.one_hot(hard, 3).float()))
    assert loss == pytest.approx(one_hot_loss, abs=1e-6)
    assert torch.allclose(exact, one_hot, atol=1e-6)
    assert exact.norm() > 1e-3
    _, own = gradient(Split(items, hard, scores.softmax(-1)))
    assert own.norm() < 1e-5 * exact.norm()


def test_soft_labels_stand_beside_known_ones() -> None:
    data = task().clients[0]
    targets = torch.tensor([[0.2, 0.5, 0.3]])
    rich = with_pseudo_labels(data, PseudoLabels(2, torch.tensor([3]), torch.tensor([1]), targets), 3)
    assert rich.train.items == (*data.train.items, data.unlabelled.items[3])
    assert rich.train.labels.tolist() == [*data.train.labels.tolist(), 1]
    assert rich.train.targets is not None
    assert rich.train.targets[:-1].argmax(-1).tolist() == data.train.labels.tolist()
    assert rich.train.targets.sum(-1).tolist() == pytest.approx([1.0] * len(rich.train))
    assert torch.equal(rich.train.targets[-1:], targets)


@pytest.mark.parametrize("options", [{"every": 2}, {"labels": "soft", "filter": "sort"}])
def test_a_run_goes_on_with_the_same_bits(options: dict[str, Any]) -> None:
    whole = federation(build(**options))
    end = after(whole, whole.start(), 4)
    again = federation(build(**options))
    state = after(again, again.start(), 2)
    kept = {client: PromptState.from_bytes(state.personal[client].to_bytes()) for client in range(2)}
    resumed = federation(build(**options))
    state = after(resumed, resumed.resumed(replace(state, personal=kept)), 2)
    assert state.shared == end.shared
    assert all(state.personal[client] == end.personal[client] for client in range(2))
    assert not end.personal[0].mismatch(state.personal[0])


def test_clients_label_every_so_many_rounds_and_deploy_the_shared_prompt_alone() -> None:
    running = federation(build(every=3))
    state, rounds = running.start(), []
    for _ in range(5):
        state = after(running, state, 1)
        pseudo = remembered(state.personal[1])
        assert pseudo is not None
        rounds.append((pseudo.round, len(pseudo.rows) > 0))
    assert rounds == [(1, False), (1, False), (1, False), (4, True), (4, True)]
    assert not running.prompt(state, 1).is_personal


def test_options_of_the_method_inside_are_options_of_fes() -> None:
    fes = build(n_tokens=3)
    assert isinstance(fes, FeS)
    assert isinstance(fes.inner, FedPrompt)
    assert fes.inner.config.n_tokens == 3
    assert fes.config.model_dump()["schedule"] == fes.inner.config.schedule
    assert FeSConfig.option_names({}) >= {"inner", "curve", "n_tokens", "lr"}, "compare passes these on"
    assert "ctx" not in FeSConfig.option_names({"inner": "fedprompt"})
    with pytest.raises(ConfigError, match=r"n_token'.*did you mean 'n_tokens'"):
        build(n_token=3)
    with pytest.raises(ConfigError, match=r"'inner' is 'promptfl', which fes does not wrap: use one of .*fedprompt"):
        build(inner="promptfl")
    with pytest.raises(ConfigError, match="'inner' is 'fes', which"):
        build(inner="fes")


def test_what_cannot_label_anything_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no client holds an unlabelled text.*task.labels"):
        build().check_feasible(task(None).clients)
    with pytest.raises(ConfigError, match="labels no text in 1 rounds"):
        build(rounds=1).check_feasible(task().clients)
    with pytest.raises(ConfigError, match="labels no text in 2 rounds"):
        build(rounds=2, k=1).check_feasible(task().clients)
    build().check_feasible(task().clients)


def test_soft_labels_need_a_loss_that_is_cross_entropy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        FedPrompt, "objective", lambda self, *rest: LanguageMethod.objective(self, *rest), raising=False
    )
    with pytest.raises(ConfigError, match="labels=soft needs a loss"):
        build(labels="soft")
