"""The README.md of a black-box bundle: what is sent to the model, and how to send it with promptfed and without."""

from __future__ import annotations

from string import Template
from typing import TYPE_CHECKING

from promptfed.export.folder import PIXELS, SOFT, TEXT
from promptfed.export.origin import provenance, whose_prompt

if TYPE_CHECKING:
    from promptfed.export.blackbox_bundle import BlackBoxBundle

EXAMPLE = "This stands for the text to be sorted."
QUESTION = "This stands for the question."

PAGE = Template("""\
# A prompt bundle for a black box

$whose, learned by federated prompt learning with method `$method`
($rounds rounds, seed $seed) for the oracle `$oracle`, and exported by promptfed $version.
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


def readme(bundle: BlackBoxBundle) -> str:
    """The page for ``bundle``. Its Python block, if it has one, runs as it stands, in the bundle's folder."""
    meta = bundle.meta
    own = f"\n{meta.alpha:.0%} of it is the client's own prompt (alpha): {meta.chosen}." if meta.chosen else ""
    answers = meta.examples == "questions"
    return PAGE.substitute(
        whose=whose_prompt(meta.origin, meta.client, meta.client_name),
        origin=provenance(meta.origin),
        method=meta.method,
        rounds=meta.rounds,
        seed=meta.seed,
        oracle=_oracle(bundle),
        version=meta.promptfed_version,
        knows="It answers questions in free text." if answers else
        f"It knows {len(meta.classes)} classes: {', '.join(meta.classes)}.",
        own=own,
        tensors=", ".join(bundle.tensors) or "none (this method learns nothing)",
        files="".join(f"| `{name}` | {about} |\n" for name, about in _files(bundle)),
        sent=_sent(bundle),
        commands=_commands(bundle),
        without=_without(bundle),
    )  # fmt: skip


def _oracle(bundle: BlackBoxBundle) -> str:
    meta = bundle.meta.oracle
    model = meta.options.get("model")
    return f"{meta.name}, model {model}" if model else meta.name


def _kind(bundle: BlackBoxBundle) -> str:
    return bundle.meta.oracle.name.partition(":")[0]


def _files(bundle: BlackBoxBundle) -> list[tuple[str, str]]:
    found, names = bundle.candidate, bundle.meta.sha256
    about = []
    if found is not None and TEXT in names:
        about.append((TEXT, "the prompt that is deployed" if found.text else "empty: no prompt is the best one"))
    if found is not None and found.soft is not None and SOFT in names:
        about.append((SOFT, f"`soft` {tuple(found.soft.shape)}: vectors in the place of a text prompt (n_tokens, dim)"))
    if found is not None and found.pixels is not None and PIXELS in names:
        about.append((PIXELS, f"`pixels` {tuple(found.pixels.shape)}: added to every preprocessed image"))
    return about


def _sent(bundle: BlackBoxBundle) -> str:
    meta, found = bundle.meta, bundle.candidate
    more = "" if meta.complete else (
        f"Method `{meta.method}` predicts with more than one prompt, or changes what comes back: what is sent is made "
        "from `prompt.safetensors`, by promptfed."
    )  # fmt: skip
    if found is None:
        return more
    more = more and f"{more} The prompt below is part of it, or one of many.\n\n"
    if meta.examples == "images":
        before = "<vectors>" if found.soft is not None else found.text
        added = " with the pixel prompt added after preprocessing" if found.pixels is not None else ""
        vectors = " (the vectors stand as token embeddings before its words)" if found.soft is not None else ""
        said = _indented(f"{before} {meta.classes[0]}.".strip())
        return f"{more}An image{added}, and for every class a text with its name{vectors}, as here:\n\n{said}"
    if found.soft is not None:
        return more + _soft_place(bundle)
    example = QUESTION if meta.examples == "questions" else EXAMPLE
    if _kind(bundle) == "minilm":
        text = f"The prompt and the text, as one text:\n\n{_indented(f'{found.text} {example}'.strip())}"
        return f"{more}{text}\n\n{_nearest(bundle, 'sentence vectors')}"
    text = "This text (as a completion, or as the message of a chat):\n\n"
    text += _indented(meta.form.render(found.text, example, mask="[MASK]"))
    if meta.examples == "questions":
        return f"{more}{text}\n\nThe answer is what the model writes next, at most {meta.form.answer_tokens} tokens."
    return f"{more}{text}\n\n{_most_probable(bundle)}"


def _soft_place(bundle: BlackBoxBundle) -> str:
    meta = bundle.meta
    if _kind(bundle) == "minilm":
        return (
            "The vectors stand between [CLS] and the text's own token embeddings (`inputs_embeds`):\n\n"
            f"{_indented(f'[CLS] <vectors> {EXAMPLE} [SEP]')}\n\n"
            f"{_nearest(bundle, 'mean token vectors')}"
        )
    return (
        "Token embeddings of this text, with the vectors where it says so (`inputs_embeds`; over HTTP vLLM's "
        f"`prompt_embeds`):\n\n{_indented(meta.form.render('<vectors>', EXAMPLE, mask='[MASK]'))}\n\n"
        f"{_most_probable(bundle)}"
    )


def _nearest(bundle: BlackBoxBundle, vectors: str) -> str:
    listed = "\n".join(f"    {name}: {bundle.meta.form.description(name)}" for name in bundle.meta.classes)
    return f"The class is the one whose description lies nearest (cosine of {vectors}):\n\n{listed}"


def _most_probable(bundle: BlackBoxBundle) -> str:
    listed = "\n".join(f"    {name}: {bundle.meta.form.word(name)}" for name in bundle.meta.classes)
    return f"The class is the one whose label word the model finds most probable next:\n\n{listed}"


def _commands(bundle: BlackBoxBundle) -> str:
    meta = bundle.meta
    if meta.examples == "images":
        lines = ["promptfed predict . photo.jpg"]
    elif meta.examples == "questions":
        lines = ['promptfed predict . "How many are left?"', "promptfed predict . --file questions.txt"]
    else:
        lines = ['promptfed predict . "Where is it?"', "promptfed predict . --file texts.txt        one text a line"]
    if _kind(bundle) == "embeds":  # whose folder of embeddings no bundle names
        lines = [f"{line.partition('      ')[0]} --embeddings DIR" for line in lines]
    key = " Say which variable holds your key by `--api-key-env NAME`." if meta.oracle.options.get("base_url") else ""
    note = "\n\nEvery new text is a request that may cost money; answers are kept and not paid for twice."
    paid = note if meta.oracle.options.get("base_url") else ""
    return "\n".join(f"    {line}" for line in lines) + paid + key


def _without(bundle: BlackBoxBundle) -> str:
    found, meta = bundle.candidate, bundle.meta
    if found is None:
        return f"Not possible: method `{meta.method}` has no single prompt to send."
    if found.soft is not None:
        return f"The vectors are plain safetensors (`pip install numpy safetensors`):\n\n```python\n{VECTORS}\n```"
    if found.pixels is not None or meta.examples == "images":
        return "The files are plain text and safetensors; put them to the model as said above."
    if _kind(bundle) == "minilm":
        return f"With `pip install sentence-transformers`, in the bundle's folder:\n\n```python\n{EMBED}\n```"
    code = RENDER if meta.examples == "questions" else RENDER + LABELS
    return (
        "With `pip install jinja2`, in the bundle's folder; send what is printed to the model in any way you like:\n\n"
        f"```python\n{code}\n```"
    )


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
