"""The README.md of a bundle: what it is, and how to use it with promptfed and without."""

from __future__ import annotations

from string import Template
from typing import TYPE_CHECKING

from promptfed.counts import number_of
from promptfed.export.folder import PIXELS, SOFT, TEXT, BackboneMeta, OracleMeta
from promptfed.export.language_page import language_page
from promptfed.export.origin import provenance, whose_prompt
from promptfed.prompt_template import PromptTemplate

if TYPE_CHECKING:
    from promptfed.export.bundle import Bundle

OPEN_CLIP, CLIP_HF = "open_clip:", "clip-hf:"
FOLDER, HUB = "local-dir:", "hf-hub:"
LIBRARY_OPTIONS = ("image_mean", "image_std", "image_interpolation", "image_resize_mode", "force_quick_gelu")
"""Arguments of open_clip that a bundle may name."""

BACKBONE_PAGE = Template("""\
# A prompt bundle

$whose, learned by federated prompt learning with method `$method`
($rounds, seed $seed) on the frozen backbone `$backbone` ($precision), and exported by
promptfed $version. It knows $count classes: $classes.$own$origin

| file | content |
|---|---|
| `prompt.safetensors` | the learned tensors: $tensors |
| `class_text_features.safetensors` | `features` ($count, $dim), unit length, one row a class; `logit_scale` |
| `promptfed_config.json` | method and options, backbone and fingerprint, class names, checksums |

## With promptfed

These class names, and any others (in a terminal, beside this file):

    promptfed predict . photo.jpg
    promptfed predict . photo.jpg --classes "cat,dog,lighthouse"

## Without promptfed

$without

```python
$code
```
""")

WITH_OPEN_CLIP = """\
The text side is ready in `class_text_features.safetensors`; image features come from open_clip itself
(`pip install open_clip_torch safetensors`). Run this in the bundle's folder:"""

OPEN_CLIP_CODE = Template("""\
import json, numpy as np, open_clip, torch
from PIL import Image
from safetensors.numpy import load_file
model, _, preprocess = open_clip.create_model_and_transforms($arguments)
with torch.inference_mode():
    image = model.eval().encode_image(preprocess(Image.open("photo.jpg").convert("RGB"))[None]).numpy()
text = load_file("class_text_features.safetensors")
logits = text["logit_scale"] * image / np.linalg.norm(image, axis=1, keepdims=True) @ text["features"].T
print([json.load(open("promptfed_config.json"))["classes"][i] for i in logits.argmax(axis=1)])""")

WITH_TRANSFORMERS = """\
The text side is ready in `class_text_features.safetensors`; image features come from transformers itself
(`pip install transformers torchvision safetensors`). Run this in the bundle's folder:"""

TRANSFORMERS_CODE = Template("""\
import json, numpy as np, torch
from PIL import Image
from safetensors.numpy import load_file
from transformers import AutoImageProcessor, AutoModel
model, prepare = AutoModel.from_pretrained($folder).eval(), AutoImageProcessor.from_pretrained($folder)
with torch.inference_mode():
    image = model.get_image_features(**prepare(Image.open("photo.jpg").convert("RGB"), return_tensors="pt"))
image = getattr(image, "pooler_output", image).numpy()
text = load_file("class_text_features.safetensors")
logits = text["logit_scale"] * image / np.linalg.norm(image, axis=1, keepdims=True) @ text["features"].T
print([json.load(open("promptfed_config.json"))["classes"][i] for i in logits.argmax(axis=1)])""")

WITH_NUMPY = Template("""\
The text side is ready in `class_text_features.safetensors`. The image tower of `$backbone` comes with promptfed, so
image features are made there once (`load_backbone("$backbone")`, its `preprocess` and `encode_images`) and saved
as `image_features.npy`, a float array (images, $dim). Classifying them needs numpy and safetensors only:""")

NUMPY_CODE = """\
import json, numpy as np
from safetensors.numpy import load_file
image = np.load("image_features.npy")
text = load_file("class_text_features.safetensors")
logits = text["logit_scale"] * image / np.linalg.norm(image, axis=1, keepdims=True) @ text["features"].T
print([json.load(open("promptfed_config.json"))["classes"][i] for i in logits.argmax(axis=1)])"""

ONE_CLASS = """\
print([json.load(open("promptfed_config.json"))["classes"][i] for i in logits.argmax(axis=1)])"""
SEVERAL_CLASSES = """\
config = json.load(open("promptfed_config.json"))  # a class is a label where sigmoid(logit + bias) >= 0.5
print([[name for name, x in zip(config["classes"], row) if x + config["label_bias"] >= 0] for row in logits])"""

EXAMPLE = "This stands for the text to be sorted."
QUESTION = "This stands for the question."

ORACLE_PAGE = Template("""\
# A prompt bundle for a black box

$whose, learned by federated prompt learning with method `$method`
($rounds, seed $seed) for the oracle `$oracle`, and exported by promptfed $version.
$knows$own$origin

| file | content |
|---|---|
| `prompt.safetensors` | what the method trained: $tensors |
$files| `promptfed_config.json` | method, oracle and fingerprint, template, classes, label words, checksums |

## What is sent

$sent

## With promptfed

In a terminal, beside this file:

$commands

## Without promptfed

$without
""")

RENDER = """\
import json, re
from jinja2.sandbox import ImmutableSandboxedEnvironment as Sandbox
config = json.load(open("promptfed_config.json"))
form, prompt = config["form"], open("prompt.txt", encoding="utf-8").read()
def request(text):
    template = Sandbox(keep_trailing_newline=True).from_string(form["template"])
    said = template.render(prompt=prompt, text=text, mask="[MASK]")
    return re.sub(r"[ \\t]+", " ", said).strip(" \\t")
print(request("Where is it?"))"""

LABELS = """
print("say one of:", [form["words"].get(name, name.replace("_", " ")) for name in config["classes"]])"""

EMBED = """\
import json
from sentence_transformers import SentenceTransformer
config = json.load(open("promptfed_config.json"))
form, prompt = config["form"], open("prompt.txt", encoding="utf-8").read()
labels = [form["descriptions"].get(c, form["words"].get(c, c.replace("_", " "))) for c in config["classes"]]
model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
text, *described = model.encode([f"{prompt} Where is it?", *labels], normalize_embeddings=True)
print(config["classes"][max(range(len(labels)), key=lambda i: float(described[i] @ text))])"""

VECTORS = """\
from safetensors.numpy import load_file
print(load_file("soft_prompt.safetensors")["soft"].shape)"""


def readme(bundle: Bundle) -> str:
    """Return the page for ``bundle``. Its Python block, if it has one, runs as it stands, in the bundle's folder."""
    meta = bundle.meta
    tensors = [f"`{part}/{name}` {tuple(t.shape)}" for part, state in bundle.parts.items() for name, t in state.items()]
    head = {
        "whose": whose_prompt(meta.origin, meta.client, meta.client_name),
        "origin": provenance(meta.origin),
        "method": meta.method,
        "rounds": number_of("round", meta.rounds),
        "seed": str(meta.seed),
        "version": meta.promptfed_version,
        "tensors": ", ".join(tensors) or "none (this method learns nothing)",
    }
    if meta.backbone is not None:
        return _backbone_page(bundle, meta.backbone, head)
    if meta.language_model is not None:
        return language_page(bundle, meta.language_model, head)
    assert meta.oracle is not None, "every bundle is for one of the three"
    assert meta.form is not None, "which says how its examples are put"
    return _OraclePage(bundle, meta.oracle, meta.form).page(head)


def _backbone_page(bundle: Bundle, backbone: BackboneMeta, head: dict[str, str]) -> str:
    meta, name, dim = bundle.meta, backbone.name, backbone.embed_dim
    if name.startswith(OPEN_CLIP):
        without, code = WITH_OPEN_CLIP, OPEN_CLIP_CODE.substitute(arguments=_open_clip_arguments(backbone))
    elif name.startswith(CLIP_HF):
        without, code = WITH_TRANSFORMERS, TRANSFORMERS_CODE.substitute(folder=repr(name.removeprefix(CLIP_HF)))
    else:
        without, code = WITH_NUMPY.substitute(backbone=name, dim=dim), NUMPY_CODE
    if meta.label_bias is not None:
        code = code.replace(ONE_CLASS, SEVERAL_CLASSES)
    share = f"{meta.alpha:.0%} of it is the client's own prompt (alpha, mixed in {meta.space} space): {meta.chosen}."
    return BACKBONE_PAGE.substitute(
        head,
        backbone=name,
        precision=backbone.precision,
        own=f"\n\n{share}" if meta.chosen else "",
        count=len(meta.classes),
        classes=", ".join(meta.classes),
        dim=dim,
        without=without,
        code=code,
    )


def _open_clip_arguments(backbone: BackboneMeta) -> str:
    """Return the arguments by which open_clip makes the model, as Python."""
    place, mark, options = backbone.name.removeprefix(OPEN_CLIP).rpartition("?")
    if not mark or "=" not in options:
        place = backbone.name.removeprefix(OPEN_CLIP)
    if place.startswith((FOLDER, HUB)):  # which names the weights too
        values = [repr(place)]
    else:
        model, _, tag = place.partition("/")
        values = [repr(model), f"pretrained={tag!r}"]
    chosen = [
        f"{name}={value!r}" for name, value in (backbone.library_options or {}).items() if name in LIBRARY_OPTIONS
    ]
    return ", ".join(values + chosen)


class _OraclePage:
    """The page of a bundle for a black box."""

    def __init__(self, bundle: Bundle, oracle: OracleMeta, form: PromptTemplate) -> None:
        self.meta, self.candidate, self.oracle, self.form = bundle.meta, bundle.candidate, oracle, form
        self.kind = oracle.name.partition(":")[0]

    def page(self, head: dict[str, str]) -> str:
        """Return it; ``head`` is what every bundle's page says."""
        meta, model = self.meta, self.oracle.options.get("model")
        classes = f"It knows {len(meta.classes)} classes: {', '.join(meta.classes)}."
        own = f"\n{meta.alpha:.0%} of it is the client's own prompt (alpha): {meta.chosen}." if meta.chosen else ""
        return ORACLE_PAGE.substitute(
            head,
            oracle=f"{self.oracle.name}, model {model}" if model else self.oracle.name,
            knows="It answers questions in free text." if meta.examples == "questions" else classes,
            own=own,
            files="".join(f"| `{name}` | {about} |\n" for name, about in self._files()),
            sent=self._sent(),
            commands=self._commands(),
            without=self._without(),
        )

    def _files(self) -> list[tuple[str, str]]:
        prompt, names = self.candidate, self.meta.sha256
        about = []
        if prompt is not None and TEXT in names:
            about.append((TEXT, "the prompt that is deployed" if prompt.text else "empty: no prompt is the best one"))
        if prompt is not None and prompt.soft is not None and SOFT in names:
            about.append(
                (SOFT, f"`soft` {tuple(prompt.soft.shape)}: vectors in the place of a text prompt (n_tokens, dim)")
            )
        if prompt is not None and prompt.pixels is not None and PIXELS in names:
            about.append((PIXELS, f"`pixels` {tuple(prompt.pixels.shape)}: added to every preprocessed image"))
        return about

    def _sent(self) -> str:
        meta, prompt = self.meta, self.candidate
        more = "" if meta.complete else (
            f"Method `{meta.method}` predicts with more than one prompt, or changes what comes back: what is sent is "
            "made from `prompt.safetensors`, by promptfed."
        )  # fmt: skip
        if prompt is None:
            return more
        more = more and f"{more} The prompt below is part of it, or one of many.\n\n"
        if meta.examples == "images":
            before = "<vectors>" if prompt.soft is not None else prompt.text
            added = " with the pixel prompt added after preprocessing" if prompt.pixels is not None else ""
            vectors = " (the vectors stand as token embeddings before its words)" if prompt.soft is not None else ""
            shown = _indented(f"{before} {meta.classes[0]}.".strip())
            return f"{more}An image{added}, and for every class a text with its name{vectors}, as here:\n\n{shown}"
        if prompt.soft is not None:
            return more + self._soft_place()
        example = QUESTION if meta.examples == "questions" else EXAMPLE
        if self.kind == "minilm":
            text = f"The prompt and the text, as one text:\n\n{_indented(f'{prompt.text} {example}'.strip())}"
            return f"{more}{text}\n\n{self._nearest('sentence vectors')}"
        text = "This text (as a completion, or as the message of a chat):\n\n"
        text += _indented(self.form.render(prompt.text, example, mask="[MASK]"))
        if meta.examples == "questions":
            most = self.form.answer_tokens
            return f"{more}{text}\n\nThe answer is what the model writes next, at most {most} tokens."
        return f"{more}{text}\n\n{self._most_probable()}"

    def _soft_place(self) -> str:
        if self.kind == "minilm":
            return (
                "The vectors stand between [CLS] and the text's own token embeddings (`inputs_embeds`):\n\n"
                f"{_indented(f'[CLS] <vectors> {EXAMPLE} [SEP]')}\n\n"
                f"{self._nearest('mean token vectors')}"
            )
        return (
            "Token embeddings of this text, with the vectors where it says so (`inputs_embeds`; over HTTP vLLM's "
            f"`prompt_embeds`):\n\n{_indented(self.form.render('<vectors>', EXAMPLE, mask='[MASK]'))}\n\n"
            f"{self._most_probable()}"
        )

    def _nearest(self, vectors: str) -> str:
        listed = "\n".join(f"    {name}: {self.form.description(name)}" for name in self.meta.classes)
        return f"The class is the one whose description lies nearest (cosine of {vectors}):\n\n{listed}"

    def _most_probable(self) -> str:
        listed = "\n".join(f"    {name}: {self.form.word(name)}" for name in self.meta.classes)
        return f"The class is the one whose label word the model finds most probable next:\n\n{listed}"

    def _commands(self) -> str:
        call = "promptfed predict ."
        if self.meta.examples == "images":
            lines = [f"{call} photo.jpg"]
        elif self.meta.examples == "questions":
            lines = [f'{call} "How many are left?"', f"{call} --file questions.txt"]
        else:
            lines = [f'{call} "Where is it?"', f"{call} --file texts.txt        one text a line"]
        if self.kind == "embeds":  # whose folder of embeddings no bundle names
            lines = [f"{line.partition('      ')[0]} --embeddings DIR" for line in lines]
        note = (
            "\n\nEvery new text is a request that may cost money; answers are kept and not paid for twice. "
            "Say which variable holds your key by `--api-key-env NAME`."
        )
        return "\n".join(f"    {line}" for line in lines) + (note if self.oracle.options.get("base_url") else "")

    def _without(self) -> str:
        prompt, meta = self.candidate, self.meta
        if prompt is None:
            return f"Not possible: method `{meta.method}` has no single prompt to send."
        if prompt.soft is not None:
            return f"The vectors are plain safetensors (`pip install numpy safetensors`):\n\n```python\n{VECTORS}\n```"
        if prompt.pixels is not None or meta.examples == "images":
            return "The files are plain text and safetensors; put them to the model as said above."
        if self.kind == "minilm":
            return f"With `pip install sentence-transformers`, in the bundle's folder:\n\n```python\n{EMBED}\n```"
        code = RENDER if meta.examples == "questions" else RENDER + LABELS
        return (
            "With `pip install jinja2`, in the bundle's folder; send what is printed to the model in any way you like:"
            f"\n\n```python\n{code}\n```"
        )


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
