"""How a series looks: colour, dash and marker, so that two of them differ without their colours too."""

from __future__ import annotations

import math
from dataclasses import dataclass

from promptfed.report.charts.svg import Svg, element

COLOURS = 8
"""Colours of ``colours.css`` beside the grey of zero-shot, which is number 0."""
DASHES = ("", "7 3", "2 3", "9 3 2 3")
MARKERS = ("circle", "square", "diamond", "triangle", "cross", "plus")


@dataclass(frozen=True)
class Look:
    """``colour``: a number of ``colours.css``; ``dash``: of its lines, as SVG takes it; ``marker``: one of MARKERS."""

    colour: int
    dash: str = ""
    marker: str = "circle"

    @property
    def css(self) -> str:
        """Return the class that sets the colour."""
        return f"c{self.colour}"


ZERO_SHOT = Look(0, "5 4", "diamond")
LOCAL_ONLY = Look(2, "9 3 2 3", "square")
BASELINES = {"zero_shot": ZERO_SHOT, "local_only": LOCAL_ONLY}
"""Looks that are the same in all figures."""
METHOD_COLOURS = (1, 3, 4, 5, 6, 7, 8)


def method_look(number: int) -> Look:
    """Return the look of the method with this ``number``, from 0; 84 of them differ."""
    return Look(
        METHOD_COLOURS[number % len(METHOD_COLOURS)],
        DASHES[number // len(METHOD_COLOURS) % len(DASHES)] if number else "",
        MARKERS[number % len(MARKERS)],
    )


def marker(look: Look, x: float, y: float, radius: float = 3.5, *children: Svg) -> Svg:
    """Draw the marker of ``look`` around a point; ``children`` such as a title stand inside."""
    style = {"class_": f"mark {look.css}"}
    if look.marker == "circle":
        return element("circle", *children, cx=x, cy=y, r=radius, **style)
    return element("polygon", *children, points=" ".join(_corners(look.marker, x, y, radius)), **style)


def _corners(name: str, x: float, y: float, radius: float) -> list[str]:
    if name in ("cross", "plus"):
        turn = math.pi / 4 if name == "cross" else 0.0
        thin, long = 0.38 * radius, 1.35 * radius
        arm = ((long, -thin), (long, thin), (thin, thin))
        corners = [
            (
                math.cos(turn + k * math.pi / 2) * a - math.sin(turn + k * math.pi / 2) * b,
                math.sin(turn + k * math.pi / 2) * a + math.cos(turn + k * math.pi / 2) * b,
            )
            for k in range(4)
            for a, b in arm
        ]
    else:
        sides, turn, size = {
            "square": (4, math.pi / 4, 1.25),
            "diamond": (4, 0.0, 1.35),
            "triangle": (3, -math.pi / 2, 1.35),
        }[name]
        corners = [
            (
                size * radius * math.cos(turn + 2 * math.pi * k / sides),
                size * radius * math.sin(turn + 2 * math.pi * k / sides),
            )
            for k in range(sides)
        ]
    return [f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners]
