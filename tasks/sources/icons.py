"""Named glyphs of open icon fonts, rendered as small colour pictures: a data set that needs no download.

The fonts ship inside the QtAwesome package (read as files; Qt is never imported). A glyph's name is its caption
("arrow-left-bold" -> "arrow left bold"), its font family is its domain. Rendering (colour, pose, background, noise) is
a pure function of (glyph, variant), so an icon has a short identity, and a cache finds its features without pixels.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, features

from promptfed.errors import DataError
from promptfed.examples.base import ImageItem
from promptfed.readers.json_reader import read_json

RENDERER = "icons-1"
"""Name of the rendering recipe; part of every icon's identity, to be changed with the recipe."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "font-awesome-5": ("fontawesome5-solid", "fontawesome5-regular"),
    "font-awesome-6": ("fontawesome6-solid", "fontawesome6-regular"),
    "material-5": ("materialdesignicons5",),
    "material-6": ("materialdesignicons6",),
    "elusive": ("elusiveicons",),
    "codicons": ("codicon",),
    "phosphor": ("phosphor",),
    "remix": ("remixicon",),
}
"""Family -> leading part of the font files' names. Brand fonts are left out: a logo is not a concept."""

HELD_OUT_FAMILIES = ("phosphor", "remix")
"""Families that the bundled `tiny` backbone never saw; the default task is drawn from them."""

STYLE_WORDS = frozenset(
    ["outline", "fill", "line", "alt", "bold", "thin", "light", "duotone", "o", "regular", "solid", "simple", "variant"]
)
"""Trailing name parts that say how a glyph is drawn, not what it shows."""


@dataclass(frozen=True)
class Glyph:
    """One drawable character: ``family`` is its domain, ``concept`` its caption without style words."""

    family: str
    name: str
    concept: str
    font: Path
    codepoint: int

    @property
    def identity(self) -> str:
        return f"{self.font.stem}:{self.name}:{self.codepoint:x}"

    @property
    def style(self) -> str:
        """Return the last style word of the name, ``"thin"`` of ``"house-line-thin"``; empty if it has none."""
        last = self.name.rsplit("-", 1)[-1]
        return last if last in STYLE_WORDS and "-" in self.name else ""

    def is_of(self, part: str) -> bool:
        """Return whether it belongs to ``part``: a family, or one style of it such as ``"phosphor/thin"``."""
        family, _, style = part.partition("/")
        return self.family == family and style in ("", self.style)


def concept_of(name: str) -> str:
    """Strip style words and numbers from the end of a name: ``"home-3-fill"`` -> ``"home"``."""
    words = name.split("-")
    while len(words) > 1 and (words[-1] in STYLE_WORDS or words[-1].isdigit()):
        words.pop()
    return " ".join(words)


def font_folder() -> Path:
    """Return the folder of QtAwesome's fonts.

    Raises:
        DataError: The package is not installed.
    """
    spec = importlib.util.find_spec("qtawesome")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the icon fonts are missing: package 'QtAwesome' is not installed; pip install QtAwesome")
    return Path(next(iter(spec.submodule_search_locations))) / "fonts"


@lru_cache(maxsize=1)
def glyphs() -> tuple[Glyph, ...]:
    """Return every glyph of every family, in a fixed order."""
    folder, result = font_folder(), []
    for family, stems in FAMILIES.items():
        for stem in stems:
            charmaps = sorted(folder.glob(f"{stem}*charmap*.json"))
            fonts = sorted(folder.glob(f"{stem}*.ttf"))
            if not charmaps or not fonts:
                raise DataError(f"no font of family '{family}' ({stem}*) in {folder}; pip install 'QtAwesome>=1.4,<2'")
            table: dict[str, str] = read_json(charmaps[0])
            for name in sorted(table):
                result.append(Glyph(family, name, concept_of(name), fonts[0], int(table[name], 16)))
    return tuple(result)


def shared_concepts(parts: Iterable[str]) -> list[str]:
    """Return single-word concepts that all ``parts`` (families, or styles of them) can draw, sorted."""
    sets = [{g.concept for g in glyphs() if g.is_of(part)} for part in parts]
    common = set.intersection(*sets) if sets else set()
    return sorted(c for c in common if c.isalpha() and len(c) > 2)


# ------------------------------------------------------------------------------------------------ rendering


@lru_cache(maxsize=64)
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)


@lru_cache(maxsize=20000)
def glyph_mask(glyph: Glyph, size: int = 96) -> np.ndarray:
    """Return the glyph centred in a ``(size, size)`` uint8 coverage mask, its longer side 75 % of the frame."""
    font = _font(glyph.font, 2 * size)
    left, top, right, bottom = font.getbbox(chr(glyph.codepoint))
    width, height = max(1, int(right - left)), max(1, int(bottom - top))
    picture = Image.new("L", (width, height))
    ImageDraw.Draw(picture).text((-left, -top), chr(glyph.codepoint), font=font, fill=255)
    scale = 0.75 * size / max(width, height)
    scaled = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)
    frame = Image.new("L", (size, size))
    frame.paste(scaled, ((size - scaled.width) // 2, (size - scaled.height) // 2))
    return np.asarray(frame)


def _background(rng: np.random.Generator, size: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return a plain, shaded, striped or cloudy backdrop of two colours: ``(size, size, 3)`` in 0..1."""
    kind = rng.integers(4)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    if kind == 0:
        mix = np.zeros((size, size))
    elif kind == 1:
        mix = along + 0.5
    elif kind == 2:
        mix = 0.5 + 0.5 * np.sign(np.sin(along * rng.uniform(12, 45)))
    else:
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8))
        mix = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    mix = np.clip(mix, 0, 1)[..., None]
    return first * (1 - mix) + second * mix


def _ink(rng: np.random.Generator, backdrop: np.ndarray) -> np.ndarray:
    """Return a random colour that stands out from ``backdrop`` in brightness."""
    luma = np.array([0.299, 0.587, 0.114])
    ink = rng.uniform(0, 1, 3)
    while abs((ink - backdrop) @ luma) < 0.35:
        ink = rng.uniform(0, 1, 3)
    return ink


def render(glyph: Glyph, rng: np.random.Generator, size: int = 64, wild: bool = False) -> Image.Image:
    """Draw ``glyph`` as an RGB picture of ``size`` x ``size`` pixels with a random pose, colour, backdrop and noise.

    ``wild`` adds the shear and stroke-width changes that only the training of a backbone uses.
    """
    mask = Image.fromarray(glyph_mask(glyph))
    if wild and rng.random() < 0.5:
        thicker = rng.random() < 0.5
        mask = mask.filter(ImageFilter.MaxFilter(3) if thicker else ImageFilter.MinFilter(3))
    angle = np.deg2rad(rng.uniform(-20, 20))
    zoom = mask.width / size / rng.uniform(0.75, 1.15)
    stretch = np.exp(rng.uniform(-0.12, 0.12))
    shear = rng.uniform(-0.2, 0.2) if wild else 0.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    pose = zoom * turn @ np.array([[stretch, shear], [0, 1 / stretch]])
    centre = size / 2 + rng.uniform(-0.08, 0.08, 2) * size
    offset = np.array([mask.width / 2, mask.height / 2]) - pose @ centre
    coefficients = (*pose[0], offset[0], *pose[1], offset[1])
    placed = mask.transform((size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    if rng.random() < 0.3:
        placed = placed.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0)))
    cover = np.asarray(placed, dtype=np.float64)[..., None] / 255

    first = rng.uniform(0, 1, 3)
    second = np.clip(first + rng.uniform(-0.2, 0.2, 3), 0, 1)
    picture = _background(rng, size, first, second) * (1 - cover) + _ink(rng, (first + second) / 2) * cover
    picture += rng.normal(0, rng.uniform(0, 0.08), picture.shape)
    return Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))


@dataclass(frozen=True)
class IconItem(ImageItem):
    """One rendering of one glyph; ``variant`` picks the random pose, colours, backdrop and noise."""

    glyph: Glyph
    variant: int

    @property
    def name(self) -> str:
        return f"{self.glyph.identity}#{self.variant}"

    def content_id(self) -> str:
        """Return the SHA-256 of the rendering recipe, the glyph and the variant; draws no pixels."""
        drawn_by = f"{RENDERER}|freetype {features.version('freetype2')}"
        return hashlib.sha256(f"{drawn_by}|{self.name}".encode()).hexdigest()

    def load(self) -> Image.Image:
        seed = int.from_bytes(hashlib.sha256(f"{RENDERER}|{self.name}".encode()).digest()[:8], "big")
        return render(self.glyph, np.random.default_rng(seed))
