"""What holds for every method of the shelf."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from promptfed.errors import ConfigError
from promptfed.method import METHODS, Method
from promptfed.types import ClientData, Split

# These ask for more than labelled examples, and have tests of their own.
OTHERS = (
    "fes",
    "fedpcl",
    "descriptor",
    "content_prompt",
    "query_prompt",
    "majority_answer",
    "question_only",
)
WHITE = [name for name in METHODS if METHODS[name].access == "white box" and name not in OTHERS]


def client(number: int, examples: int) -> ClientData:
    nothing = Split((), torch.zeros(0, dtype=torch.int64))
    train = Split((object(),) * examples, torch.zeros(examples, dtype=torch.int64))
    return ClientData(number, f"client {number}", (0,), train, nothing, nothing)


@pytest.mark.parametrize("name", WHITE)
def test_without_training_examples_no_white_box_method_begins(name):
    method = SimpleNamespace(name=METHODS[name].name)
    check = METHODS[name].check_feasible
    assert check is Method.check_feasible
    check(method, [client(0, 0), client(1, 1)])
    for clients in ([], [client(0, 0)], [client(0, 0), client(1, 0)]):
        said = re.escape(f"no client holds a training example, so {METHODS[name].name} makes no step")
        with pytest.raises(ConfigError, match=said):
            check(method, clients)
