"""Pictures are valid, the same every time, and not too large for a page."""

import base64
from xml.etree import ElementTree

from matplotlib.figure import Figure

from promptfed.report.figures import canvas, data_uri


def test_picture_is_valid_svg_and_the_same_every_time() -> None:
    addresses = []
    for _ in range(2):
        figure, axes = canvas(2.0)
        axes.plot([1, 2], [3, 4])
        addresses.append(data_uri(figure))
    assert addresses[0] == addresses[1]
    kind, data = addresses[0].split(",")
    assert kind == "data:image/svg+xml;base64"
    assert ElementTree.fromstring(base64.b64decode(data)).tag == "{http://www.w3.org/2000/svg}svg"


def test_large_pictures_become_png() -> None:
    figure = Figure()
    figure.add_subplot().scatter(range(4000), range(4000))
    kind, data = data_uri(figure).split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data).startswith(b"\x89PNG")
