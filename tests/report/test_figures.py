"""Pictures are valid, and the same every time."""

import io
from xml.etree import ElementTree

import matplotlib

from promptfed.report.figures import canvas, save


def test_picture_is_valid_svg_and_the_same_every_time() -> None:
    pictures = []
    for _ in range(2):
        figure, axes = canvas(2.0)
        axes.plot([1, 2], [3, 4])
        with matplotlib.rc_context({"svg.hashsalt": "promptfed"}):
            save(figure, buffer := io.BytesIO(), format="svg", metadata={"Date": None})
        pictures.append(buffer.getvalue())
    assert pictures[0] == pictures[1]
    assert ElementTree.fromstring(pictures[0]).tag == "{http://www.w3.org/2000/svg}svg"
