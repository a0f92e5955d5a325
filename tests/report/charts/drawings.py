"""What the tests of charts read in a drawing."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from promptfed.report.charts.svg import Chart

FOLDER = Path(__file__).parents[3] / "promptfed" / "report" / "charts"


def parsed(chart: Chart | None) -> Element:
    """The chart as a tree of elements, once it is known to load and run nothing, and to say what it shows."""
    assert chart is not None
    page = chart.__html__()
    tree = ElementTree.fromstring(page)
    names = {element.tag for element in tree.iter()}
    assert names <= {"svg", "title", "desc", "g", "path", "rect", "line", "circle", "polygon", "text"}
    attributes = {name for element in tree.iter() for name in element.attrib}
    assert not [name for name in attributes if name.startswith("on") or "href" in name or name == "style"]
    assert "url(" not in page
    title, description = tree[0], tree[1]
    assert (title.tag, description.tag) == ("title", "desc")
    assert tree.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert tree.get("role") == "img"
    assert title.text == chart.title
    assert (description.text or "") == chart.description
    return tree


def of_class(tree: Element, name: str) -> list[Element]:
    """Elements with this class."""
    return [element for element in tree.iter() if name in (element.get("class") or "").split()]


def words(tree: Element) -> list[str]:
    """The texts of a drawing."""
    return [element.text or "" for element in tree.iter("text")]


def points(path: str) -> list[tuple[float, float]]:
    """The corners of a path of lines."""
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](\S+) ([^\sML Z]+)", path)]


def variables(scheme: str) -> dict[str, str]:
    """The colours of ``colours.css`` on a "light" or "dark" page."""
    light, _, dark = (FOLDER / "colours.css").read_text().partition("@media")
    found = dict(re.findall(r"--([\w-]+): (#\w{6});", light))
    return found if scheme == "light" else found | dict(re.findall(r"--([\w-]+): (#\w{6});", dark))


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2 between two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(front: str, back: str, opacity: float) -> str:
    """``front`` laid over ``back``."""
    parts = [round(opacity * int(front[k : k + 2], 16) + (1 - opacity) * int(back[k : k + 2], 16)) for k in (1, 3, 5)]
    return "#" + "".join(f"{part:02x}" for part in parts)
