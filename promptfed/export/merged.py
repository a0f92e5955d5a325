"""A language model whose own matrices hold what a client learned: ``W + s B A``, as a folder of transformers."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from torch import Tensor

from promptfed.errors import BundleError, ConfigError
from promptfed.export.adapter import client_adapter
from promptfed.language_models.insert import Factors
from promptfed.language_models.model import LanguageModel
from promptfed.language_models.pretrained import quiet
from promptfed.low_rank import dense, total
from promptfed.method import Method
from promptfed.peft_format.names import README
from promptfed.printable import LONGEST, printable
from promptfed.types import ClientPrompt

PAGE = Template("""\
# A language model with an adapter merged into it

$lead

These are all weights of `$model`, $count of whose matrices have a low-rank change added (LoRA). transformers loads
this folder as it loads any other; no PEFT and no promptfed is needed. Its licence is that of the model.
""")


@dataclass(frozen=True, eq=False)
class MergedModel:
    """A frozen model, the changes of its matrices by their paths, and a README. The model itself stays as it is."""

    model: LanguageModel
    changes: Mapping[str, tuple[Factors, ...]]
    page: str = ""

    def weights(self) -> dict[str, Tensor]:
        """Return all weights by name, those of changed matrices with ``s B A`` added in float32."""
        weights: dict[str, Tensor] = dict(self.model.model.state_dict())
        modules = dict(self.model.model.named_modules())
        for path, terms in self.changes.items():
            weight = weights[f"{path}.weight"]
            change = dense(total(terms)).float()
            if type(modules[path]).__name__ == "Conv1D":  # GPT-2 keeps its weights as (in, out)
                change = change.T
            weights[f"{path}.weight"] = (weight.float() + change.to(weight.device)).to(weight.dtype)
        return weights

    def save(self, folder: Path) -> Path:
        """Write model and tokenizer into the new ``folder``, whole or not at all, and return it.

        Raises:
            BundleError: The folder is there and not empty, or the disk refuses.
        """
        shown = printable(folder, LONGEST)
        target = Path(os.path.realpath(folder))
        draft = target.parent / f".{target.name[:100]}.promptfed-{secrets.token_hex(8)}.draft"
        try:
            if target.exists() and (not target.is_dir() or any(target.iterdir())):
                raise BundleError(f"'{shown}' is there already: a merged model is written into a new folder")
            draft.mkdir(parents=True)
            try:
                with quiet():
                    self.model.model.save_pretrained(draft, state_dict=self.weights())
                    self.model.tokenizer.save_pretrained(draft)
                (draft / README).write_text(self.page, encoding="utf-8")
                if target.exists():
                    target.rmdir()
                draft.rename(target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        except OSError as error:
            raise BundleError(f"cannot write '{shown}': {error.strerror or error}; choose another folder") from error
        return folder


def merged_model(method: Method, prompt: ClientPrompt, lead: str) -> MergedModel:
    """Return the model of ``method`` with what a client with ``prompt`` deploys merged into its matrices.

    ``lead`` is the first paragraph of its README.

    Raises:
        ConfigError: It is no change of matrices alone, or the model's matrices are quantised.
    """
    exported = client_adapter(method, prompt)
    insert, model = exported.adapter.insert(), method.setup.language_model
    if not insert.low_rank:
        raise ConfigError(
            f"--merged is for low-rank changes of a model's matrices (LoRA), and {method.name} trains {method.trains}: "
            "leave it out"
        )
    if exported.head:
        raise ConfigError(
            "--merged writes the model alone, and this client has a linear head of its own (head=linear): leave it out"
        )
    modules: dict[str, Any] = dict(model.model.named_modules())
    if odd := [path for path in insert.low_rank if not modules[path].weight.is_floating_point()]:
        raise ConfigError(
            f"--merged adds to matrices of floats, and '{odd[0]}' is quantised: train on the model in float32 or "
            "bfloat16"
        )
    name = printable(exported.use.public_name)
    return MergedModel(model, insert.low_rank, PAGE.substitute(lead=lead, model=name, count=len(insert.low_rank)))
