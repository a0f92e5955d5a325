"""The processor that docs/extending.md writes works as the page says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from promptfed.config import build_config
from promptfed.errors import ProcessorError
from promptfed.experiment import Experiment
from promptfed.processors.base import PROCESSORS, Streams
from promptfed.prompt_state import PromptState
from promptfed.resolve import resolve
from promptfed.types import Broadcast

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
[CODE] = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if 'register("subset")' in block]


@pytest.fixture
def subset():
    exec(compile(CODE, "docs/extending.md", "exec"), {"__name__": "subset"})
    yield "subset"
    PROCESSORS._entries.pop("subset")


def test_it_sends_a_quarter_of_the_numbers_and_goes_with_quantize(subset):
    options = {"data": "icons:codicons,elusive", "clients": 2, "shots": 1, "rounds": 1, "threads": 1,
               "task_options": {"test_per_class": 2, "val_shots": 1}, "method_options": {"n_ctx": 4}}  # fmt: skip
    chain = [{subset: {"share": 0.25}}, "quantize"]
    experiment = Experiment.build(resolve(build_config({**options, "processors": chain})))
    federation = experiment.federation()
    start = federation.start()
    _, replies = federation.run_round(start)
    numbers = start.shared["ctx"].numel()
    assert [reply.processor_figures["subset.numbers"] for reply in replies] == [numbers / 4] * 2
    assert all(reply.bytes_up < start.shared.nbytes / 6 + 150 for reply in replies)
    for reply in replies:
        changed = (reply.update.shared["ctx"] != start.shared["ctx"]).sum().item()
        assert numbers / 5 < changed <= numbers / 4
    assert federation.processors.summaries([dict(r.processor_figures) for r in replies]) == [
        f"subset: {numbers // 4} numbers an update"
    ]
    update = replace(replies[0].update, shared=PromptState({"ctx": torch.zeros(3)}))
    with pytest.raises(ProcessorError, match="finds 3 numbers of 'ctx'"):
        federation.processors.processors[subset].incoming(update, Broadcast(1, start.shared), Streams(0, subset, 1, 0))
