"""README.md of an adapter: what it is for, and code that gives the same scores with PEFT and transformers alone."""

from __future__ import annotations

from string import Template
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from promptfed.peft_format.adapter import Adapter
from promptfed.peft_format.config import SOFT_TYPES, AdapterConfig
from promptfed.peft_format.names import HEAD
from promptfed.printable import printable

UNNAMED = "FOLDER-OF-THE-BASE-MODEL"
"""Stands in the code for a base model without a public name."""
AUTO_CLASS = {
    "causal": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM", "encoder-decoder": "AutoModelForSeq2SeqLM",
    "encoder": "AutoModel",
}  # fmt: skip
Answer = Literal["words", "cosines", "layer", "text"]
"""What an example is answered by: label words, cosines to descriptions, a trained layer, or the text that follows."""


class AdapterUse(BaseModel):
    """How the base model is read with an adapter, and what its output means.

    Attributes:
        name: What the user calls the base model.
        base: What transformers loads the base model by; None: it has no public name.
        fingerprint: Of the base model.
        family: "causal", "masked", "encoder" or "encoder-decoder".
        answer: What an example is answered by.
        text: An example, in the template that the prompt was trained with.
        ids: Its tokens, if the tokenizer would make others of ``text`` as a whole.
        labels: Class -> the token of its label word.
        descriptions: Class -> its description.
        remark: Another sentence on the base model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    base: str | None = None
    fingerprint: str
    family: Literal["causal", "masked", "encoder", "encoder-decoder"]
    answer: Answer
    text: str
    ids: tuple[int, ...] = ()
    labels: dict[str, int] = Field(default_factory=dict)
    descriptions: dict[str, str] = Field(default_factory=dict)
    remark: str = ""

    @property
    def public_name(self) -> str:
        """The model's name without the folder that it lies in."""
        if self.base is not None or self.remark:
            return self.name
        return self.name.rstrip("/").rpartition("/")[2]


PAGE = Template("""\
---
$front
---

# An adapter for PEFT

$lead

It is a $what for the frozen model `$model` (promptfed's fingerprint $fingerprint): no weight of that model was
trained, and none is in this folder.$remark

| file | content |
|---|---|
$files

## Use

$layout

```python
$code
```
$generation""")

START = Template("""\
import torch
from peft import PeftModel
from transformers import $auto, AutoTokenizer
BASE = $base
tokenizer = AutoTokenizer.from_pretrained(BASE)
base = $auto.from_pretrained(BASE, dtype=torch.float32).eval()
""")

WORDS = Template("""\
model = PeftModel.from_pretrained(base, ".").eval()
$row
with torch.inference_mode():
    logits = $call.logits[0, $place]
words = $labels  # class -> token of its label word
print(max(words, key=lambda name: float(logits[words[name]])))""")

START_TOKEN = "decoder_input_ids=torch.tensor([[base.config.decoder_start_token_id]])"
CALL = {"encoder-decoder": f"model(**row, {START_TOKEN})"}
"""Family -> how a row is read, if it is not ``model(**row)``."""
PLACE = {
    "causal": "-1", "encoder-decoder": "0",
    "masked": '$n + row["input_ids"][0].tolist().index(tokenizer.mask_token_id)',
}  # fmt: skip
"""Family -> the position that answers; ``$n`` tokens of a prompt stand before the mask."""

COSINES = Template("""\
def mean(model, text):
    row = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        return torch.nn.functional.normalize(model(**row).last_hidden_state[0].mean(0), dim=0)
classes = $descriptions
described = {name: mean(base, words) for name, words in classes.items()}  # without the adapter
model = PeftModel.from_pretrained(base, ".").eval()
vector = mean(model, $text)
print(max(described, key=lambda name: float(described[name] @ vector)))""")

LAYER = Template("""\
from safetensors.torch import load_file
model, head = PeftModel.from_pretrained(base, ".").eval(), load_file("head.safetensors")
$row
$state
scores = head["head.weight"] @ state + head["head.bias"]
print($classes[int(scores.argmax())])""")

MEAN_STATE = """\
with torch.inference_mode():
    state = torch.nn.functional.normalize(model(**row).last_hidden_state[0].mean(0), dim=0)"""

HEAD_INPUT = Template("""\
states = []  # what the word head takes
base.get_output_embeddings().register_forward_pre_hook(lambda module, inputs: states.append(inputs[0]))
with torch.inference_mode():
    $call
state = states[0][0, $place]""")

TEXT = Template("""\
model = PeftModel.from_pretrained(base, ".").eval()
$row
ids = row["input_ids"]
$loop
print(tokenizer.decode(answer, skip_special_tokens=True))""")

GENERATE = """\
answer = model.generate(input_ids=ids, max_new_tokens=40)[0, ids.shape[1]:]"""

LOOP = """\
answer = []
with torch.inference_mode():
    for _ in range(40):
        row = torch.cat([ids, torch.tensor([answer], dtype=torch.long)], dim=1)
        following = int(model(input_ids=row).logits[0, -1].argmax())
        if following == base.config.eos_token_id:
            break
        answer.append(following)"""

WRONG = Template("""\

## Writing text

`generate` of PEFT 0.21 on transformers 5 is wrong for $kind: it gives other words than `forward`, and no error.
$instead
""")

WITH_VECTORS = """\
This gives what `forward` gives, with any version:

```python
from safetensors.torch import load_file
prompt = load_file("adapter_model.safetensors")["prompt_embeddings"]
ids = tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
vectors = torch.cat([prompt[None], base.get_input_embeddings()(ids)], dim=1)
mask = torch.ones(vectors.shape[:2], dtype=torch.long)
answer = base.generate(inputs_embeds=vectors, attention_mask=mask, max_new_tokens=40)
print(tokenizer.decode(answer[0], skip_special_tokens=True))
```"""

WITH_LOOP = "Take the most probable next word of `forward`, add it to the row, and call it again."


def adapter_page(adapter: Adapter, use: AdapterUse, lead: str) -> str:
    """Return the page. Its first Python block runs as it stands in the adapter's folder.

    Args:
        adapter: The adapter.
        use: How it is used.
        lead: The paragraph on whose prompt it is and where it comes from.
    """
    front = ["library_name: peft"]
    if use.base is not None:
        front.insert(0, f"base_model: {printable(use.base)}")
    files = [
        ("adapter_config.json", "the kind of adapter, and what PEFT needs to know of it"),
        ("adapter_model.safetensors", _tensors(adapter)),
    ]
    if use.answer == "layer":
        files.append((HEAD, "`head.weight`, `head.bias`: a linear layer on the state that answers; PEFT ignores it"))
    return PAGE.substitute(
        front="\n".join(front),
        lead=lead,
        what=KINDS[adapter.config.peft_type],
        model=printable(use.public_name),
        fingerprint=use.fingerprint[:12],
        remark=use.remark and f" {use.remark}",
        files="\n".join(f"| `{name}` | {about} |" for name, about in files),
        layout=how_to_read(adapter.config, use),
        code=code(adapter.config, use),
        generation=generation_words(adapter.config, use),
    )


# ------------------------------------------------------------------------------------------------- internals

KINDS = {
    "PROMPT_TUNING": "soft prompt", "P_TUNING": "soft prompt", "PREFIX_TUNING": "prefix of keys and values",
    "LORA": "set of low-rank changes (LoRA)", "IA3": "set of factors on activations (IA3)",
}  # fmt: skip


def _tensors(adapter: Adapter) -> str:
    if len(adapter.tensors) == 1:
        ((name, tensor),) = adapter.tensors.items()
        return f"`{name}` {tuple(tensor.shape)}"
    return f"{len(adapter.tensors)} tensors, of {len(adapter.paths)} modules"


def how_to_read(config: AdapterConfig, use: AdapterUse) -> str:
    """Return the sentences before the code: where a prompt stands, and what to watch."""
    n, lines = config.num_virtual_tokens, []
    if config.peft_type in SOFT_TYPES:
        lines.append(
            f"The {n} vectors stand before everything that the tokenizer writes, its start marker included, in the "
            "space of the model's scaled token vectors. Put a batch's padding on the right."
        )
        if use.family == "encoder-decoder":
            lines.append("They stand before the encoder's input; the decoder has none (num_transformer_submodules 1).")
    elif config.peft_type == "PREFIX_TUNING":
        lines.append(
            f"Keys and values of {n} tokens stand before those of the text in every layer; its start marker stays."
        )
    if config.task_type == "FEATURE_EXTRACTION" and use.family == "masked":
        lines.append(
            "PEFT has no task type for masked models; under FEATURE_EXTRACTION it passes the logits on unchanged"
            + (f", so the mask is found {n} places further back." if n else ".")
        )
    if use.base is None:
        lines.append(f"Put the folder of the base model in the place of `{UNNAMED}`.")
    lines.append("With `pip install peft transformers`, in this folder:")
    return " ".join(lines)


def code(config: AdapterConfig, use: AdapterUse) -> str:
    """Return Python that runs as it stands in a folder with the adapter's files, and prints an answer."""
    start = START.substitute(auto=AUTO_CLASS[use.family], base=repr(use.base or UNNAMED))
    row, is_soft = _row(use), config.peft_type in SOFT_TYPES
    call = CALL.get(use.family, "model(**row)")
    place = PLACE.get(use.family, "").replace("$n", str(config.num_virtual_tokens if is_soft else 0))
    if use.answer == "words":
        return start + WORDS.substitute(row=row, call=call, place=place, labels=repr(use.labels))
    if use.answer == "cosines":
        return start + COSINES.substitute(text=repr(use.text), descriptions=repr(use.descriptions))
    if use.answer == "layer":
        state = MEAN_STATE if use.family == "encoder" else HEAD_INPUT.substitute(call=call, place=place)
        return start + LAYER.substitute(row=row, state=state, classes=repr(list(use.descriptions)))
    loop = GENERATE if config.peft_type in ("LORA", "IA3") else LOOP
    return start + TEXT.substitute(row=row, loop=loop)


def _row(use: AdapterUse) -> str:
    """Return the line that makes tokens of the example."""
    if not use.ids:
        return f'row = tokenizer({use.text!r}, return_tensors="pt", return_token_type_ids=False)'
    return (
        f"# {use.text!r}, its parts tokenized one by one, without the tokenizer's end marker\n"
        f'row = {{"input_ids": torch.tensor([{list(use.ids)}])}}\n'
        'row["attention_mask"] = torch.ones_like(row["input_ids"])'
    )


def generation_words(config: AdapterConfig, use: AdapterUse) -> str:
    """Return the section on ``generate``; empty where there is nothing to say."""
    if use.family != "causal" or config.peft_type in ("LORA", "IA3"):
        return ""
    if config.peft_type in SOFT_TYPES:
        return WRONG.substitute(kind="soft prompts, from the second token on", instead=WITH_VECTORS)
    return WRONG.substitute(kind="prefixes", instead=WITH_LOOP)
