"""README.md of a bundle for a language model: how to use it, with and without promptfed."""

from __future__ import annotations

from collections.abc import Mapping
from string import Template
from typing import TYPE_CHECKING

from promptfed.errors import FormatError
from promptfed.export.folder import LanguageModelMeta
from promptfed.peft_format.config import AdapterConfig, parse_config
from promptfed.peft_format.names import CONFIG, HEAD, WEIGHTS
from promptfed.peft_format.page import KINDS, code, generation_words, how_to_read
from promptfed.printable import printable
from promptfed.readers.json_reader import parse_json

if TYPE_CHECKING:
    from promptfed.export.bundle import Bundle

PAGE = Template("""\
# A prompt bundle for a language model

$whose, learned by federated prompt learning with method `$method`
($rounds, seed $seed) on the frozen model `$model` ($precision), and exported by
promptfed $version. It knows $count classes: $classes.$own$origin

| file | content |
|---|---|
| `prompt.safetensors` | the learned tensors: $tensors |
$files| `promptfed_config.json` | method and options, model and fingerprint, classes, template, label words, checksums |

## With promptfed

In a terminal, beside this file:

    promptfed predict . "$example"$copy
    promptfed predict . --file texts.txt$copy        one text a line

## Without promptfed

$without
""")

MOST_TENSORS = 6
"""Tensors that the page names one by one."""


def language_page(bundle: Bundle, model: LanguageModelMeta, head: Mapping[str, str]) -> str:
    """Return the page; ``head`` is what every bundle's page says. Its Python block runs in the bundle's folder."""
    meta, config = bundle.meta, _adapter_config(bundle)
    share = f"{meta.alpha:.0%} of it is the client's own prompt (alpha, mixed in {meta.space} space): {meta.chosen}."
    names = [name for state in bundle.parts.values() for name in state]
    return PAGE.substitute(
        {**head, "tensors": head["tensors"] if len(names) <= MOST_TENSORS else f"{len(names)} tensors"},
        model=printable(model.public_name),
        precision=model.precision,
        own=f"\n\n{share}" if meta.chosen else "",
        count=len(meta.classes),
        classes=", ".join(meta.classes),
        files="".join(f"| `{name}` | {about} |\n" for name, about in _files(bundle, config)),
        example="This is the text.",
        copy="" if model.base is not None or model.remark else " --backbone lm:FOLDER",
        without=_without(bundle, model, config),
    )


def _adapter_config(bundle: Bundle) -> AdapterConfig | None:
    """Return what the bundle's adapter says of itself; None if it has none that can be read."""
    try:
        return parse_config(parse_json(bundle.adapter[CONFIG])) if CONFIG in bundle.adapter else None
    except FormatError:
        return None


def _files(bundle: Bundle, config: AdapterConfig | None) -> list[tuple[str, str]]:
    files = []
    if config is not None:
        files += [(CONFIG, "the same for PEFT: what kind of adapter it is"), (WEIGHTS, KINDS[config.peft_type])]
    if HEAD in bundle.adapter:
        files.append((HEAD, "`head.weight`, `head.bias`: the linear layer that was trained with it"))
    if bundle.candidate is not None and bundle.candidate.text:
        files.append(("prompt.txt", "the hand-written prompt that is deployed"))
    return files


def _without(bundle: Bundle, model: LanguageModelMeta, config: AdapterConfig | None) -> str:
    if bundle.candidate is not None:
        return "The prompt is a text: put it before yours, as `form` in `promptfed_config.json` says."
    if config is None:
        return (
            f"Method `{bundle.meta.method}` predicts with more than one insert, so PEFT cannot load it. The tensors of "
            "`prompt.safetensors` are plain safetensors."
        )
    remark = f" {model.remark}" if model.remark else ""
    code_block = f"```python\n{code(config, model)}\n```"
    return f"{how_to_read(config, model)}{remark}\n\n{code_block}\n{generation_words(config, model)}".rstrip()
