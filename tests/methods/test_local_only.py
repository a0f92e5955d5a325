from __future__ import annotations

from promptfed.aggregators.mean import Mean
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.federation import Federation
from promptfed.methods.local_only import LocalOnly
from promptfed.prompts.text_context import ContextConfig, ContextTuner


def test_nothing_is_sent_and_every_client_keeps_its_own(setup, toy_task):
    method = LocalOnly(ContextConfig(), setup)
    fed = Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3))
    state, replies = fed.run_round(fed.start())
    assert all(reply.update.shared.nbytes == 0 for reply in replies)
    assert len(state.shared) == 0
    assert state.personal[0] != state.personal[1]


def test_rounds_go_on_from_the_clients_own_prompt(setup, toy_task):
    method = LocalOnly(ContextConfig(), setup)
    fed = Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3))
    state = fed.start()
    for _ in range(2):
        state, _ = fed.run_round(state)
    tuner = ContextTuner(ContextConfig(), setup)
    alone = tuner.start()
    for round in (1, 2):
        alone, _ = tuner.train(alone, toy_task.clients[2], round)
    assert state.personal[2] == alone
