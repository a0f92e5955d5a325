"""Sites as objects in this process, on a grid without a network."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("flwr")

from promptfed.backbones.text_tower_cache import load_text_tower
from promptfed.config import build_config
from promptfed.deployment.engine import FlowerEngine
from promptfed.deployment.messages import Hello, SiteAgreement
from promptfed.deployment.server import _agree, _without_data, checked
from promptfed.deployment.site import Site, SiteOptions
from promptfed.deployment.site_model import site_model
from promptfed.deployment.site_pool import SitePool
from promptfed.experiment import Experiment
from promptfed.tasks import TASKS

LOAD = functools.cache(load_text_tower)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain pictures in a folder for each of twelve classes, of which six are base classes."""
    folder = tmp_path_factory.mktemp("pictures")
    for k, name in enumerate(["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "koi", "lynx"]):
        (folder / name).mkdir()
        for i in range(5):
            colour = (20 * k, (90 * k + 11 * i) % 256, 255 - 20 * k)
            Image.new("RGB", (16, 16), colour).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The work is small, and threads that wait for each other on a busy machine are all that it would take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def one_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites of one process need not load the same weights again."""
    monkeypatch.setattr("promptfed.deployment.site_model.load_text_tower", LOAD)


@pytest.fixture
def small(pictures: Path) -> dict[str, Any]:
    """Options of a run of a second or two."""
    return {
        "data": f"folder:{pictures}", "clients": 3, "shots": 1, "rounds": 3, "baselines": [],
        "backbone": "tiny", "partition": "classes", "task_options": {"val_shots": 1, "base_fraction": 0.5},
        "method_options": {"n_ctx": 2, "local_epochs": 1},
    }  # fmt: skip


@pytest.fixture
def grid(fake_grid: Any) -> Any:
    return fake_grid.FakeGrid()


class Simulation:
    """Three sites that each play a client of one task, and the server's view of them."""

    def __init__(self, config: Any, folder: Path, grid: Any) -> None:
        self.config, self.folder, self.grid = checked(config), folder, grid
        task = TASKS[self.config.task].build(self.config)
        for client in range(len(task.clients)):
            self.start_site(client)
        model = site_model(self.config, task.form)
        hello = Hello(
            run="0" * 32,
            simulated=True,
            config=self.config.model_dump(mode="json"),
            classes=None,
            fingerprint=model.fingerprint,
            promptfed=version("promptfed"),
        )
        self.said: list[str] = []
        self.sites = SitePool(self.grid, hello, patience=0.2, poll=0.01, say=self.said.append)
        self.sites.gather(len(task.clients), 30)
        self.agreement: SiteAgreement = _agree(hello, self.config, self.sites, task, None)  # type: ignore[arg-type]
        self.sites.agree([site.name for site in self.agreement.sites])
        self.experiment = Experiment.build(self.config, model_for=lambda _: model, task=_without_data(task))
        self.engine = FlowerEngine(self.sites, self.agreement, wait_seconds=0.2)

    def start_site(self, client: int, node: int | None = None) -> int:
        """A new process for ``client``: another node, the same state directory."""
        site = Site(self.options(client))
        number = (client + 1) * 100 if node is None else node
        self.grid.nodes[number] = site.answer
        return number

    def options(self, client: int) -> SiteOptions:
        return SiteOptions.of({"state-dir": str(self.folder / f"site-{client}"), "partition-id": client})


@pytest.fixture
def simulate(tmp_path: Path, small: dict[str, Any], fake_grid: Any) -> Callable[..., Simulation]:
    """``simulate(**options)``: a federation on a grid in this process."""

    def make(**options: Any) -> Simulation:
        return Simulation(
            build_config({**small, **options}), tmp_path / f"sites-{time.monotonic_ns()}", fake_grid.FakeGrid()
        )

    return make
