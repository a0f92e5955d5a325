"""A run writes down the installed packages that it uses, and no others."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from promptfed.config import build_config
from promptfed.errors import ConfigError
from promptfed.measures.base import MEASURES
from promptfed.plugins import check_plugins, installed_plugins
from promptfed.resolve import resolve
from promptfed.used_packages import used_packages

CODE = '''
from promptfed.measures.accuracy import Accuracy

class Share(Accuracy):
    """A measure of another package."""
'''
POINTS = """[promptfed.measures]
share = nearby_package.share:Share
other = nearby_package.other:Other
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with two entry points, installed as far as Python can tell."""
    code, about = tmp_path / "nearby_package", tmp_path / "nearby_package-1.0.dist-info"
    code.mkdir()
    about.mkdir()
    (code / "__init__.py").write_text("")
    (code / "share.py").write_text(CODE)
    (code / "other.py").write_text(CODE.replace("Share", "Other"))
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: nearby-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(POINTS)
    assert "nll" in MEASURES  # promptfed's own are imported by now, and are there again afterwards
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(MEASURES, "_entries", dict(MEASURES._entries))
    monkeypatch.setattr(MEASURES, "_modules", {})
    monkeypatch.setattr(MEASURES, "_scanned", False)
    return code


def test_a_run_names_the_package_whose_measure_it_uses(package: Path) -> None:
    digest = hashlib.sha256((package / "share.py").read_bytes()).hexdigest()
    config = resolve(build_config({"measures": ["share"]}))
    assert config.plugins == {"nearby_package.share": digest}
    assert used_packages(resolve(build_config({}))) == {}
    assert set(installed_plugins()) >= {"nearby_package.share", "nearby_package.other"}


def test_without_the_package_the_run_names_it(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = resolve(build_config({"measures": ["share"]})).plugins
    assert check_plugins(named, "run 'a'") == []
    assert check_plugins({**named, "nearby_package.share": "0"}, "run 'a'") == [
        "plug-in nearby_package.share is not the code that run 'a' was made with"
    ]
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"add --plugin nearby_package\.share, or install the package that has it"):
        check_plugins(named, "run 'a'")


def test_a_damaged_entry_point_hides_no_other(package: Path) -> None:
    points = package.parent / "nearby_package-1.0.dist-info" / "entry_points.txt"
    points.write_text(POINTS + "broken = ???\nnobody =\n")
    assert set(installed_plugins()) >= {"nearby_package.share", "nearby_package.other"}
    assert list(resolve(build_config({"measures": ["share"]})).plugins) == ["nearby_package.share"]
