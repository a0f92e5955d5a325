"""The oracle `gemma`: Gemma 3 270M from the package index, in this process."""

from __future__ import annotations

from promptfed.blackbox.oracles.local import language_model
from promptfed.errors import ConfigError
from promptfed.language_models.gemma import converted
from promptfed.oracle_options import OracleOptions
from promptfed.prompt_template import PromptTemplate


def load(
    form: PromptTemplate, rest: str, options: OracleOptions, device: str, precision: str
) -> language_model.LanguageModel:
    """Load the oracle.

    Raises:
        BackboneError: The package is missing; the message names the extra to install.
    """
    if rest:
        raise ConfigError(f"oracle 'gemma' has no 'gemma:{rest}': write gemma, or local:FOLDER for another model")
    return language_model.from_pretrained("gemma", str(converted()), form, options, device, precision)
