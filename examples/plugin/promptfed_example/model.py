"""A frozen model: the bundled one with half the logit scale."""

from promptfed.backbones import MODELS, load_backbone


@MODELS.register("cold")
def cold(rest, *, device, precision):
    """The bundled model, with half the logit scale."""
    backbone = load_backbone("tiny", device=device, precision=precision)
    backbone.logit_scale *= 0.5
    return backbone
