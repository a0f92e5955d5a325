"""The bundled forecaster: it knows cycles, listens to a guess as far as it is trusted, and is what was shipped."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from promptfed.errors import BackboneError, ConfigError
from promptfed.examples.series import Series, SeriesForm, WindowItem
from promptfed.forecasters.loading import load_forecaster
from promptfed.forecasters.names import is_forecaster

FORM = SeriesForm(variables=("v",), history=168, horizon=24)


def window(values, history=168):
    series = Series("s", values.astype(np.float32)[:, None], np.zeros((len(values), 0), np.float32))
    return WindowItem(series, history, history, 24)


@pytest.fixture(scope="module")
def model():
    return load_forecaster("tst", FORM)


def test_it_goes_on_with_a_daily_cycle(model):
    item = window(20 + 3 * np.sin(2 * np.pi * np.arange(192) / 24))
    windows = model.encode_series([item])
    error = (model.median(model.forecast(windows)) - windows.future).abs().mean()
    assert error < 0.25 * (windows.persistence - windows.future).abs().mean()


def test_quantiles_rise_and_scale_with_the_series(model):
    values = np.random.default_rng(0).standard_normal(192).cumsum()
    small, large = (model.forecast(model.encode_series([window(v)])) for v in (values, 10 * values + 100))
    torch.testing.assert_close(large, 10 * small + 100, atol=1e-2, rtol=1e-3)
    assert (small[..., 2] > small[..., 0]).float().mean() > 0.95


def test_it_takes_a_trusted_guess_and_ignores_one_without_trust(model):
    windows = model.encode_series([window(np.random.default_rng(k).standard_normal(192)) for k in range(20)])
    alone = model.median(model.forecast(windows))
    guess = torch.where(torch.arange(24) < 12, 2.0, -2.0).expand_as(alone)
    torch.testing.assert_close(model.median(model.forecast(windows, guess, torch.zeros_like(guess))), alone)
    distances = [
        (model.median(model.forecast(windows, guess, torch.full_like(guess, trust))) - guess).abs().mean().item()
        for trust in (0.0, 0.5, 0.95)
    ]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 0.35


def test_a_short_past_and_a_length_that_is_no_number_of_tokens():
    model = load_forecaster("tst", SeriesForm(variables=("v",), history=50, horizon=24))
    assert model.forecast(model.encode_series([window(np.sin(np.arange(80.0)), 50)])).shape == (1, 1, 24, 3)


def test_windows_that_are_too_long_are_refused():
    with pytest.raises(ConfigError, match="'horizon' is 60 steps, and backbone 'tst' takes 48 at most"):
        load_forecaster("tst", FORM.model_copy(update={"horizon": 60}))
    with pytest.raises(ConfigError, match="'history' is 400 steps, and backbone 'tst' takes 168"):
        load_forecaster("tst", FORM.model_copy(update={"history": 400}))
    with pytest.raises(ConfigError, match="precision"):
        load_forecaster("tst", FORM, precision="float16")
    assert is_forecaster("fracast")
    assert not is_forecaster("tiny")


def test_it_travels_and_is_found_out_if_it_changed(model):
    copy = pickle.loads(pickle.dumps(model))
    assert copy.fingerprint == model.fingerprint
    copy.verify_frozen()
    with torch.no_grad():
        copy.network.head.bias += 1
    with pytest.raises(BackboneError, match="changed during the run"):
        copy.verify_frozen()


def test_examples_of_another_kind_are_refused(model):
    from promptfed.examples.base import TextItem

    with pytest.raises(ConfigError, match="use task forecast"):
        model.encode_series([TextItem("rain")])
