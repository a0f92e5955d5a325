"""What a bundle says and holds of a prompt that was learned on a language model."""

from __future__ import annotations

from typing import Any

from promptfed.config import RunConfig
from promptfed.errors import ConfigError
from promptfed.export.adapter import adapter_use, client_adapter
from promptfed.export.folder import LanguageModelMeta
from promptfed.method import Method
from promptfed.types import ClientPrompt


def language_fields(config: RunConfig, method: Method, prompt: ClientPrompt) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the fields of a bundle's config that say the model, and the files of the adapter (none: PEFT has none)."""
    model = method.setup.language_model
    try:
        adapter = client_adapter(method, prompt)
        use, files = adapter.use, adapter.bare_files()
    except ConfigError:
        use, files = adapter_use(model, method.setup.classes), {}
    about = LanguageModelMeta(**use.model_dump(), precision=config.precision)
    fields = {"language_model": about, "form": model.form, "complete": bool(files)}
    return fields, files
