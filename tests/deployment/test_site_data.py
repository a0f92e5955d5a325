"""A site's folders: their names by classes.csv, and what is refused before it says anything to a server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("flwr")

from promptfed.config import build_config
from promptfed.deployment.site_task import check_classes, read_site
from promptfed.errors import DataError
from promptfed.resolve import resolve


def site(root: Path, *names: str) -> str:
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng([k, i]).integers(0, 256, (5, 5, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return f"folder:{root}"


def test_a_site_maps_its_folder_names_to_the_agreed_ones(tmp_path: Path) -> None:
    config = resolve(build_config({"data": "icons"}))
    data = site(tmp_path / "b", "Cat", "hund", "red_panda")
    with pytest.raises(DataError, match="class 'Cat'"):
        check_classes(read_site("b", data, config), ("cat", "dog", "red panda"))
    (tmp_path / "b" / "classes.csv").write_text("folder,name\nCat,cat\nhund,dog\n")
    found = read_site("b", data, config)
    check_classes(found, ("cat", "dog", "red panda"))
    assert found.source.classes == ("cat", "dog", "red panda")
    assert any("class names come from" in note for note in found.source.notes)


@pytest.mark.parametrize("names", [("Cat", "cat"), ("red panda", "Red_panda"), ("elk", "ELK")])
def test_a_site_with_names_that_clash_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="differ in case, blanks or hidden characters only"):
        read_site("b", site(tmp_path, *names), resolve(build_config({"data": "icons"})))


def test_an_image_with_two_labels_at_a_site_is_refused(tmp_path: Path) -> None:
    data = site(tmp_path, "cat", "dog")
    (tmp_path / "dog" / "copy.png").write_bytes((tmp_path / "cat" / "0.png").read_bytes())
    with pytest.raises(DataError, match="one example has one label"):
        read_site("b", data, resolve(build_config({"data": "icons"})))
