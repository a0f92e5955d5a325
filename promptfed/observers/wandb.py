"""Weights & Biases."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from promptfed.errors import ConfigError
from promptfed.observers.audience import PATIENCE
from promptfed.observers.base import OBSERVERS, Observer, ObserverConfig, RunDescription, RunOutcome, RunState
from promptfed.observers.scalars import Scalars
from promptfed.runs.events import Event

KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
FAILED = 1


@OBSERVERS.register("wandb")
class WeightsAndBiases(Observer):
    """A run of Weights & Biases. WANDB_MODE=offline writes files for ``wandb sync``.

    The key comes from WANDB_API_KEY or from what ``wandb login`` has stored. A run that goes on continues the same run.
    """

    class Config(ObserverConfig):
        """Options of this observer."""

        project: str | None = Field(None, description="the project; by default WANDB_PROJECT, else promptfed")
        entity: str | None = Field(None, description="the user or team; by default WANDB_ENTITY, else the user's own")
        group: str | None = Field(None, description="runs of one group are shown together")
        name: str | None = Field(None, description="the name of the run; by default that of its folder")
        tags: tuple[str, ...] = Field((), description="tags of the run")

    config: Config
    packages, extra = ("wandb",), "wandb"

    def check(self) -> None:
        super().check()
        import wandb

        settings = wandb.setup().settings
        mode, server = os.environ.get("WANDB_MODE", settings.mode), os.environ.get("WANDB_BASE_URL", settings.base_url)
        if mode == "online" and not (settings.api_key or _has_key(server)):
            raise ConfigError(
                "observer 'wandb' has no key: set WANDB_API_KEY, or run `wandb login`, or set WANDB_MODE=offline"
            )

    def begin(self, run: RunDescription) -> str:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        folder = os.environ.get("WANDB_DIR") or str(run.folder)
        is_known = any(Path(folder, "wandb").glob(f"*run-*-{run.identity}"))
        self._identity = run.identity
        self._run: Any = wandb.init(
            project=self.config.project or os.environ.get("WANDB_PROJECT") or "promptfed",
            entity=self.config.entity,
            group=self.config.group,
            name=self.config.name or run.name,
            tags=self.config.tags or None,
            id=run.identity,
            resume="allow",
            dir=folder,
            config=dict(run.options),
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, finish_timeout=PATIENCE),
        )
        self._run.config.update(dict(run.options), allow_val_change=True)
        self._stages: set[str] = set()
        if not (self._run.resumed or is_known):
            self.replay(run)
        return f"wandb sync {self._run.settings.sync_dir}" if self._run.offline else str(self._run.url or "")

    def event(self, event: Event) -> None:
        if event["event"] == "stopped":
            self._run.summary["stopped"] = event.get("why", "")

    def log(self, scalars: Scalars) -> None:
        step = f"{scalars.stage}/round"
        if scalars.stage not in self._stages:  # each stage counts its own rounds
            self._stages.add(scalars.stage)
            self._run.define_metric(step, hidden=True)
            self._run.define_metric(f"{scalars.stage}/*", step_metric=step)
        self._run.log({step: scalars.step, **scalars.named()})

    def end(self, outcome: RunOutcome) -> None:
        import wandb

        self._run.log({"results": wandb.Table(columns=list(outcome.columns), data=[list(r) for r in outcome.rows])})
        if outcome.report is None:
            return
        report = wandb.Artifact(f"report-{self._identity}", type="report")
        report.add_file(str(outcome.report), name="report.html")
        self._run.log_artifact(report)

    def close(self, state: RunState) -> None:
        if hasattr(self, "_run"):
            self._run.finish(exit_code=FAILED if state == "failed" else 0)


def _has_key(server: str) -> bool:
    """Return whether there is a key for ``server`` in the environment or in the store of ``wandb login``."""
    if any(os.environ.get(name) for name in KEYS):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(urlsplit(server).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False
