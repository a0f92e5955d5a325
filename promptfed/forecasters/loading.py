"""Models that forecast series by name: ``tst`` or ``fracast``."""

from __future__ import annotations

from promptfed.errors import ConfigError, unknown_name
from promptfed.examples.series import SeriesForm
from promptfed.forecasters.model import Forecaster
from promptfed.forecasters.names import FORECASTERS


def load_forecaster(name: str, form: SeriesForm, *, device: str = "cpu", precision: str = "float32") -> Forecaster:
    """Load a frozen forecaster.

    Args:
        name: "tst" or "fracast".
        form: What the windows look like.
        device: "cpu", "cuda", "cuda:1" or "auto".
        precision: "float32": the models are too small to gain by less.

    Raises:
        ConfigError: The name or the precision is unknown, or windows are longer than the model takes.
        BackboneError: The weights are not available.
    """
    if precision != "float32":
        raise ConfigError(f"precision '{precision}' does not go with backbone '{name}': leave it out")
    if name == "tst":
        from promptfed.forecasters.tst import load_tst

        return load_tst(form, device=device)
    if name == "fracast":
        from promptfed.forecasters.fracast import load_fracast_model

        return load_fracast_model(form, device=device)
    raise unknown_name("backbone", name, list(FORECASTERS))
