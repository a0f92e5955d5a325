"""The clients' domains, and text features mixed over domains for each image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.errors import ConfigError
from promptfed.setup import Setup


class Domains:
    """Distinct domains of ``setup``, numbered from 0 in order of first appearance.

    Raises:
        ConfigError: The setup names no domains.
    """

    def __init__(self, setup: Setup) -> None:
        if not setup.domains:
            raise ConfigError("this method needs the domain of every client, and the setup names none: set its domains")
        self.names = tuple(dict.fromkeys(setup.domains))
        self._of_client = [self.names.index(name) for name in setup.domains]

    def __len__(self) -> int:
        return len(self.names)

    def knows(self, client: int) -> bool:
        """Return whether the setup names the domain of ``client``."""
        return 0 <= client < len(self._of_client)

    def of(self, client: int) -> int:
        """Return the number of ``client``'s domain.

        Raises:
            ConfigError: The client's domain is not known.
        """
        if not self.knows(client):
            raise ConfigError(
                f"client {client} has no domain: the domains of clients 0 to {len(self._of_client) - 1} are known. "
                "Whoever is new predicts by the mixture and need not train"
            )
        return self._of_client[client]


def mixture_logits(images: Tensor, weights: Tensor, texts: Tensor, scale: float) -> Tensor:
    """Return logits ``(n, classes)`` against features mixed for each image: ``scale * cos(f(x), sum_k w_k(x) T_kc)``.

    The mixed features ``(n, classes, dim)`` themselves are never built: the cosine needs only the products of images
    with texts, and for the mixture's length those of texts with texts.

    Args:
        images: ``(n, dim)``, of any length.
        weights: ``(n, domains)``.
        texts: Unit features ``(domains, classes, dim)``.
        scale: The backbone's logit scale.
    """
    products = torch.einsum("nd,kcd->nkc", F.normalize(images, dim=-1), texts)
    gram = torch.einsum("kcd,jcd->ckj", texts, texts)
    squares = torch.einsum("nk,ckj,nj->nc", weights, gram, weights)
    return scale * torch.einsum("nk,nkc->nc", weights, products) / squares.clamp(min=1e-12).sqrt()


def mean_over_domains(texts: Tensor) -> Tensor:
    """Return unit features ``(classes, dim)`` in the middle of ``texts`` ``(domains, classes, dim)``.

    They serve where there is no image to weigh the domains.
    """
    return F.normalize(texts.mean(0), dim=-1)
