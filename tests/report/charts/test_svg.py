"""Elements escape what is inside; a chart stands by itself too; its colours can be read on both pages."""

import base64
from xml.etree import ElementTree

import pytest

from promptfed.report.charts.heat import DARKEST
from promptfed.report.charts.look import METHOD_COLOURS, method_look
from promptfed.report.charts.svg import Chart, Svg, element, number, text_width

from .drawings import contrast, mixed, parsed, variables


def test_elements_escape_text_and_attributes_and_keep_elements() -> None:
    drawn = element("g", element("text", "a < b & \x1bc"), class_="x", aria_label='say "no"', x=1.0, y=2.345, z=None)
    assert drawn == (
        '<g class="x" aria-label="say &quot;no&quot;" x="1" y="2.35"><text>a &lt; b &amp; \\x1bc</text></g>'
    )
    assert element("rect") == "<rect/>"
    assert [number(value) for value in (-0.001, 3, 2.5, 1.239)] == ["0", "3", "2.5", "1.24"]


def test_letters_of_east_asia_are_a_square() -> None:
    assert text_width("ab", 10) == pytest.approx(11.2)
    assert text_width("犬猫", 10) == 20


def test_a_chart_by_itself_brings_its_style_and_paper() -> None:
    chart = Chart("Loss", "It falls.", 10, 20, Svg("<g/>"))
    parsed(chart)
    kind, data = chart.data_uri().split(",")
    assert kind == "data:image/svg+xml;base64"
    document = base64.b64decode(data).decode()
    assert ElementTree.fromstring(document).tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in document
    assert "@import" not in document


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_the_contrast_of_wcag_aa(scheme: str) -> None:
    colours = variables(scheme)
    letters = ("ink", "soft", "accent", "good", "warn")
    for paper in ("paper", "ground"):
        for name in letters:
            assert contrast(colours[name], colours[paper]) >= 4.5, (name, paper)
    assert contrast(colours["ink"], colours["warn-paper"]) >= 4.5
    assert contrast(colours["warn"], colours["warn-paper"]) >= 4.5
    for which in range(9):  # also letters beside a point have these colours
        assert contrast(colours[f"s{which}"], colours["paper"]) >= 4.5, which
    assert contrast(colours["edge"], colours["paper"]) >= 3
    assert contrast(colours["ink"], mixed(colours["heat"], colours["paper"], DARKEST)) >= 4.5


def test_methods_differ_by_dash_or_marker_too() -> None:
    looks = [method_look(number) for number in range(84)]
    assert len(set(looks)) == len(looks)
    same_colour = [look for look in looks if look.colour == METHOD_COLOURS[0]]
    assert len({(look.dash, look.marker) for look in same_colour}) == len(same_colour)
