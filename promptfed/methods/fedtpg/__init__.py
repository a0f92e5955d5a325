"""FedTPG: federated learning of a network that generates the prompt (Qiu et al., ICLR 2024, arXiv 2310.06123)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.base import Position, PromptedText
from promptfed.errors import ConfigError
from promptfed.local_training import LOSS_OPTIONS, GradientMethod, LocalObjective, LocalTraining, Parameters
from promptfed.method import METHODS
from promptfed.methods.fedtpg.generator import ContextGenerator
from promptfed.prompt_state import PromptState
from promptfed.prompts.text_context import ContextConfig, ContextTuner, LabelSpace, training_classes
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData


class FedTPGConfig(LocalTraining, LabelSpace):
    """FedTPG's options; see docs/methods.md for the paper's values."""

    lr: float = Field(0.0003, gt=0, description="learning rate")
    label_space: Literal["all", "own"] = Field(
        "own", description="a client's softmax, and what the generator sees: its own classes, or all base classes"
    )
    n_ctx: int = Field(4, ge=1, le=64, description="number of generated context tokens")
    prompt_depth: int = Field(1, ge=1, description="text blocks that get a generated context at their input")
    model_depth: int = Field(0, ge=0, description="self-attention layers of the generator after its cross-attention")
    heads: int = Field(4, ge=1, description="attention heads of the generator")
    input_context: Literal["kept", "overwritten"] = Field(
        "kept",
        description="with prompt_depth > 1: P[0] is kept, and P[1:] enter at the next blocks; or, as in the released "
        "code, P[1:] enter from the first block on and overwrite P[0] with its positions",
    )
    position: Position = Field("end", description="where the class name stands among the context tokens")


@METHODS.register("fedtpg")
class FedTPG(GradientMethod):
    """One generator for all: from the embeddings of a task's class names it makes the context of that task.

    With ``E = N(g(bare class names))`` the context is ``P = generator(E)`` ``(prompt_depth, n_ctx, dim)``, the same
    for all classes of the task: P[0] goes in at the input of the text tower, P[1:] at the inputs of its next blocks.
    It depends on the *set* of names, not on their order, and names never seen give a context too.
    Shared: the generator's parameters, with the names of the released checkpoints. Personal: nothing.
    Different from the paper: float32 masters and averages, a fresh optimiser each round, a learning rate that follows
    the round and not the client's own count; class embeddings and image features are computed once. With
    prompt_depth > 1 the released code loses P[0]; here it is used unless input_context is "overwritten". That layers
    other than the queries start as PyTorch's own do is inferred.
    """

    name: ClassVar[str] = "FedTPG"
    paper: ClassVar[str] = "Qiu et al. 2024, arXiv 2310.06123"
    trains: ClassVar[str] = "prompt generator: queries (n_ctx, dim), cross-attention, feed-forward"
    # Uniform is what the released code does; any other that merges whatever tensors there are will do.
    aggregators: ClassVar[tuple[str, ...]] = (
        "uniform", "mean", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "median", "trimmed_mean", "krum",
        "multi_krum", "geometric_median", "norm_clip", "fedamp", "clustered", "interpolated",
    )  # fmt: skip
    takes_sigmoid_loss: ClassVar[bool] = True
    Config = FedTPGConfig

    def __init__(self, config: FedTPGConfig, setup: Setup) -> None:
        """Make the generator.

        Raises:
            ConfigError: The backbone's text tower does not take these heads or this prompt depth.
        """
        super().__init__(config, setup)
        backbone, depth = setup.backbone, config.prompt_depth
        if depth > 1 and "deep text prompts" not in backbone.abilities:
            raise ConfigError(
                f"option 'prompt_depth' is {depth}: more than 1 needs deep text prompts, which backbone "
                f"'{backbone.name}' has not; use 1, or --backbone tiny or an open_clip ViT"
            )
        if depth > max(1, backbone.text_layers):
            raise ConfigError(
                f"option 'prompt_depth' is {depth}, but the text tower of '{backbone.name}' has "
                f"{backbone.text_layers} blocks; use 1 to {backbone.text_layers}"
            )
        if backbone.text_dim % config.heads:
            raise ConfigError(
                f"option 'heads' is {config.heads}, which does not divide the token width {backbone.text_dim} of "
                f"backbone '{backbone.name}'; the paper's is 4"
            )
        self.generator = ContextGenerator(
            backbone.text_dim,
            backbone.embed_dim,
            n_ctx=config.n_ctx,
            prompt_depth=depth,
            layers=config.model_depth,
            heads=config.heads,
        )
        self.label_space, self.first_deep = config.label_space, int(config.input_context == "kept")
        context = config.model_dump(include={"n_ctx", "position", "label_space", *LOSS_OPTIONS})
        self.tuner = ContextTuner(ContextConfig.model_validate(context), setup)

    def init_shared(self) -> PromptState:
        return PromptState(self.generator.start(torch_stream(self.setup.seed, "generator")))

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        """Return CoOp's loss, with a generated context in the place of a learned one."""
        classes, _ = training_classes(self.label_space, self.setup, data)
        embeddings = self.class_embeddings(classes)

        def texts(parameters: Parameters) -> list[PromptedText]:
            return [self._prompted(parameters, embeddings, classes)]

        return replace(self.tuner.problem(broadcast.shared, data), texts=texts)

    def class_embeddings(self, classes: Sequence[str]) -> Tensor:
        """Return ``E`` ``(classes, embed_dim)``: unit features of the bare names, from the feature cache."""
        return F.normalize(self.setup.features.texts([name.replace("_", " ") for name in classes]), dim=-1)

    @torch.no_grad()
    def contexts(self, shared: PromptState, classes: Sequence[str]) -> Tensor:
        """Return the contexts ``(prompt_depth, n_ctx, dim)`` that the generator makes for a task with ``classes``."""
        return self.generator(self._on_device(shared), self.class_embeddings(classes))

    def text_contexts(self, shared: PromptState, personal: PromptState) -> PromptState:
        """Return the generator's context for the run's classes, at the input of the tower."""
        return PromptState({"ctx": self.contexts(shared, self.setup.classes)[0]})

    def texts(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Sequence[PromptedText]:
        return [self._prompted(self._on_device(shared), self.class_embeddings(classes), classes)]

    def _prompted(self, parameters: Mapping[str, Tensor], embeddings: Tensor, classes: Sequence[str]) -> PromptedText:
        contexts = self.generator(parameters, embeddings)
        deep = contexts[1:] if len(contexts) > 1 else None
        return PromptedText(contexts[0], self.tuner.tokens(classes), deep, self.first_deep)

    def _on_device(self, shared: PromptState) -> dict[str, Tensor]:
        return {name: tensor.to(self.setup.backbone.device) for name, tensor in shared.items()}
