"""Train the bundled backbone `tiny`: a small CLIP for icons, taught by MiniLM, on two CPU cores in under an hour.

    pip install '.[lit]'
    python scripts/train_tiny_clip.py --out promptfed/backbones/tiny_weights

1. teacher   MiniLM embeds every text; centre, reduce to 128 dimensions (PCA), normalise: the joint space.
2. text      the small text tower learns to say what MiniLM says, on words, icon names and templates.
3. image     the ViT learns which caption an icon has: cross-entropy against the teacher's captions. Two lessons: white
             glyphs on black, then full renderings.
   Steps 2 and 3 need nothing of each other and run side by side, one process and one thread each; step 3 takes both
   cores once step 2 has ended.
4. scale     the logit scale is fitted on training-family icons kept for validation.

Font families `phosphor` and `remix` and every icon whose name holds a held-out concept are never trained on.
The last weights are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from minilm_teacher import Teacher
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.tiny import SIZE, look
from promptfed.tasks.sources import icons

CONTEXT_LENGTH = 32
VISION = {"image_size": SIZE, "patch_size": 8, "width": 96, "layers": 5, "head_width": 32}
TEXT = {"context_length": CONTEXT_LENGTH, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3}
PICTURE = 64
"""Pixels along each side of a rendering, of which the tower sees what stands out."""
PIXEL_MEAN, PIXEL_STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
HELD_OUT_CONCEPTS = 29
KEPT = 400
"""Training-family glyphs kept apart, to fit the logit scale on."""

EMBED_DIM = 128
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


def task_concepts() -> list[str]:
    """What both held-out families can draw: 115 concepts, of which the default task takes 48."""
    return icons.shared_concepts(icons.HELD_OUT_FAMILIES)


def held_out_concepts() -> list[str]:
    """A fixed quarter of these concepts, drawn by hash so that nobody chose them."""
    shared = task_concepts()
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


def plain(glyph: icons.Glyph, rng: np.random.Generator) -> Image.Image:
    """A white glyph on black, turned a little: the first lesson."""
    mask = Image.fromarray(icons.glyph_mask(glyph)).resize((PICTURE, PICTURE), Image.Resampling.BILINEAR)
    return mask.rotate(rng.uniform(-15, 15)).convert("RGB")


def pixels(pictures: list[Image.Image]) -> Tensor:
    """What the tower sees of pictures: ``(batch, 3, 48, 48)``, as `tiny` preprocesses them."""
    drawn = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return torch.stack([look(picture) for picture in drawn.permute(0, 3, 1, 2).float() / 255])


@dataclass(frozen=True)
class Lesson:
    """Steps ``first`` to ``last`` of ``total`` (which the learning rate follows), on pictures by ``draw``."""

    first: int
    last: int
    total: int
    draw: Callable[[icons.Glyph, np.random.Generator], Image.Image]


def wild(glyph: icons.Glyph, rng: np.random.Generator) -> Image.Image:
    """A full rendering, with more variety of pose and stroke than the default task has."""
    return icons.render(glyph, rng, PICTURE, wild=True)


def caption_vectors(captions: list[str], texts: list[str], targets: Tensor) -> Tensor:
    """What the teacher says of each caption, bare and in the templates it was given in: unit ``(captions, 128)``."""
    row = {text: i for i, text in enumerate(texts)}
    said = [[row[t.format(c)] for t in TEMPLATES if t.format(c) in row] for c in captions]
    return F.normalize(torch.stack([targets[rows].mean(0) for rows in said]), dim=-1)


def train_image(
    model: CLIP,
    glyphs: list[icons.Glyph],
    texts: list[str],
    targets: Tensor,
    lesson: Lesson,
    batch: int,
    seed: int,
    threads: Callable[[], int],
) -> None:
    """Cross-entropy against every caption's vector, a fifth of the target spread over captions that mean the same."""
    rng = np.random.default_rng(seed)
    names = sorted({g.concept for g in glyphs})
    index, captions = {name: i for i, name in enumerate(names)}, caption_vectors(names, texts, targets)
    seen = glyphs[KEPT:]
    labels = torch.tensor([index[g.concept] for g in seen])
    print(f"image: {len(seen)} glyphs, {len(names)} captions", flush=True)
    sizes = Counter(g.family for g in seen)
    weight = np.array([sizes[g.family] ** -0.4 for g in seen])
    weight /= weight.sum()
    similar = F.softmax(captions @ captions.T / 0.05, dim=-1)
    visual = model.visual
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in visual.parameters() if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in visual.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    began, losses, hits = time.time(), [], []
    for step in range(lesson.first, lesson.last):
        rows = rng.choice(len(seen), batch, p=weight)
        views = pixels([lesson.draw(seen[i], rng) for i in rows])
        logits = 20 * F.normalize(visual(views), dim=-1) @ captions.T
        own = labels[torch.from_numpy(rows)]
        target = 0.8 * F.one_hot(own, len(captions)) + 0.2 * similar[own]
        loss = F.cross_entropy(logits, target)
        set_rate(optimizer, cosine_rate(step, lesson.total, 1.2e-3))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(visual.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        hits.append((logits.argmax(-1) == own).float().mean().item())
        if step % 50 == 49:
            torch.set_num_threads(threads())
            print(
                f"image {step + 1}/{lesson.total} loss {np.mean(losses[-50:]):.3f} top1 {np.mean(hits[-50:]):.3f} "
                f"{time.time() - began:.0f} s",
                flush=True,
            )


@torch.no_grad()
def image_features(model: CLIP, images: Tensor) -> Tensor:
    return F.normalize(torch.cat([model.visual(part) for part in images.split(256)]), dim=-1)


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
    return pixels([icons.render(g, rng, PICTURE) for g in chosen]), torch.tensor(labels)


def finish(model: CLIP, glyphs: list[icons.Glyph], out: Path, recipe: dict[str, object]) -> None:
    """Fit the logit scale on kept training-family glyphs, measure, and write weights and config."""
    tokenizer, banned, task_names = SimpleTokenizer(context_length=CONTEXT_LENGTH), held_out_concepts(), task_concepts()
    kept = glyphs[:KEPT]
    kept_names = sorted({g.concept for g in kept})
    unseen = [g for g in icons.glyphs() if g.family in icons.HELD_OUT_FAMILIES]

    def check(pool: list[icons.Glyph], names: list[str], each: int, seed: int) -> tuple[Tensor, Tensor]:
        images, labels = probe(pool, names, each, seed)
        with torch.no_grad():
            said = encode_text(model, tokenizer([f"an icon of a {n}." for n in names]))
        return image_features(model, images) @ said.T, labels

    similarity, labels = check(kept, kept_names, 2, 1)
    scale = fit_logit_scale(similarity, labels)
    with torch.no_grad():
        model.logit_scale.fill_(np.log(scale))
    figures = {"unseen glyphs of training families": mean_right(similarity, labels), "their classes": len(kept_names)}
    similarity, labels = check(unseen, task_names, 8, 2)
    novel = torch.tensor([task_names[i] in banned for i in labels.tolist()])
    figures |= {
        "unseen families": mean_right(similarity, labels),
        "unseen families, held-out concepts": mean_right(similarity[novel], labels[novel]),
        "unseen families, other concepts": mean_right(similarity[~novel], labels[~novel]),
    }
    state = {k: v.detach().half().contiguous() for k, v in model.state_dict().items() if k != "attn_mask"}
    save_file(state, out / "weights.safetensors")
    config = {
        "model_cfg": {"embed_dim": EMBED_DIM, "vision_cfg": VISION, "text_cfg": TEXT},
        "preprocess": {"size": PICTURE, "mean": PIXEL_MEAN, "std": PIXEL_STD},
        "sha256": hashlib.sha256((out / "weights.safetensors").read_bytes()).hexdigest(),
        "held_out_families": list(icons.HELD_OUT_FAMILIES),
        "held_out_concepts": banned,
        "logit_scale": scale,
        "recipe": recipe,
        "figures": figures,
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(json.dumps({"logit_scale": scale, **recipe, **figures}, indent=2), flush=True)


def mean_right(similarity: Tensor, labels: Tensor) -> float:
    return round((similarity.argmax(-1) == labels).float().mean().item(), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for weights.safetensors and config.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text-steps", type=int, default=1200)
    parser.add_argument("--plain-steps", type=int, default=3000, help="on white glyphs on black")
    parser.add_argument("--image-steps", type=int, default=4800, help="on full renderings, after that")
    parser.add_argument("--batch", type=int, default=96)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng, began = np.random.default_rng(args.seed), time.time()

    glyphs = training_glyphs()
    glyphs = [glyphs[i] for i in rng.permutation(len(glyphs))]
    tokenizer, teacher = SimpleTokenizer(context_length=CONTEXT_LENGTH), Teacher()
    texts = text_corpus(sorted({g.concept for g in glyphs}), vocabulary_words(tokenizer), rng)
    raw = teacher.raw(texts)
    teacher.fit_space(raw, EMBED_DIM)
    targets = teacher.space(raw)
    args.out.mkdir(parents=True, exist_ok=True)
    lesson, learned = args.out / "lesson.safetensors", args.out / "text.safetensors"
    save_file({"targets": targets, "tokens": token_embeddings(tokenizer, teacher)}, lesson)
    lesson.with_suffix(".json").write_text(json.dumps(texts))
    print(f"teacher: {len(texts)} texts in {time.time() - began:.0f} s", flush=True)

    fork = multiprocessing.get_context("spawn")
    text = fork.Process(target=train_text, args=(lesson, learned, args.text_steps, args.seed))
    text.start()
    model = new_model()
    easy, total = args.plain_steps, args.plain_steps + args.image_steps

    def threads() -> int:
        return 1 if text.is_alive() else 2

    torch.set_num_threads(1)
    for seed, lesson_now in enumerate((Lesson(0, easy, total, plain), Lesson(easy, total, total, wild)), args.seed):
        train_image(model, glyphs, texts, targets, lesson_now, args.batch, seed, threads)
    text.join()
    if text.exitcode:
        raise SystemExit(f"the text process failed with exit code {text.exitcode}")
    model.load_state_dict(load_file(learned), strict=False)
    recipe = {k: v for k, v in vars(args).items() if k != "out"}
    finish(model, glyphs, args.out, {**recipe, "wall_seconds": round(time.time() - began)})
    for working_file in (lesson, lesson.with_suffix(".json"), learned):
        working_file.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
