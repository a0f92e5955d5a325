"""FedPrompt: clients tune a soft prompt of a frozen language model, and the server averages it."""

from __future__ import annotations

from typing import ClassVar

from promptfed.method import METHODS, MethodConfig
from promptfed.prompts.soft_prompt_method import SoftPromptConfig, SoftPromptMethod


class FedPromptConfig(SoftPromptConfig):
    """FedPrompt's options."""


@METHODS.register("fedprompt")
class FedPrompt(SoftPromptMethod):
    """Clients train ``prompt_embeddings`` on their own texts; the server takes the mean, weighted by sample count.

    Shared: ``prompt_embeddings`` ``(n_tokens, width)``, and the head if it is linear. Personal: nothing. What the paper
    calls split aggregation is this: the prompt travels, and the model does not.

    Different from the paper: the prompt stands before the model's start marker, which is PEFT's layout, and starts
    from words; the paper has the text first and OpenPrompt's draws. Local steps are epochs, not up to 1,000 steps, and
    the optimiser starts afresh each round. The defaults are 10 vectors and a rate of 0.03; the paper's are 20, and 0.3
    on BERT.
    """

    name: ClassVar[str] = "FedPrompt"
    paper: ClassVar[str] = "Zhao et al. 2023, arXiv 2208.12268"
    trains: ClassVar[str] = "soft prompt (n_tokens, width)"
    example_dp: ClassVar[bool] = True
    Config: ClassVar[type[MethodConfig]] = FedPromptConfig
    config: FedPromptConfig
