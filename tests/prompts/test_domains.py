from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptfed.errors import ConfigError
from promptfed.prompts.domains import Domains, mean_over_domains, mixture_logits


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def test_domains_are_numbered_in_order_of_first_appearance(setup):
    domains = Domains(setup.agreeing(domains=("sketch", "photo", "sketch", "art")))
    assert domains.names == ("sketch", "photo", "art")
    assert [domains.of(client) for client in range(4)] == [0, 1, 0, 2]
    assert len(domains) == 3


def test_a_client_without_a_known_domain_is_named(setup):
    with pytest.raises(ConfigError, match="client 3 has no domain: the domains of clients 0 to 2 are known"):
        Domains(setup).of(3)
    with pytest.raises(ConfigError, match="names none"):
        Domains(setup.agreeing(domains=()))


def test_mixture_logits_are_cosines_to_features_mixed_for_each_image():
    images, weights = 7 * draw(5, 8), draw(5, 3).softmax(-1)
    texts = F.normalize(draw(3, 4, 8), dim=-1)
    found = mixture_logits(images, weights, texts, 20.0)
    mixed = (weights[:, :, None, None] * texts).sum(1)
    expected = 20.0 * F.cosine_similarity(images[:, None], mixed, dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_one_hot_weights_choose_a_domain():
    images, texts = draw(2, 8), F.normalize(draw(3, 4, 8), dim=-1)
    found = mixture_logits(images, torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), texts, 1.0)
    expected = torch.stack([F.cosine_similarity(images[i], texts[k], dim=-1) for i, k in ((0, 1), (1, 2))])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_middle_of_domains_is_of_unit_length():
    texts = F.normalize(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), dim=-1)
    torch.testing.assert_close(mean_over_domains(texts), torch.tensor([[0.5**0.5, 0.5**0.5]]))
