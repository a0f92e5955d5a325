"""FedPrompt: a step by hand, the server's mean, what the prompt starts from."""

from __future__ import annotations

import pytest
import torch

from promptfed.aggregators.mean import Mean
from promptfed.errors import ConfigError
from promptfed.inserts.soft_prompt import EMBEDDINGS
from promptfed.method import METHODS
from promptfed.privacy.dpsgd import DPSGD
from promptfed.privacy.example_check import check_example_dp
from promptfed.privacy.secret_key import SecretKey
from promptfed.privacy_check import check_examples
from promptfed.privacy_options import PrivacyOptions
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, Update

from ..tiny_language_models import CLASSES, client, setup, split


def make(name="llama", **options):
    kind = METHODS["fedprompt"]
    return kind(kind.Config(n_tokens=3, **options), setup(name))


def test_full_batch_steps_weighted_by_samples_are_one_central_step():
    method = make(optimizer="sgd", momentum=0.0, lr=0.5, local_epochs=1, batch_size="all", schedule="constant")
    shared = method.init_shared()
    updates = [
        method.train(Broadcast(1, shared), client(number, rows), NO_PROMPT)[0]
        for number, rows in enumerate([[0], [1, 2, 3]])
    ]
    merged, _ = Mean(Mean.Config()).apply(shared, updates, NO_PROMPT)
    central = method.train(Broadcast(1, shared), client(2), NO_PROMPT)[0].shared
    torch.testing.assert_close(merged[EMBEDDINGS], central[EMBEDDINGS], atol=1e-6, rtol=1e-5)
    assert not torch.equal(merged[EMBEDDINGS], shared[EMBEDDINGS])


def test_the_server_weighs_constant_prompts_by_samples():
    constant = [PromptState({EMBEDDINGS: torch.full((3, 2), value)}) for value in (0.0, 4.0)]
    updates = [
        Update(k, state, samples, 0.0, 0.0) for k, (state, samples) in enumerate(zip(constant, (1, 3), strict=True))
    ]
    merged, _ = Mean(Mean.Config()).apply(constant[0], updates, NO_PROMPT)
    assert torch.equal(merged[EMBEDDINGS], torch.full((3, 2), 3.0))


def test_private_training_without_noise_is_a_plain_step_of_all_texts():
    """Each text's gradient is taken by itself; with a large limit their sum over the fixed size is the mean's."""
    method = make(optimizer="sgd", momentum=0.0, lr=0.5, local_epochs=1, batch_size="all", schedule="constant")
    job = Broadcast(1, method.init_shared()), client(), NO_PROMPT
    [(plain, _)] = method.train_many([job])
    key = SecretKey(bytes(32))
    [(private, _)] = DPSGD(key, 1e6, 0.0).train_many(check_example_dp(method), [job])
    torch.testing.assert_close(private.shared[EMBEDDINGS], plain.shared[EMBEDDINGS], atol=1e-5, rtol=1e-4)
    [(clipped, _)] = DPSGD(key, 1e-3, 0.0).train_many(method, [job])
    assert 0 < (clipped.shared - job[0].shared).norm() <= 0.5e-3 * (1 + 1e-4)


def test_there_are_no_class_features_to_clip():
    terms = PrivacyOptions(dp="example", noise=1.0, clip_space="features")
    with pytest.raises(ConfigError, match=r"--set privacy\.clip_space=parameters"):
        check_examples(terms, make(), {0: 4}, "local")


def test_training_lowers_the_loss_on_every_family():
    for name in ("llama", "masked", "bert", "t5"):
        method = make(name, lr=0.05, local_epochs=4)
        shared, losses = method.init_shared(), []
        for round in (1, 2):
            update, _ = method.train(Broadcast(round, shared), client(), NO_PROMPT)
            shared = update.shared
            losses.append(update.loss)
        assert losses[1] < losses[0], name
        method.setup.verify_frozen()


def test_a_prompt_starts_from_words_of_the_vocabulary_or_noise():
    method = make()
    table = method.model.model.get_input_embeddings().weight
    words = method.model.tokenizer.convert_tokens_to_ids(["review", ":", "review"])
    assert torch.equal(method.init_shared()[EMBEDDINGS], table[words])  # the task's first hand-written prompt, repeated
    words = method.model.tokenizer.convert_tokens_to_ids(["a", "good", "film"])
    assert torch.equal(make(init_text="a good film was").init_shared()[EMBEDDINGS], table[words])
    drawn = make(init="vocab").init_shared()[EMBEDDINGS]
    assert all((table == row).all(1).any() for row in drawn)
    noise = make(init="random").init_shared()[EMBEDDINGS]
    assert torch.equal(noise, make(init="random").init_shared()[EMBEDDINGS])
    assert not any((table == row).all(1).any() for row in noise)
    with pytest.raises(ConfigError, match="holds no token"):
        make(init_text="\t").init_shared()


def test_scores_of_some_classes_are_columns_of_all():
    method = make()
    assert method.scores_apart
    scores = method.logits(method.init_shared(), NO_PROMPT, CLASSES, split())
    one = method.logits(method.init_shared(), NO_PROMPT, CLASSES[1:], split())
    torch.testing.assert_close(one[:, 0], scores[:, 1], atol=1e-6, rtol=1e-6)
