"""A folder with a bundle as an ONNX model: the graph, what it was made from, and how to use it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from string import Template
from typing import Any

from promptfed.backbones.base import Backbone
from promptfed.errors import ConfigError
from promptfed.export.bundle import Bundle
from promptfed.export.folder import Meta
from promptfed.export.onnx_graph import INPUT, OPSET, OUTPUTS, OnnxModel, onnx_model
from promptfed.export.origin import provenance, whose_prompt
from promptfed.export.preparation import Preparation, preparation_of
from promptfed.files.export_folder import ExportKind, write_export_folder
from promptfed.frozen_model import FrozenModel

CONFIG, MODEL, README = "onnx_config.json", "model.onnx", "README.md"
KIND = ExportKind("an", "ONNX model", CONFIG, frozenset({CONFIG, MODEL, README}))

PAGE = Template("""\
# An image classifier in ONNX

$whose, learned by federated prompt learning with method `$method` on the frozen backbone `$backbone`,
exported by promptfed $version. Classes: $classes.$origin

| file | content |
|---|---|
| `model.onnx` | input `pixels` (batch, $shape), float32; outputs `logits` and `probabilities` (batch, $count) |
| `onnx_config.json` | class names, preparation of images, where it comes from, checksum |

$checked

## Use it

$needs:

```python
$code
```
""")

CODE = """\
import json, numpy as np, onnxruntime
from PIL import Image
about = json.load(open("onnx_config.json", encoding="utf-8"))
steps = about["preprocessing"]
image = Image.open("photo.jpg").convert("RGB")
(w, h), (ch, cw), edge = image.size, steps["crop"], steps["size"]
size = edge[::-1] if steps["resize"] == "squash" else [int(edge[0] * side / min(w, h)) for side in (w, h)]
image = image.resize(size, Image.Resampling[steps["interpolation"].upper()])
left, top = round((size[0] - cw) / 2), round((size[1] - ch) / 2)
values = np.asarray(image, np.float32)[top : top + ch, left : left + cw] / 255
pixels = ((values - np.float32(steps["mean"])) / np.float32(steps["std"])).transpose(2, 0, 1)[None]
session = onnxruntime.InferenceSession("model.onnx")
[shares] = session.run(["probabilities"], {"pixels": pixels.astype(np.float32)})
print([about["classes"][i] for i in shares.argmax(axis=1)], shares.max(axis=1))"""

OWN_CODE = Template("""\
import json, numpy as np, onnxruntime
from PIL import Image
from promptfed import load_backbone
about = json.load(open("onnx_config.json", encoding="utf-8"))
prepare = load_backbone("$backbone").preprocess
pixels = prepare(Image.open("photo.jpg").convert("RGB")).numpy()[None]
session = onnxruntime.InferenceSession("model.onnx")
[shares] = session.run(["probabilities"], {"pixels": pixels.astype(np.float32)})
print([about["classes"][i] for i in shares.argmax(axis=1)], shares.max(axis=1))""")

NEEDS = "`pip install onnxruntime numpy pillow`, in this folder"
OWN_NEEDS = (
    "The backbone prepares images in a way of its own, so promptfed does it (`pip install promptfed onnxruntime`), in "
    "this folder"
)


def onnx_files(bundle: Bundle, model: FrozenModel) -> dict[str, bytes]:
    """Return file name -> content of a folder with ``bundle`` as an ONNX model.

    Raises:
        ConfigError: It is not for images and a backbone, its method has no graph, or the extra is missing.
    """
    if bundle.meta.label_bias is not None:
        raise ConfigError("an ONNX file says one class of an image, and this prompt several labels: export a bundle")
    backbone = _backbone_of(bundle.meta, model)
    graph, preparation = onnx_model(bundle, backbone), preparation_of(backbone)
    config = _config(bundle.meta, graph, preparation)
    return {
        MODEL: graph.content,
        CONFIG: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(),
        README: _page(bundle.meta, graph, preparation).encode(),
    }


def write_onnx(folder: Path, files: dict[str, bytes], *, overwrite: bool = False) -> Path:
    """Write the folder whole or not at all, and return it.

    Raises:
        BundleError: ``folder`` is in the way, or the disk refuses.
    """
    write_export_folder(folder, files, KIND, overwrite)
    return folder


def _backbone_of(meta: Meta, model: FrozenModel) -> Backbone:
    """Return the image and text towers of ``model``. Raises ConfigError, saying what to do instead, if it has none."""
    from promptfed.backbones.dual_encoder import DualEncoder

    if meta.kind == "language model":
        raise ConfigError(
            "--format onnx is for image classifiers, and this prompt is for a language model: use --format peft, or "
            "--merged and then optimum-cli export onnx"
        )
    if not isinstance(model, DualEncoder):
        raise ConfigError(
            "--format onnx is for image classifiers of a backbone, and this prompt is for a black box, whose model is "
            "not here: leave --format out; the bundle holds what is sent"
        )
    return model.backbone


def _config(meta: Meta, graph: OnnxModel, preparation: Preparation | None) -> dict[str, Any]:
    assert meta.backbone is not None, "the caller saw to it"
    return {
        "format_version": 1,
        "promptfed_version": meta.promptfed_version,
        "classes": list(meta.classes),
        "input": {"name": INPUT, "shape": ["batch", *graph.shape], "type": "float32"},
        "outputs": {name: ["batch", len(meta.classes)] for name in OUTPUTS},
        "preprocessing": None if preparation is None else preparation.recorded(),
        "backbone": {"name": meta.backbone.name, "fingerprint": meta.backbone.fingerprint},
        "method": meta.method,
        "client": meta.client,
        "opset": OPSET,
        "largest_difference": graph.difference,
        "sha256": {MODEL: hashlib.sha256(graph.content).hexdigest()},
    }


def _page(meta: Meta, graph: OnnxModel, preparation: Preparation | None) -> str:
    assert meta.backbone is not None, "the caller saw to it"
    if graph.difference is None:
        checked = "onnxruntime was not installed when it was exported: nobody has compared it with promptfed."
    else:
        checked = (
            f"Its probabilities differ from promptfed's own by at most {graph.difference:.0e} (onnxruntime, tried at "
            "export)."
        )
    own = OWN_CODE.substitute(backbone=meta.backbone.name)
    return PAGE.substitute(
        whose=whose_prompt(meta.origin, meta.client, meta.client_name),
        method=meta.method,
        backbone=meta.backbone.name,
        version=meta.promptfed_version,
        classes=", ".join(meta.classes),
        count=len(meta.classes),
        origin=provenance(meta.origin),
        shape=", ".join(map(str, graph.shape)),
        checked=checked,
        needs=OWN_NEEDS if preparation is None else NEEDS,
        code=own if preparation is None else CODE,
    )
