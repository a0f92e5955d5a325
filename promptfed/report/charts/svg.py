"""SVG as text: elements with escaped content, and a chart of them with its text alternative."""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files

from promptfed.printable import printable

FONT, NARROW_FONT = 12.0, 15.0
"""Size of letters in units of the drawing; on a phone, where the whole drawing shrinks, the second one holds.

Space is measured by the second, so that nothing overlaps on a phone either.
"""


class Svg(str):
    """Text that is SVG already: it is not escaped again."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: object) -> Svg:
    """Return an element; children that are plain text, and all values of attributes, are escaped.

    A trailing ``_`` is cut from the name of an attribute (``class_``), other ``_`` become ``-``; None leaves it out.
    Numbers are rounded to a hundredth.
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            text = number(value) if isinstance(value, float) else printable(value)
            words.append(f'{key.rstrip("_").replace("_", "-")}="{escape(text)}"')
    inside = "".join(child if isinstance(child, Svg) else escape(printable(child), quote=False) for child in children)
    return Svg(f"<{' '.join(words)}>{inside}</{name}>" if children else f"<{' '.join(words)}/>")


def group(*children: str, **attributes: object) -> Svg:
    """Return ``children`` as a group."""
    return element("g", *children, **attributes)


def number(value: float) -> str:
    """Format a coordinate: at most two decimals, none that are zero."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def text_width(text: str, size: float = NARROW_FONT) -> float:
    """Return about how wide ``text`` is drawn; letters of East Asia are a full square."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return size * (wide + 0.56 * (len(text) - wide))


@dataclass(frozen=True)
class Chart:
    """A drawing in units of its own, with what it shows in words.

    In a page of the reports, which has the style sheet, the chart itself is inserted (jinja calls ``__html__``);
    elsewhere ``data_uri`` gives an image that brings its own.

    Attributes:
        title: What the chart is of, in a few words.
        description: What it shows: the text alternative.
        width: Of the drawing, in units; the page may scale it.
        height: Of the drawing.
        body: Its elements.
        fixed: Is never scaled down: one unit is one pixel, and a narrow page scrolls.
    """

    title: str
    description: str
    width: float
    height: float
    body: Svg
    fixed: bool = False

    def __html__(self) -> str:
        """Return the element for a page, as template engines ask for it."""
        return self._element()

    def standalone(self) -> str:
        """Return a whole SVG document, with its style, on paper of its own."""
        paper = element("rect", width=self.width, height=self.height, class_="paper")
        return self._element(element("style", Svg(chart_style())), paper, xmlns="http://www.w3.org/2000/svg")

    def data_uri(self) -> str:
        """Return the document as a ``data:`` address for an ``<img>``."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.standalone().encode()).decode()}"

    def _element(self, *first: Svg, **attributes: object) -> Svg:
        content = f"{self.title}|{self.description}|{self.body}"
        key = "c" + hashlib.sha256(content.encode("utf-8", "backslashreplace")).hexdigest()[:10]
        return element(
            "svg",
            element("title", self.title, id=f"{key}-t"),
            element("desc", self.description, id=f"{key}-d"),
            *first,
            self.body,
            class_="chart fixed" if self.fixed else "chart",
            viewBox=f"0 0 {number(self.width)} {number(self.height)}",
            width=self.width,
            height=self.height,
            role="img",
            aria_labelledby=f"{key}-t {key}-d",
            **attributes,
        )


@cache
def chart_style() -> str:
    """Return the style sheet of a chart that stands by itself."""
    folder = files("promptfed.report.charts")
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in ("colours.css", "chart.css"))


def listed_series(sentences: list[str], most: int = 8) -> str:
    """Join sentences of a description, the first ``most`` of them."""
    more = f" And {len(sentences) - most} more." if len(sentences) > most else ""
    return " ".join(sentences[:most]) + more
