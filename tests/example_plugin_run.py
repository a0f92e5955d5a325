"""Uses the nine plug-ins of the installed example package: by the API, then in Flower on a grid in this process.

Run as ``python -P example_plugin_run.py FOLDER GRID``: the folder to work in, and the file of the grid.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

NINE: dict[str, Any] = {
    "method": "halved", "aggregator": "slow_mean", "task": "short-fewshot", "data": "squares:6", "backbone": "cold",
    "engine": "backwards", "processors": ["subset"], "measures": ["margin"],
}  # fmt: skip
SMALL: dict[str, Any] = {
    "rounds": 1, "shots": 1, "clients": 2, "threads": 1, "baselines": (), "partition": "dirichlet",
    "task_options": {"val_shots": 1}, "method_options": {"n_ctx": 2, "local_epochs": 1},
}  # fmt: skip


def api(folder: Path) -> dict[str, Any]:
    import promptfed as pf

    run = pf.train(folder=folder / "api", progress=False, observers="best", **NINE, **SMALL)
    run.export(client=0, path=folder / "bundle")
    return {
        "sha256": run.metrics["prompt_sha256"],
        "margin": run.metrics["method"]["measures"]["margin"]["base"],
        "best": (folder / "api" / "best.txt").read_text(),
        "bundle": sorted(path.name for path in (folder / "bundle").iterdir()),
    }


def flower(folder: Path, file: Path) -> dict[str, Any]:
    """The engine is Flower's there, and the observer is the server's affair; the other seven are used."""
    spec = importlib.util.spec_from_file_location("fake_grid", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from promptfed.config import build_config
    from promptfed.deployment.server import ServerOptions, serve
    from promptfed.deployment.site import Site, SiteOptions

    grid = module.FakeGrid()
    for client in range(2):
        options = SiteOptions.of({"state-dir": str(folder / f"site-{client}"), "partition-id": client})
        grid.nodes[client + 1] = Site(options).answer
    server = ServerOptions.model_validate({"run-dir": str(folder / "flower"), "poll-seconds": 0.01})
    metrics = serve(grid, server, build_config({**NINE, **SMALL, "engine": "local"})).metrics
    return {"sha256": metrics["prompt_sha256"], "margin": metrics["method"]["measures"]["margin"]["base"]}


def origins() -> dict[str, str]:
    from promptfed.commands.listing import known

    kinds = {
        "methods": "halved", "aggregators": "slow_mean", "tasks": "short-fewshot", "sources": "squares",
        "backbones": "cold", "engines": "backwards", "processors": "subset", "measures": "margin",
        "observers": "best",
    }  # fmt: skip
    return {kind: known(kind)[name]["origin"] for kind, name in kinds.items()}


if __name__ == "__main__":
    place, grid_file = map(Path, sys.argv[1:])
    print(json.dumps({"origins": origins(), "api": api(place), "flower": flower(place, grid_file)}))
