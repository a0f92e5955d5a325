"""subset.py: send a random part of the numbers (random masks of Konecny et al. 2016, arXiv 1610.05492)."""

from dataclasses import replace

import torch
from pydantic import Field

from promptfed.errors import ProcessorError
from promptfed.processors.base import PROCESSORS, Outgoing, Processor, ProcessorConfig
from promptfed.prompt_state import PromptState


class SubsetConfig(ProcessorConfig):
    share: float = Field(0.5, gt=0, le=1, description="part of the numbers that is sent")


@PROCESSORS.register("subset")
class Subset(Processor):
    """Send a random part of the numbers of each tensor; the others stay as they were sent down."""

    Config = SubsetConfig
    figures = ("numbers",)

    def check(self, update, broadcast):
        if any(name not in broadcast for name in update):
            raise ProcessorError("needs what was sent down to fill the gaps with")

    def outgoing(self, update, broadcast, state, streams):
        part = {name: t.flatten()[self.chosen(name, t, streams)] for name, t in update.shared.items()}
        numbers = sum(values.numel() for values in part.values())
        return Outgoing(replace(update, shared=PromptState(part)), figures={"numbers": numbers})

    def incoming(self, update, broadcast, streams):
        whole = {}
        for name, values in update.shared.items():
            if name not in broadcast.shared:
                raise ProcessorError(f"finds '{name}', which was not sent down")
            tensor = broadcast.shared[name].clone()
            chosen = self.chosen(name, tensor, streams)
            if values.shape != chosen.shape:
                raise ProcessorError(f"finds {values.numel()} numbers of '{name}', not {len(chosen)}")
            tensor.view(-1)[chosen] = values
            whole[name] = tensor
        return replace(update, shared=PromptState(whole))

    def summary(self, figures):
        return f"subset: {figures[0]['numbers']:g} numbers an update"

    def chosen(self, name, tensor, streams):
        count = max(1, round(self.config.share * tensor.numel()))
        return torch.randperm(tensor.numel(), generator=streams.torch(name))[:count]
