"""FedPepTAO: some layers' prefixes are shared, the others are each client's own, and the server has momentum."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from promptfed.aggregators.base import Aggregator
from promptfed.aggregators.mean import Mean
from promptfed.errors import ConfigError
from promptfed.inserts.base import InsertKind
from promptfed.inserts.prefix import PREFIX
from promptfed.language_models.layer_states import layer_states
from promptfed.local_batches import examples_in_a_step
from promptfed.method import METHODS, MethodConfig, Shape
from promptfed.methods.fedpeptao.accelerated import AcceleratedMean
from promptfed.methods.fedpeptao.layer_choice import SCORES, LayerChoice, without
from promptfed.methods.fedpeptao.layer_score import layer_score
from promptfed.methods.fedpeptao.partial_prefix import LAYERS, REST, PartialPrefix
from promptfed.prompt_state import PromptState
from promptfed.prompts.prefix_method import PrefixConfig, PrefixMethod, is_top, lowest_of
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split

SCORE_TEXTS = 8
"""Texts from which a client scores the layers: the released code's batch."""


class FedPepTAOConfig(PrefixConfig):
    """Options of FedPepTAO."""

    layers: str | tuple[int, ...] = Field(
        "score",
        description="layers whose prefix is shared: those with the highest scores (score), all, the M highest (top:M), "
        "or a list such as 7,8,11 (from 0)",
    )
    share: float = Field(0.5, gt=0, le=1, description="of layers=score: the share of layers that is chosen")
    rest: Literal["personal", "frozen"] = Field(
        "personal",
        description="prefixes of the other layers: trained and kept by each client, or left as they start",
    )
    server: Literal["accelerated", "mean"] = Field(
        "mean", description="how the server merges: with momentum and control variates, or by the run's aggregator"
    )
    server_lr: float = Field(0.05, gt=0, description="of server=accelerated: its first rate; times 0.99 each round")
    server_momentum: float = Field(0.9, ge=0, lt=1, description="of server=accelerated: share of its last step")

    @field_validator("layers", mode="before")
    @classmethod
    def _are_listed(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return [value]
        if not isinstance(value, str) or value in ("score", "all") or is_top(value):
            return value
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if not all(part.isascii() and part.isdigit() for part in parts):
            raise ValueError("give score, all, top: and a number of 1 or more, or numbers of layers such as 7,8,11")
        return parts


@METHODS.register("fedpeptao")
class FedPepTAO(PrefixMethod):
    """Clients train a prefix of every layer; those of chosen layers are merged, the others never leave the client.

    Shared: ``layers`` ``(s,)``, ``prompt_embeddings`` ``(n_tokens, s * 2 * kv_width)``, and the head if it is linear.
    Personal: ``rest`` ``(n_tokens, (layers - s) * 2 * kv_width)``, with ``rest="frozen"`` nothing. With
    ``layers="score"`` the clients score the layers in round 1, on 8 texts and without a prompt; in that round the
    prefix of every layer is trained and sent.

    Different from the paper: how many layers are chosen is an option (the paper finds it by the Hessian's
    eigenvalues; it is half for RTE). The prefix starts from a text, and the optimiser starts afresh each round. The
    server with momentum is an option, not the default, see docs/methods.md. Of the released code five things
    are not copied: the server's result does not depend on the order of clients; ``rest="frozen"`` trains nothing that
    is thrown away; clients share no optimiser; nothing is selected on test data; any device will do. Its control
    variates, which no client's step uses, are the server's here as well.
    """

    name: ClassVar[str] = "FedPepTAO"
    paper: ClassVar[str] = "Che et al. 2023, EMNLP, arXiv 2310.15080"
    trains: ClassVar[str] = "prefix (n_tokens, layers * 2 * kv_width), of which some layers are shared"
    keeps: ClassVar[str] = "texts, the prefixes of other layers"
    Config: ClassVar[type[MethodConfig]] = FedPepTAOConfig
    config: FedPepTAOConfig
    prefix_names: ClassVar[tuple[str, ...]] = (PREFIX, REST)

    def __init__(self, config: FedPepTAOConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.first_values = self.start()
        if isinstance(config.layers, tuple):
            wrong = [layer for layer in config.layers if not 0 <= layer < self.model.layers]
            if wrong or not config.layers:
                raise ConfigError(
                    f"option 'layers' is {list(config.layers)}, and '{self.model.name}' has layers 0 to "
                    f"{self.model.layers - 1}: give some of these, or score or all"
                )

    def make_kind(self) -> InsertKind:
        self.prefix = self.make_prefix(PartialPrefix)
        self.prefix.rest_is_frozen = self.config.rest == "frozen"
        return self.prefix

    def init_shared(self) -> PromptState:
        layers = self.config.layers
        if layers == "score":
            return self.first_values
        if isinstance(layers, str):
            numbers = list(range(0 if layers == "all" else lowest_of(layers, self.model), self.model.layers))
        else:
            numbers = sorted(set(layers))
        columns = self.prefix.columns(numbers)
        part = {PREFIX: self.first_values[PREFIX][:, columns], LAYERS: torch.tensor(numbers)}
        return PromptState({**self.first_values, **part})

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        config = self.config
        if config.server == "accelerated":
            if not isinstance(aggregator, Mean):
                raise ConfigError(
                    "option 'server' is 'accelerated', which is a way to merge of its own: leave --aggregator at mean, "
                    "or --set method.server=mean"
                )
            aggregator = AcceleratedMean(
                config.server_lr, config.server_momentum, len(self.setup.domains), self._steps, self._rate
            )
        return LayerChoice(aggregator, self.count, self.prefix.columns)

    @property
    def count(self) -> int:
        """How many layers ``layers="score"`` chooses: the last has no score."""
        layers = self.model.layers
        return max(1, min(layers - 1, int(self.config.share * layers + 0.5)))

    def _steps(self, samples: int) -> int:
        """Return a client's steps in a round."""
        size = examples_in_a_step(self.config.batch_size, samples, 0) * self.config.accumulate
        return self.config.local_epochs * -(-samples // size)

    def _rate(self, round: int) -> float:
        return self.config.rate(round, self.setup.rounds)

    # --------------------------------------------------------------------------------------------- training

    def values(self, shared: PromptState, personal: PromptState) -> PromptState:
        if LAYERS not in shared:
            return shared
        rest = personal.get(REST, self.first_values[PREFIX])
        columns = self.prefix.rest_columns(shared[LAYERS].tolist())
        if rest.shape[1] != len(columns):  # of all layers: from before the choice, or as all start
            rest = rest[:, columns]
        return PromptState({**shared, REST: rest})

    def trained_names(self, round: int, values: PromptState) -> Collection[str]:
        fixed = {LAYERS} if self.config.rest == "personal" else {LAYERS, REST}
        return [name for name in values if name not in fixed]

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        expected = dict(super().uploads(client, without(sent, LAYERS)))
        return expected if LAYERS in sent else {**expected, SCORES: (self.model.layers - 1,)}

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        shared = without(trained, REST)
        if LAYERS not in broadcast.shared:
            shared = PromptState({**shared, SCORES: self.scores_of_layers(data.train, data.client)})
        if self.config.rest == "frozen":
            return shared, NO_PROMPT
        return shared, PromptState({REST: trained[PREFIX] if LAYERS not in broadcast.shared else trained[REST]})

    def scores_of_layers(self, split: Split, client: int) -> Tensor:
        """Return the score of each layer but the last ``(layers - 1,)`` from a few texts of ``split``."""
        draw = torch_stream(self.setup.seed, "layer scores", client)
        few = torch.randperm(len(split), generator=draw)[:SCORE_TEXTS].tolist()
        rows = [self.model.writer.row(split.items[k], reserve=self.reserve).ids for k in few]
        return torch.tensor([layer_score(states) for states in layer_states(self.model, rows)[:-1]])

    # ------------------------------------------------------------------------------------------- prediction

    def blend(self, shared: PromptState, personal: PromptState, alpha: float) -> PromptState | None:
        """Return the own rest ``alpha`` of the way from the start."""
        if LAYERS not in shared:
            return personal
        start = self.values(shared, NO_PROMPT)[REST]
        return PromptState({REST: torch.lerp(start, self.values(shared, personal)[REST], alpha)})
