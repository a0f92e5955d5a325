"""Each site names its own plug-ins: what the server names is compared with them, and never imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from promptfed import plugins
from promptfed.config import build_config
from promptfed.deployment.readme import readme
from promptfed.deployment.server import checked
from promptfed.deployment.site import Site, SiteOptions
from promptfed.errors import ConfigError
from promptfed.plugins import short_names


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plugins, "_loaded", {})
    path = tmp_path / "site" / "mine.py"
    path.parent.mkdir()
    path.write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('x')\n")
    return path


def site(tmp_path: Path, **options: str) -> Site:
    return Site(SiteOptions.of({"state-dir": str(tmp_path / "state"), "partition-id": 0, **options}))


def named(path: str, digest: str) -> dict[str, Any]:
    """Options as a server sends them."""
    return build_config({"rounds": 1, "plugins": {path: digest}}).model_dump(mode="json")


def test_a_site_loads_what_its_operator_named(tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = site(tmp_path, plugins=f"{file}, ")
    assert (tmp_path / "ran").read_text() == "x"
    assert "adds nothing to promptfed" in caplog.text
    caplog.clear()
    [digest] = plugins.loaded_plugins().values()
    config = own._config(named("renamed.py", digest), simulated=True)
    assert config.plugins == {str(file): digest}
    assert not caplog.records
    own._config(named("mine.py", "0" * 64), simulated=True)
    assert "plug-in mine.py is not the code that the server has" in caplog.text


def test_a_server_has_nothing_imported(tmp_path: Path, file: Path) -> None:
    own = site(tmp_path)
    for name in (str(file), "mine.py", "antigravity"):
        with pytest.raises(ConfigError, match=r"which this site has not loaded.* --node-config"):
            own._config(named(name, "0" * 64), simulated=True)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ConfigError, match="is no file"):
        site(tmp_path, plugins="nowhere.py")


def test_the_server_tells_names_and_not_its_folders(tmp_path: Path, file: Path) -> None:
    plugins.load_plugin(file)
    config = checked(build_config({"rounds": 1}))
    assert list(short_names(config.plugins)) == ["mine.py"]
    text = readme(config, folder=tmp_path, run_dir=tmp_path / "run", sites=2, version="0")
    assert "other people's code: mine.py" in text
    assert str(file) not in text
