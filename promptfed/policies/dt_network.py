"""The network of the bundled policy `dt`: a decision transformer over returns, observations and actions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from promptfed.allocation.cell import FEATURES, LEVELS, RESOLUTIONS, USERS
from promptfed.transformer_layer import TransformerLayer

CONTEXT = 5
"""Slots that it sees at a time, the last of them now."""
PIECE = 5
"""Slots of a trajectory that stands before them as a prompt."""
WIDTH, HEADS, LAYERS = 64, 4, 3
CHOICES = USERS * LEVELS
"""Resolutions that an action chooses."""
LOGITS = CHOICES * len(RESOLUTIONS) + USERS
"""Numbers that an action is made of: those of the resolutions, then those of the shares."""
PARTS = 3
"""Tokens of a slot: return, observation, action."""


class DecisionTransformer(nn.Module):
    """Actions from what was seen and done in the last slots, behind a prompt of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.of_return, self.of_observation = nn.Linear(1, WIDTH), nn.Linear(FEATURES, WIDTH)
        self.of_action = nn.Linear(LOGITS, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(PIECE + CONTEXT, PARTS, WIDTH))
        self.layers = nn.ModuleList(TransformerLayer(WIDTH, HEADS, causal=True) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, LOGITS)

    def embed(self, returns: Tensor, observations: Tensor, actions: Tensor, first: int) -> Tensor:
        """Return slots as tokens ``(n, slots * PARTS, WIDTH)``.

        Args:
            returns: Mean reward of a slot that is still to come, ``(n, slots)``.
            observations: ``(n, slots, FEATURES)``.
            actions: ``(n, slots, FEATURES)``: indices of resolutions, then shares.
            first: The place of the first slot: 0 in a prompt, ``PIECE`` behind it.
        """
        n, slots = returns.shape
        chosen = F.one_hot(actions[..., :CHOICES].long(), len(RESOLUTIONS)).to(actions).flatten(2)
        done = self.of_action(torch.cat([chosen, actions[..., CHOICES:]], -1))
        tokens = torch.stack([self.of_return(returns[..., None]), self.of_observation(observations), done], 2)
        placed: Tensor = tokens + self.places[first : first + slots]
        return placed.reshape(n, slots * PARTS, WIDTH)

    def piece(self, returns: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """Return a piece of a trajectory as the tokens of a prompt, ``(n, slots * PARTS, WIDTH)``."""
        return self.embed(returns, observations, actions, 0)

    def forward(self, returns: Tensor, observations: Tensor, actions: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Return the logits of each slot's action ``(n, slots, LOGITS)``, which sees nothing that comes later.

        Args:
            returns: See ``embed``.
            observations: Likewise.
            actions: Likewise; that of the last slot is not read.
            prompt: Tokens that stand before, ``(n or 1, tokens, WIDTH)``.
        """
        tokens = self.embed(returns, observations, actions, PIECE)
        before = 0
        if prompt is not None:
            before = prompt.shape[1]
            tokens = torch.cat([prompt.expand(len(tokens), -1, -1), tokens], 1)
        for layer in self.layers:
            tokens = layer(tokens)
        # A slot's action is read where its observation stands.
        states = tokens[:, before:][:, 1::PARTS]
        out: Tensor = self.head(self.norm(states))
        return out


def action_loss(logits: Tensor, actions: Tensor, weight: float = 4.0) -> Tensor:
    """Return how far logits ``(..., LOGITS)`` are from actions ``(..., FEATURES)``, one number a slot ``(...)``.

    It is the mean cross-entropy of the resolutions, and ``weight`` times the Kullback-Leibler divergence of the shares.
    """
    options = len(RESOLUTIONS)
    of_choices = logits[..., : CHOICES * options].unflatten(-1, (CHOICES, options))
    of_choices = of_choices.log_softmax(-1).gather(-1, actions[..., :CHOICES].long()[..., None])[..., 0]
    share = actions[..., CHOICES:].clamp(min=1e-6)
    of_shares = (share * (share.log() - logits[..., CHOICES * options :].log_softmax(-1))).sum(-1)
    loss: Tensor = weight * of_shares - of_choices.mean(-1)
    return loss


def greedy_actions(logits: Tensor) -> Tensor:
    """Return the likeliest resolutions and the shares, as actions ``(..., FEATURES)``."""
    options = len(RESOLUTIONS)
    chosen = logits[..., : CHOICES * options].unflatten(-1, (CHOICES, options)).argmax(-1)
    return torch.cat([chosen.to(logits), logits[..., CHOICES * options :].softmax(-1)], -1)


def right_choices(logits: Tensor, actions: Tensor) -> Tensor:
    """Return the share of resolutions that are chosen as in ``actions``, one number a slot ``(...)``."""
    return (greedy_actions(logits)[..., :CHOICES] == actions[..., :CHOICES]).to(logits).mean(-1)
