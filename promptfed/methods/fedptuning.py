"""Multilingual federated prompt tuning: clients, one language each say, train a prompt encoder that is averaged."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from promptfed.inserts.base import InsertKind
from promptfed.inserts.prompt_encoder import PromptEncoder
from promptfed.inserts.soft_prompt import EMBEDDINGS
from promptfed.method import METHODS, MethodConfig
from promptfed.prompts.language_method import LanguageMethod
from promptfed.prompts.soft_prompt_method import SoftPromptConfig, soft_prompt


class FedPTuningConfig(SoftPromptConfig):
    """Options of the prompt encoder."""

    lr: float = Field(0.001, gt=0, description="learning rate")
    network: Literal["mlp", "lstm"] = Field("mlp", description="what makes the prompt from an embedding of its places")
    hidden: int | None = Field(None, ge=1, description="width inside the network; none: the model's own, as in PEFT")


@METHODS.register("fedptuning")
class FedPTuning(LanguageMethod):
    """Clients train a P-tuning encoder; the server averages its weights, weighted by sample count.

    Shared: the encoder, ``embedding.weight`` ``(n_tokens, width)`` and the layers of its network, and the head if it is
    linear. Personal: nothing. What is exported is the encoder's output, a plain soft prompt: the mean of encoders is
    not the mean of their prompts, because the network is not linear.

    Different from the paper, whose code is not public and whose hyper-parameters are not reported: the encoder's output
    starts from words (``init="random"`` starts as PEFT does), and the head is the frozen one unless
    ``head="linear"``, which the paper trains beside the encoder.
    """

    name: ClassVar[str] = "Multilingual prompt tuning"
    paper: ClassVar[str] = "Zhao et al. 2024, ICLR, arXiv 2507.03003"
    trains: ClassVar[str] = "prompt encoder: embedding (n_tokens, width) and three layers"
    Config: ClassVar[type[MethodConfig]] = FedPTuningConfig
    config: FedPTuningConfig

    def make_kind(self) -> InsertKind:
        config, width, seed = self.config, self.model.width, self.setup.seed
        output = None if config.init == "random" else soft_prompt(config, self.setup).start()[EMBEDDINGS]
        return PromptEncoder(config.n_tokens, width, seed, hidden=config.hidden, network=config.network, output=output)
