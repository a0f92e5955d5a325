"""For methods that know the clients' domains: who is in which, and text features mixed over domains for each image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.errors import ConfigError
from promptfed.setup import Setup


class Domains:
    """The distinct domains of ``setup``, numbered from 0 in order of first appearance.

    Raises ConfigError if the setup names none.
    """

    def __init__(self, setup: Setup) -> None:
        if not setup.domains:
            raise ConfigError("this method needs the domain of every client, and the setup names none: set its domains")
        self.names = tuple(dict.fromkeys(setup.domains))
        self._of_client = [self.names.index(name) for name in setup.domains]

    def __len__(self) -> int:
        return len(self.names)

    def of(self, client: int) -> int:
        """The number of ``client``'s domain. Raises ConfigError for somebody whose domain is not known."""
        if not 0 <= client < len(self._of_client):
            raise ConfigError(
                f"client {client} has no domain: the domains of clients 0 to {len(self._of_client) - 1} are known. "
                "Whoever is new predicts by the mixture and need not train"
            )
        return self._of_client[client]


def mixture_logits(images: Tensor, weights: Tensor, texts: Tensor, scale: float) -> Tensor:
    """``scale * cos(f(x), sum_k w_k(x) T_kc)``: logits ``(n, classes)`` against text features mixed for each image.

    ``images`` ``(n, dim)``, of any length; ``weights`` ``(n, domains)``; ``texts`` unit ``(domains, classes, dim)``.
    The mixed features ``(n, classes, dim)`` themselves are never built: the cosine needs only the products of images
    with texts, and for the mixture's length those of texts with texts.
    """
    products = torch.einsum("nd,kcd->nkc", F.normalize(images, dim=-1), texts)
    gram = torch.einsum("kcd,jcd->ckj", texts, texts)
    squares = torch.einsum("nk,ckj,nj->nc", weights, gram, weights)
    return scale * torch.einsum("nk,nkc->nc", weights, products) / squares.clamp(min=1e-12).sqrt()


def mean_over_domains(texts: Tensor) -> Tensor:
    """Unit features ``(classes, dim)`` in the middle of ``texts`` ``(domains, classes, dim)``: what is left where
    there is no image to say how the domains weigh."""
    return F.normalize(texts.mean(0), dim=-1)
