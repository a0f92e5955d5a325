import subprocess
import sys

import pytest
import torch

from promptfed.local_optimizers import SGD, Adam, TrainedTensor

KINDS = {
    "sgd": (lambda tensors, decay: SGD(tensors, 0.9, decay), torch.optim.SGD, {"momentum": 0.9}),
    "plain sgd": (lambda tensors, decay: SGD(tensors, 0.0, decay), torch.optim.SGD, {"momentum": 0.0}),
    "adam": (lambda tensors, decay: Adam(tensors, decay), torch.optim.Adam, {}),
    "adamw": (lambda tensors, decay: Adam(tensors, decay, is_decoupled=True), torch.optim.AdamW, {}),
}


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_every_step_is_that_of_torch_to_the_bit(kind, decay):
    make, theirs, options = KINDS[kind]
    start = [torch.randn(4, 8, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    tensors = [t.clone().requires_grad_(True) for t in start]
    references = [t.clone().requires_grad_(True) for t in start]
    optimizer = make([TrainedTensor(tensors[0], 0.02), TrainedTensor(tensors[1], 0.001)], decay)
    groups = [{"params": [references[0]], "lr": 0.02}, {"params": [references[1]], "lr": 0.001}]
    reference = theirs(groups, weight_decay=decay, **options)
    for step in range(20):
        for made, params in ((optimizer, tensors), (reference, references)):
            made.zero_grad()
            losses = [(p * (step + 1)).sin().square().sum() for p in params[: 1 + step % 2]]
            torch.stack(losses).sum().backward()
            made.step()
    assert all(torch.equal(a, b) for a, b in zip(tensors, references, strict=True))


def test_adams_first_step_is_the_learning_rate():
    """Worked by hand: mean and square are both corrected to the gradient, so x moves by rate * g / (|g| + 1e-8)."""
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer = Adam([TrainedTensor(x, 0.1)])
    (x * torch.tensor([3.0, -4.0])).sum().backward()
    optimizer.step()
    assert x.tolist() == pytest.approx([0.9, 2.1], abs=1e-6)


@pytest.mark.slow
def test_training_does_not_load_the_compiler_of_torch():
    code = (
        "import sys, torch; from promptfed.local_training import LocalTraining; x = torch.ones(1, requires_grad=True);"
        "o = LocalTraining().optimizer_for({'x': x}, 0.1, {}); x.sum().backward(); o.step();"
        "print('torch._dynamo' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "False"
