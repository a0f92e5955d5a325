"""Fed-BBPT: clients train a small prompt generator against a black box by SPSA-GC (Lin et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from promptfed.blackbox.base import BlackBoxMethod, ClientOracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.soft.input_edit import PixelEdit, edit_for
from promptfed.blackbox.soft.input_features import LocalView
from promptfed.blackbox.soft.per_example import PerExampleMethod
from promptfed.blackbox.soft.prompt_generator import PromptGenerator, flat, shaped
from promptfed.blackbox.soft.spsa_steps import DescentConfig, descent
from promptfed.examples.base import Item
from promptfed.method import METHODS, MethodConfig
from promptfed.prompt_state import PromptState
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split


class FedBBPTConfig(DescentConfig):
    """Fed-BBPT's options: what is generated, the generator, and SPSA-GC."""

    code: int = Field(8, ge=1, description="numbers of the frozen code that the generator reads")
    trigger: int = Field(4, ge=1, description="numbers of the trained vector that it reads beside the code")
    hidden: int = Field(16, ge=1, description="width of the generator")


@METHODS.register("fedbbpt")
class FedBBPT(PerExampleMethod):
    """Clients take SPSA-GC steps on the generator's weights with the prompts that it makes; the server averages.

    Shared: ``W1`` ``(hidden, code + trigger)``, ``b1``, ``W2`` ``(outputs, hidden)``, ``b2`` and ``trigger``
    ``(trigger,)``. Personal: nothing. Momentum begins anew in every round: the server has moved the point that it
    belongs to, and clients that were away are then no different from others. The gains go on falling over rounds.

    On side "pixels" the generator reads a code of each image, a frozen random projection of the image made small, and
    decodes it to a low-resolution pattern (after BlackVIP, whose encoder is a pre-trained one); on side "text" it reads
    a fixed code for each soft prompt vector. The layout of the networks and all values are inferred.
    """

    name: ClassVar[str] = "Fed-BBPT"
    paper: ClassVar[str] = "Lin et al. 2023, arXiv 2310.03123"
    trains: ClassVar[str] = "prompt generator: W1 (hidden, code + trigger), W2 (outputs, hidden)"
    Config: ClassVar[type[MethodConfig]] = FedBBPTConfig
    paced: ClassVar[bool] = True
    config: FedBBPTConfig

    def __init__(self, config: FedBBPTConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.edit = edit_for(config, self.oracle, setup.seed)
        self.reads_images = isinstance(self.edit, PixelEdit)
        outputs = self.edit.size if self.reads_images else config.rank
        self.generator = PromptGenerator(config.code + config.trigger, config.hidden, outputs)
        self.view = LocalView(self.oracle.backend, images=self.reads_images)
        draw = torch_stream(setup.seed, "fedbbpt", "codes")
        rows = self.view.size if self.reads_images else config.n_tokens
        self.codes = torch.randn(rows, config.code, generator=draw)

    def init_shared(self) -> PromptState:
        trigger = {"trigger": torch.randn(self.config.trigger, generator=torch_stream(self.setup.seed, "trigger"))}
        return PromptState({**self.generator.start(self.setup.seed, "fedbbpt"), **trigger})

    # --------------------------------------------------------------------------------------------- training

    def step_queries(self, data: ClientData) -> int:
        return 2 * self.config.probes * self.batch_of(data)

    def search(
        self, broadcast: Broadcast, data: ClientData, personal: PromptState, desk: ClientOracle
    ) -> tuple[PromptState, PromptState]:
        shared = broadcast.shared
        optimizer = descent(self.config, flat(shared), desk, self.setup.rounds)
        while desk.affords(2 * self.config.probes):
            points, rows = optimizer.ask(), desk.batch()
            items = [data.train.items[i] for i in rows.tolist()]
            prompts = [self.candidate_on(shaped(point, shared), personal, items) for point in points]
            optimizer.tell(points, desk.losses(prompts, rows).tolist())
        return shaped(optimizer.best(), shared), personal

    # ------------------------------------------------------------------------------------------- the prompt

    def candidate_on(self, shared: PromptState, personal: PromptState, items: Sequence[Item]) -> Candidate:
        if not self.reads_images:
            return self.edit.candidate(self._generated(shared, self.codes).flatten())
        return self.edit.candidate(self._generated(shared, self.view(items) @ self.codes))

    @property
    def sends_one_prompt(self) -> bool:
        return not self.reads_images

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        kind = PerExampleMethod if self.reads_images else BlackBoxMethod
        return kind.logits(self, shared, personal, classes, split)

    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        """Return the prompt; on side "pixels", that of an image without any structure."""
        codes = torch.zeros(1, self.config.code) if self.reads_images else self.codes
        return self.edit.candidate(self._generated(shared, codes).flatten())

    def _generated(self, shared: PromptState, codes: Tensor) -> Tensor:
        """Return the generator's outputs ``(rows, outputs)`` of codes ``(rows, code)``."""
        return self.generator(shared, torch.cat([codes, shared["trigger"].expand(len(codes), -1)], 1))
