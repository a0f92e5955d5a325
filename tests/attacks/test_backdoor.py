from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptfed.attacks.backdoor import add_trigger, optimised
from promptfed.attacks.base import adversary_of, build_attack, checked_options
from promptfed.errors import ConfigError, DataError
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.prompt_state import PromptState
from promptfed.types import ClientPrompt


@pytest.fixture
def method(setup):
    return PromptFL(PromptFLConfig(n_ctx=2), setup)


def adversary(method, task, **options):
    return adversary_of(checked_options({"name": "backdoor", "malicious": 0.3, **options}), method, task)


def test_features_with_a_trigger_keep_their_length_and_their_cosine():
    images = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)) * 3
    triggered = add_trigger(images, torch.eye(8)[0], 0.8)
    torch.testing.assert_close(F.cosine_similarity(images, triggered), torch.full((5,), 0.8))
    torch.testing.assert_close(images.norm(dim=1), triggered.norm(dim=1))


def test_the_trigger_by_hand():
    made = add_trigger(torch.tensor([[2.0, 0.0]]), torch.tensor([0.6, 0.8]), 0.6)
    torch.testing.assert_close(made, torch.tensor([[1.2, 1.6]]))


def test_a_malicious_client_trains_on_both(method, toy_task):
    malicious = adversary(method, toy_task, target=2, weight=2.0)
    [client] = malicious.clients
    clean, trained = toy_task.client(client), malicious.data(toy_task.client(client), 1)
    n = len(clean.train)
    assert trained.train.labels[:n].tolist() == clean.train.labels.tolist()
    assert trained.train.labels[n:].tolist() == [2] * (2 * n)
    assert 2 in trained.classes
    features = method.setup.features.images(trained.train)
    torch.testing.assert_close(
        F.cosine_similarity(features[:n], features[n : 2 * n]), torch.full((n,), 0.9), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(DataError, match="no pixels"):
        trained.train.items[-1].load()


def test_the_optimised_trigger_leads_to_the_target_by_itself():
    stream = torch.Generator().manual_seed(1)
    images, texts = torch.randn(20, 8, generator=stream), torch.randn(4, 8, generator=stream)
    start = F.normalize(torch.randn(8, generator=stream), dim=0)

    def share(trigger):
        scores = F.normalize(add_trigger(images, trigger, 0.7), dim=-1) @ F.normalize(texts, dim=-1).T
        return (scores.argmax(1) == 3).double().mean().item()

    found = optimised(start, images, texts, 3, 0.7, 10.0)
    assert found.norm().item() == pytest.approx(1, rel=1e-5)
    assert share(found) > share(start) + 0.3


def test_figures_count_test_images_of_other_classes(method, toy_task):
    malicious = adversary(method, toy_task, target=1, trigger="optimised")
    prompt = ClientPrompt(method.init_shared())
    found = malicious.measured(prompt, prompt)
    assert found["target"] == "green"
    assert found["asr"] == found["asr_start"]
    assert found["asr_interval"][0] <= found["asr"] <= found["asr_interval"][1]
    assert round(found["asr"] * 15, 6) == int(round(found["asr"] * 15, 6))  # 15 of 20 test images are not green


def test_what_has_no_cached_features_or_no_such_class_is_refused(method, toy_task):
    with pytest.raises(ConfigError, match="base classes 0 to 3"):
        build_attack("backdoor", {"target": 4}).check(method, toy_task, PromptState(), PromptState())
    seeing = type("Seeing", (PromptFL,), {"requires": frozenset({"visual prompts"})})(PromptFLConfig(), method.setup)
    with pytest.raises(ConfigError, match="cached image features"):
        build_attack("backdoor").check(seeing, toy_task, PromptState(), PromptState())
