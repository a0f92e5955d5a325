"""P-tuning: a small network makes the soft prompt from an embedding of its places (Liu et al. 2021, arXiv 2103.10385).

The architecture and the names of its tensors are those of PEFT's PromptEncoder, so that weights can be copied. What is
deployed is its output alone, a soft prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.inserts.base import InsertKind
from promptfed.inserts.soft_prompt import soft_prompt_of
from promptfed.language_models.insert import Insert
from promptfed.prompt_state import PromptState
from promptfed.seeding import torch_stream

EMBEDDING = "embedding.weight"
PROMPT = "prompt_embeddings"
LSTM_LAYERS = 2
Shapes = dict[str, tuple[int, ...]]


class PromptEncoder(InsertKind):
    """An embedding ``(n, width)`` of the places and a network, whose output ``(n, width)`` is the soft prompt.

    "mlp": three linear layers ``width -> hidden -> hidden -> width`` with ReLU between them. "lstm": a bidirectional
    LSTM of two layers and ``2 hidden -> 2 hidden -> width``.

    Args:
        n: Prompt tokens.
        width: The model's, h in the papers.
        seed: The run's.
        hidden: Width inside the network; by default ``width``, as in PEFT.
        network: Which of the two.
        output: Vectors ``(n, width)`` that the output starts from, of a text say: the last layer is solved for them.
            None: the output starts small and random, as in PEFT.
    """

    peft_type: ClassVar[str] = "PROMPT_TUNING"

    def __init__(
        self,
        n: int,
        width: int,
        seed: int,
        *,
        hidden: int | None = None,
        network: Literal["mlp", "lstm"] = "mlp",
        output: Tensor | None = None,
    ) -> None:
        self.n, self.width, self.hidden, self.network = n, width, hidden or width, network
        self.seed, self.output = seed, output

    @property
    def shapes(self) -> Shapes:
        """Names and shapes of what is trained."""
        width, hidden = self.width, self.hidden
        if self.network == "mlp":
            layers: Shapes = {"0": (hidden, width), "2": (hidden, hidden), "4": (width, hidden)}
        else:
            layers = {"0": (2 * hidden, 2 * hidden), "2": (width, 2 * hidden)}
        shapes: Shapes = {EMBEDDING: (self.n, width)}
        for number, shape in layers.items():
            shapes |= {f"mlp_head.{number}.weight": shape, f"mlp_head.{number}.bias": shape[:1]}
        if self.network == "lstm":
            shapes |= {name: shape for part in self._lstm_shapes for name, shape in part.items()}
        return shapes

    @property
    def _lstm_shapes(self) -> list[Shapes]:
        """Names and shapes of each layer and direction, in the order of torch.lstm."""
        return [
            {
                f"lstm_head.weight_ih_l{layer}{end}": (4 * self.hidden, 2 * self.hidden if layer else self.width),
                f"lstm_head.weight_hh_l{layer}{end}": (4 * self.hidden, self.hidden),
                f"lstm_head.bias_ih_l{layer}{end}": (4 * self.hidden,),
                f"lstm_head.bias_hh_l{layer}{end}": (4 * self.hidden,),
            }
            for layer in range(LSTM_LAYERS)
            for end in ("", "_reverse")
        ]

    @property
    def _last(self) -> str:
        return "mlp_head.4" if self.network == "mlp" else "mlp_head.2"

    def start(self, *purpose: str | int) -> PromptState:
        """Return an embedding N(0, 1) and layers as torch starts them, U(-b, b) with ``b = 1 / sqrt(inputs)``.

        With an output to start from, the bias of the last layer is its mean, and the weight the smallest that gives the
        rest; if ``n`` is more than the layer's inputs, the output is as near as it can be.
        """
        shapes = self.shapes

        def uniform(name: str, inputs: int) -> Tensor:
            draw = torch.rand(shapes[name], generator=torch_stream(self.seed, *purpose, "prompt encoder", name))
            return (2 * draw - 1) / math.sqrt(inputs)

        values = {}
        for name in shapes:
            layer = name.rpartition(".")[0]
            inputs = self.hidden if layer == "lstm_head" else shapes[f"{layer}.weight"][-1]
            values[name] = uniform(name, inputs)
        stream = torch_stream(self.seed, *purpose, "prompt encoder", EMBEDDING)
        values[EMBEDDING] = torch.randn(shapes[EMBEDDING], generator=stream)
        if self.output is not None:
            inside, output = self._inside(values).double(), self.output.cpu().double()
            values[f"{self._last}.bias"] = output.mean(0)
            spread = output - output.mean(0)
            values[f"{self._last}.weight"] = torch.linalg.lstsq(inside, spread, driver="gelsd").solution.T
        return PromptState(values)

    def _inside(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return what the last layer takes ``(n, inputs)``."""
        states = values[EMBEDDING]
        if self.network == "mlp":
            states = F.relu(F.linear(states, values["mlp_head.0.weight"], values["mlp_head.0.bias"]))
            return F.relu(F.linear(states, values["mlp_head.2.weight"], values["mlp_head.2.bias"]))
        weights = [values[name] for part in self._lstm_shapes for name in part]
        zeros = states.new_zeros(2 * LSTM_LAYERS, 1, self.hidden)
        states = torch.lstm(states[None], (zeros, zeros), weights, True, LSTM_LAYERS, 0.0, False, True, True)[0][0]
        return F.relu(F.linear(states, values["mlp_head.0.weight"], values["mlp_head.0.bias"]))

    def prompt(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the soft prompt ``(n, width)`` of the network's ``values``."""
        return F.linear(self._inside(values), values[f"{self._last}.weight"], values[f"{self._last}.bias"])

    def insert(self, values: Mapping[str, Tensor]) -> Insert:
        return Insert(soft=self.prompt(values))

    def interpolate(self, start: PromptState, end: PromptState, alpha: float) -> None:
        """Return None: a mixture of two networks' weights makes no mixture of their prompts."""

    def start_from(self, insert: Insert) -> PromptState:
        """Return a network whose output is the adapter's prompt; PEFT saves no more of P-tuning than that."""
        soft = soft_prompt_of(insert, self.n, self.width)
        kind = PromptEncoder(self.n, self.width, self.seed, hidden=self.hidden, network=self.network, output=soft)
        return kind.start()

    def peft_config(self, values: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return a plain soft prompt's fields: PEFT itself saves no more of P-tuning than its output."""
        return {
            "peft_type": self.peft_type,
            "num_virtual_tokens": len(values[EMBEDDING]),
            "prompt_tuning_init": "RANDOM",
        }

    def peft_tensors(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            return {PROMPT: self.prompt(values)}
