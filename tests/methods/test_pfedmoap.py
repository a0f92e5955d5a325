from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.base import build_aggregator
from promptfed.aggregators.mean import Mean
from promptfed.class_sample import draw_classes
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.federation import Federation
from promptfed.methods import pfedmoap
from promptfed.methods.pfedmoap import ExpertPool, PFedMoAP, PFedMoAPConfig
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.prompt_state import PromptState
from promptfed.seeding import torch_stream
from promptfed.types import NO_PROMPT, Broadcast, Update

NAMES = ("red", "pink", "cyan")


def federation(setup, task, participation=1.0, aggregator="mean", **options):
    method = PFedMoAP(PFedMoAPConfig(**{"n_ctx": 4, **options}), setup)
    engine = LocalEngine(ClientWorker(method, task))
    return Federation(method, build_aggregator(aggregator, {}), engine, range(3), participation)


def update(client, *values):
    return Update(client, PromptState({"ctx": torch.tensor([values])}), 1, 0.0, 0.0)


def pooled(*updates, experts):
    pool, shared = ExpertPool(Mean(Mean.Config()), experts), PromptState({"ctx": torch.zeros(1, 2)})
    return pool, *pool.apply(shared, updates, pool.init(shared))


def test_experts_are_the_nearest_others_and_never_ones_own():
    where = {0: (0.0, 0.0), 1: (5.0, 0.0), 2: (0.0, 1.0), 3: (0.0, 3.0), 4: (5.0, 0.5), 11: (9.0, 9.0)}
    pool, shared, server = pooled(*(update(k, *at) for k, at in where.items()), experts=2)
    by_hand = {0: (2, 3), 1: (4, 0), 2: (0, 3), 3: (2, 0), 4: (1, 0), 11: (4, 1)}
    for client, nearest in by_hand.items():
        sent = pool.broadcast(shared, server, client)
        assert list(sent) == ["ctx", "expert/000", "expert/001"]
        assert [tuple(sent[f"expert/{rank:03d}"][0].tolist()) for rank in (0, 1)] == [where[k] for k in nearest]
        assert torch.equal(sent["ctx"], shared["ctx"])


def test_fewer_others_than_experts_are_all_sent_and_strangers_get_none():
    pool, shared, server = pooled(update(0, 0.0, 0.0), update(3, 1.0, 1.0), experts=9)
    assert list(pool.broadcast(shared, server, 0)) == ["ctx", "expert/000"]
    assert pool.broadcast(shared, server, 1) == shared
    assert pool.broadcast(shared, server, None) == shared


def test_who_skips_a_round_stays_in_the_pool_with_its_last_prompt():
    pool, shared, server = pooled(update(0, 0.0, 0.0), update(1, 1.0, 1.0), experts=9)
    shared, server = pool.apply(shared, [update(0, 7.0, 7.0)], server)
    assert pool.broadcast(shared, server, 1)["expert/000"].tolist() == [[7.0, 7.0]]
    assert pool.broadcast(shared, server, 0)["expert/000"].tolist() == [[1.0, 1.0]]
    assert shared["ctx"].tolist() == [[7.0, 7.0]], "the mean is over those who took part"


def test_the_chosen_aggregator_still_merges_and_keeps_its_memory(setup, toy_task):
    fed, plain = (
        federation(setup, toy_task, aggregator="fedavgm"),
        Federation(
            PromptFL(PromptFLConfig(n_ctx=4), setup),
            build_aggregator("fedavgm", {}),
            LocalEngine(ClientWorker(PromptFL(PromptFLConfig(n_ctx=4), setup), toy_task)),
            range(3),
        ),
    )
    ours, _ = fed.run_round(fed.start())
    theirs, _ = plain.run_round(plain.start())
    assert ours.shared == theirs.shared, "the first round is PromptFL's"
    assert {name.removeprefix("inner/") for name in ours.server if name.startswith("inner/")} == set(theirs.server)


def test_first_participation_is_plain_tuning_without_a_gate(setup, toy_task):
    fed = federation(setup, toy_task)
    _, replies = fed.run_round(fed.start())
    plain = PromptFL(PromptFLConfig(n_ctx=4), setup)
    for reply, data in zip(replies, toy_task.clients, strict=True):
        alone, _ = plain.train(Broadcast(1, plain.init_shared()), data, NO_PROMPT)
        assert reply.update.shared == alone.shared
        assert list(reply.personal) == ["local"]


def test_later_rounds_train_prompt_and_gate_and_send_the_prompt_only(setup, toy_task):
    fed = federation(setup, toy_task, lr=0.05)
    state, _ = fed.run_round(fed.start())
    state, replies = fed.run_round(state)
    untrained = fed.method.gate.start("identity", torch.Generator())
    for reply in replies:
        assert not reply.failure
        assert list(reply.update.shared) == ["ctx"]
        assert torch.equal(reply.personal["local"], reply.update.shared["ctx"])
        assert set(reply.personal) == {"local", *untrained}
        assert reply.personal["gate.value.weight"].sub(untrained["gate.value.weight"]).abs().max() > 1e-4
    gates = [state.personal[k]["gate.output.weight"] for k in range(3)]
    assert not torch.equal(gates[0], gates[1])
    third, _ = fed.run_round(state)
    moved = third.personal[2]["gate.output.weight"] - state.personal[2]["gate.output.weight"]
    assert moved.abs().max() < 0.1, "the gate goes on from where it was"


def test_the_gates_learning_rate_is_a_factor_of_the_prompts(setup, toy_task):
    """Adam's first step is the rate itself, whatever the gradient."""
    fed = federation(setup, toy_task, lr=0.01, gate_lr=0.3, schedule="constant", local_epochs=1, batch_size=100)
    state, _ = fed.run_round(fed.start())
    data, sent = toy_task.clients[2], fed.prompt(state, 2)
    before = fed.method.problem(Broadcast(2, sent.shared), data, sent.personal).start
    update, kept = fed.method.train(Broadcast(2, sent.shared), data, sent.personal)
    assert (update.shared["ctx"] - before["ctx"]).abs().max().item() == pytest.approx(0.01, rel=1e-3)
    gate = "gate.output.weight"
    assert (kept[gate] - before[gate]).abs().max().item() == pytest.approx(0.003, rel=1e-3)


def test_experts_are_encoded_once_a_round(setup, toy_task):
    fed = federation(setup, toy_task, local_epochs=3, batch_size=100)
    state, _ = fed.run_round(fed.start())
    _, replies = fed.run_round(state)
    assert [reply.usage.text_encoder_calls for reply in replies] == [2 * 4 + 3 * 4] * 3, (
        "two experts once, own prompt 3 x"
    )


def test_a_sample_of_classes_picks_the_same_ones_of_the_experts(setup, toy_task):
    """The loss is that of all classes, with others left out, and the drawn one counted as often as it stands for."""
    fed = federation(setup, toy_task)
    state, _ = fed.run_round(fed.start())
    prompt, data, rows = fed.prompt(state, 0), toy_task.clients[0], torch.arange(3)
    problem = fed.method.problem(Broadcast(2, prompt.shared), data, prompt.personal)
    parameters = dict(problem.start)
    [text] = problem.texts(parameters)
    sample = draw_classes(data.train.labels, 4, 1, torch_stream(0, "draw"))
    [every], [some] = (setup.backbone.encode_prompted_texts([t]) for t in (text, text.select(sample.columns)))
    _, logits = problem.loss(parameters, [every], rows)
    loss, _ = problem.loss(parameters, [some], rows, sample)
    expected = F.cross_entropy(logits[:, sample.columns] + sample.correction, sample.positions(data.train.labels[rows]))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_score_by_hand(setup, toy_task):
    """One head of width 3, the toy's: s (cos(I, mix) + lambda cos(I, T))."""
    fed = federation(setup, toy_task, local_weight=0.7)
    state, _ = fed.run_round(fed.start())
    state, _ = fed.run_round(state)
    prompt, method = fed.prompt(state, 1), fed.method
    found = method.logits(prompt.shared, prompt.personal, NAMES, toy_task.new_test)
    images = F.normalize(setup.features.images(toy_task.new_test), dim=-1)
    contexts = [prompt.personal["local"], prompt.shared["expert/000"], prompt.shared["expert/001"]]
    texts = torch.stack([method.tuner.class_features(PromptState({"ctx": ctx}), NAMES) for ctx in contexts])
    gate = {name.removeprefix("gate."): tensor for name, tensor in prompt.personal.items()}

    def project(part, given):
        return gate[f"{part}.weight"] @ given + gate[f"{part}.bias"]

    for i, image in enumerate(images):
        for c in range(3):
            scores = torch.stack([10.0 * project("query", image) @ project("key", t) for t in texts[:, c]])
            mix = sum(w * project("value", t) for w, t in zip(scores.softmax(0), texts[:, c], strict=True))
            cosine = F.cosine_similarity(image, project("output", mix), dim=0)
            by_hand = 10.0 * (cosine + 0.7 * image @ texts[0, c])
            assert found[i, c].item() == pytest.approx(by_hand.item(), abs=1e-4)


def test_somebody_new_has_the_mean_prompt_alone(setup, toy_task):
    fed = federation(setup, toy_task)
    state, _ = fed.run_round(fed.start())
    state, _ = fed.run_round(state)
    prompt = fed.prompt(state, None)
    found = fed.method.logits(prompt.shared, prompt.personal, NAMES, toy_task.new_test)
    plain = PromptFL(PromptFLConfig(n_ctx=4), setup).logits(state.shared, NO_PROMPT, NAMES, toy_task.new_test)
    assert torch.equal(found, plain)
    sent = fed.prompt(state, 1).shared
    assert torch.equal(found, fed.method.logits(sent, NO_PROMPT, NAMES, toy_task.new_test)), "experts need a gate"


def test_chunks_do_not_change_scores(setup, toy_task, monkeypatch):
    fed = federation(setup, toy_task)
    state, _ = fed.run_round(fed.start())
    state, _ = fed.run_round(state)
    prompt = fed.prompt(state, 0)
    whole = fed.method.logits(prompt.shared, prompt.personal, NAMES, toy_task.base_test)
    monkeypatch.setattr(pfedmoap, "CHUNK", 20)
    chunked = fed.method.logits(prompt.shared, prompt.personal, NAMES, toy_task.base_test)
    assert torch.allclose(whole, chunked, atol=1e-5)


def test_clients_side_by_side_end_where_each_would_alone(setup, toy_task):
    fed = federation(setup, toy_task)
    state, _ = fed.run_round(fed.start())
    jobs = []
    for data in toy_task.clients[1:]:
        prompt = fed.prompt(state, data.client)
        jobs.append((Broadcast(2, prompt.shared), data, prompt.personal))
    for (update, personal), job in zip(fed.method.train_many(jobs), jobs, strict=True):
        alone, own = fed.method.train(*job)
        assert torch.allclose(update.shared["ctx"], alone.shared["ctx"], atol=1e-5)
        assert all(torch.allclose(personal[name], own[name], atol=1e-5) for name in own)


def test_server_memory_survives_a_trip_through_a_checkpoint(setup, toy_task):
    fed = federation(setup, toy_task, aggregator="fedavgm")
    state, _ = fed.run_round(fed.start())
    back = PromptState.from_bytes(state.server.to_bytes())
    assert all(fed.server.broadcast(state.shared, back, k) == fed.prompt(state, k).shared for k in range(3))
