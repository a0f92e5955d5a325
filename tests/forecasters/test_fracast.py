"""Fracast behind the common face: the package's own forecast without a guess, another with one."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from promptfed.errors import ConfigError

from ..small_series import method_of, setup_of, task_of

pytest.importorskip("fracast")


@pytest.fixture(scope="module")
def setting():
    task = task_of()
    return task, setup_of(task, backbone="fracast")


def test_without_a_guess_it_is_the_package_s_own_forecast(setting):
    from fracast import FracastModel

    task, setup = setting
    items = task.clients[0].train.items[:2]
    out = setup.model.forecast(setup.model.encode_series(items))
    expected = FracastModel.from_pretrained(weights="fp32").forecast_batch(
        np.concatenate([item.past.T for item in items]), horizon=24
    )
    np.testing.assert_allclose(out.flatten(0, 1).numpy(), expected, atol=2e-4)


def test_trust_moves_it_towards_a_guess_and_a_past_is_encoded_once(setting):
    task, setup = setting
    items = task.clients[0].train.items[:2]
    windows = setup.model.encode_series(items)
    before = setup.model.usage()
    assert setup.model.encode_series(items).states["static"].equal(windows.states["static"])
    assert setup.model.usage() == before
    alone = setup.model.forecast(windows)
    guess = (setup.model.median(alone) + 2).requires_grad_()
    untrusted = setup.model.forecast(windows, guess, torch.zeros_like(guess))
    torch.testing.assert_close(untrusted, alone)
    trusted = setup.model.forecast(windows, guess, torch.ones_like(guess))
    assert setup.model.median(trusted).mean() > setup.model.median(alone).mean()
    trusted.sum().backward()
    assert guess.grad.abs().sum() > 0


def test_it_travels_and_stays_frozen(setting):
    _, setup = setting
    copy = pickle.loads(pickle.dumps(setup.model))
    assert copy.fingerprint == setup.model.fingerprint
    copy.verify_frozen()


def test_it_takes_one_pass(setting):
    with pytest.raises(ConfigError, match="takes one pass"):
        method_of("metepfl", setting[1], passes=2)
