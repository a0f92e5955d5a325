"""DP-FPL: a shared context plus a personal one kept factorised (Tran et al., ICLR 2025); the training rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from promptfed.backbones.base import PromptedText
from promptfed.class_losses import class_loss
from promptfed.class_sample import EVERY_CLASS, ClassSample
from promptfed.cosines import cosine_logits
from promptfed.local_training import LocalObjective, Parameters
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.prompts.text_context import ContextConfig, ContextMethod, training_classes, training_images
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData


class DPFPLConfig(ContextConfig):
    """Options of the context, the rank of the factors, and what of p_L is trained."""

    rank: int = Field(8, ge=1, description="rank of the personal context's factors, at most n_ctx")
    residual: Literal["trained", "constant"] = Field(
        "trained", description="the rest of p_L beside u v: trained too, or constant within a step, as in the paper"
    )


@METHODS.register("dpfpl")
class DPFPL(ContextMethod):
    """``ctx = p_G + p_L`` with ``p_L = u v + residual``, factorised anew after every step; p_G is averaged.

    Shared: ``ctx`` p_G ``(n_ctx, dim)``. Personal: ``u`` ``(n_ctx, rank)`` with orthonormal columns, ``v``
    ``(rank, dim)``, ``residual`` ``(n_ctx, dim)``. Without a personal part: p_G.
    Without noise the factors only say along which directions the steps are taken, and nothing is promised.

    With ``privacy.dp=example``, p_G, u, v and the residual (unless that is constant) are trained by DP-SGD: one norm of
    each example's gradient over all of them is clipped, all get noise, every step is counted. The promise then covers
    what is sent and the personal part. The paper's own does not hold for its released code: it clips the gradient of
    a batch, which one example can change by twice the norm, counts rounds where every batch is a release, and charges
    the noised u and v as one release.

    Different from the released code: it orthonormalises v too and holds the residual constant within a step, so its
    p_L moves by ``(du v + u dv + u u^T du v) / 10`` alone (cosine 0.68 to the negative gradient in one measured step).
    Here the residual is trained as well, and the rank does not limit the step (cosine 0.95). Clients send p_G once a
    round, to be averaged, where the paper averages the gradient of every batch (FedSGD). The random start of the power
    iteration is drawn once a round and client, so that the factors move smoothly and Adam's moments keep their
    meaning. p_L starts at zero, where the released code draws p_G and p_L from N(0, 0.02).
    """

    name: ClassVar[str] = "DP-FPL"
    paper: ClassVar[str] = "Tran et al. 2025, ICLR"
    trains: ClassVar[str] = "text context (n_ctx, dim); factors (n_ctx, rank) x (rank, dim) and residual"
    keeps: ClassVar[str] = "images, factors, residual"
    takes_sigmoid_loss: ClassVar[bool] = True
    example_dp: ClassVar[bool] = True
    Config = DPFPLConfig

    def __init__(self, config: DPFPLConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.label_space = config.label_space
        self.constants = frozenset({"residual"} if config.residual == "constant" else ())
        self.rank = min(config.rank, self.tuner.n_ctx, setup.backbone.text_dim)  # no matrix has more

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        classes, labels = training_classes(self.label_space, self.setup, data)
        images, backbone = training_images(self.setup, data), self.setup.backbone
        fit = class_loss(self.config, self.setup, data)
        noise = torch_stream(self.setup.seed, "power iteration", broadcast.round, data.client)
        probe = torch.randn(self.rank, backbone.text_dim, generator=noise)
        local = personal if len(personal) else factorised(torch.zeros(self.tuner.n_ctx, backbone.text_dim), probe)

        def texts(parameters: Parameters) -> list[PromptedText]:
            return [self.tuner.prompted(parameters["ctx"] + personal_part(parameters), classes)]

        def loss(
            parameters: Parameters, features: Sequence[Tensor], rows: Tensor, sample: ClassSample = EVERY_CLASS
        ) -> tuple[Tensor, Tensor]:
            logits = cosine_logits(images[rows], features[0], backbone.logit_scale)
            return fit(labels, logits, rows, sample)

        def project(parameters: Parameters) -> None:
            for name, value in factorised(personal_part(parameters), probe).items():
                parameters[name].copy_(value)

        start = PromptState({**broadcast.shared, **local})
        return LocalObjective(start, labels, loss, texts, project=project, constants=self.constants)

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        local = {name: trained[name] for name in ("u", "v", "residual")}
        return PromptState({"ctx": trained["ctx"]}), PromptState(local)

    def text_contexts(self, shared: PromptState, personal: PromptState) -> PromptState:
        return PromptState({"ctx": shared["ctx"] + personal_part(personal) if len(personal) else shared["ctx"]})

    def blend(self, shared: PromptState, personal: PromptState, alpha: float) -> PromptState:
        """Return ``p_G + alpha p_L``."""
        return PromptState({**personal, "v": personal["v"] * alpha, "residual": personal["residual"] * alpha})


def personal_part(parts: PromptState | Parameters) -> Tensor:
    """Return ``p_L = u v + residual`` ``(n_ctx, dim)``."""
    return parts["u"] @ parts["v"] + parts["residual"]


def factorised(prompt: Tensor, probe: Tensor) -> dict[str, Tensor]:
    """Factorise a prompt as ``u v + residual`` by one power iteration.

    ``u = orth(prompt probe^T)`` and ``v = u^T prompt``. If rank(prompt) <= rank, the residual is zero.

    Args:
        prompt: ``(n, dim)``.
        probe: Start of the iteration, ``(rank, dim)``.

    Returns:
        ``u`` ``(n, rank)``, ``v`` ``(rank, dim)``, ``residual`` ``(n, dim)``.
    """
    u, triangle = torch.linalg.qr(prompt @ probe.to(prompt.device).T)
    u = u * torch.where(triangle.diagonal() < 0, -1.0, 1.0)  # signs as in Gram-Schmidt, or columns would flip at will
    v = u.T @ prompt
    return {"u": u, "v": v, "residual": prompt - u @ v}
