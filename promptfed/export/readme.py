"""The README.md of a bundle: what it is, and how to use it with promptfed and without."""

from __future__ import annotations

from string import Template
from typing import TYPE_CHECKING

from promptfed.export.origin import provenance, whose_prompt

if TYPE_CHECKING:
    from promptfed.export.bundle import Bundle

OPEN_CLIP = "open_clip:"

PAGE = Template("""\
# A prompt bundle

$whose, learned by federated prompt learning with method `$method`
($rounds rounds, seed $seed) on the frozen backbone `$backbone` ($precision), and exported by
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
model, _, preprocess = open_clip.create_model_and_transforms($model, pretrained=$tag)
with torch.inference_mode():
    image = model.eval().encode_image(preprocess(Image.open("photo.jpg").convert("RGB"))[None]).numpy()
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


def _how_personal(bundle: Bundle) -> str:
    """How much of the client's own prompt is in it and why; empty where there is nothing to say."""
    meta = bundle.meta
    if not meta.chosen:
        return ""
    return f"\n\n{meta.alpha:.0%} of it is the client's own prompt (alpha, mixed in {meta.space} space): {meta.chosen}."


def readme(bundle: Bundle) -> str:
    """The page for ``bundle``. Its Python block runs as it stands, in the bundle's folder."""
    meta = bundle.meta
    name, dim = meta.backbone.name, meta.backbone.embed_dim
    if name.startswith(OPEN_CLIP):
        model, _, tag = name.removeprefix(OPEN_CLIP).partition("/")
        without, code = WITH_OPEN_CLIP, OPEN_CLIP_CODE.substitute(model=repr(model), tag=repr(tag))
    else:
        without, code = WITH_NUMPY.substitute(backbone=name, dim=dim), NUMPY_CODE
    return PAGE.substitute(
        whose=whose_prompt(meta.origin, meta.client, meta.client_name),
        origin=provenance(meta.origin),
        method=meta.method,
        rounds=meta.rounds,
        seed=meta.seed,
        backbone=name,
        precision=meta.backbone.precision,
        version=meta.promptfed_version,
        own=_how_personal(bundle),
        count=len(meta.classes),
        classes=", ".join(meta.classes),
        tensors=", ".join(bundle.tensors) or "none (this method learns nothing)",
        dim=dim,
        without=without,
        code=code,
    )
