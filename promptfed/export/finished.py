"""A run's prompts, read back from its directory: what evaluation and export start from. No data is needed."""

from __future__ import annotations

from dataclasses import dataclass

from promptfed.aggregators.base import Aggregator, build_aggregator
from promptfed.backbones import load_backbone
from promptfed.backbones.features import FeatureStore
from promptfed.errors import RunError
from promptfed.export.bundle import Bundle, make_bundle
from promptfed.methods.base import Method, Setup, build_method
from promptfed.runs.checkpoint import load_checkpoint
from promptfed.runs.directory import RunDirectory
from promptfed.types import NO_PROMPT, ClientPrompt, FederationState


@dataclass(frozen=True)
class FinishedRun:
    """The method of a run, its server side, and its prompts after the last finished round."""

    run: RunDirectory
    method: Method
    server: Aggregator
    state: FederationState
    names: dict[int, str]

    @classmethod
    def load(cls, run: RunDirectory) -> FinishedRun:
        """Raises RunError if no round of the run is finished yet."""
        config, table = run.config, run.read_json("partition.json")
        saved = load_checkpoint(run.stage_folder(config.method, is_baseline=False))
        if table is None or saved is None or saved[0].round == 0:
            raise RunError(
                f"run '{run.path}' has no finished round of {config.method}; promptfed train --resume {run.path}"
            )
        backbone = load_backbone(config.backbone, device=config.device, precision=config.precision)
        setup = Setup(
            backbone,
            FeatureStore(backbone),
            classes=tuple(table["classes"]),
            templates=tuple(table["templates"]),
            rounds=config.rounds,
            seed=config.seed,
            domains=tuple(row.get("domain") or row["name"] for row in table["clients"]),
        )
        method = build_method(config.method, config.method_options, setup)
        server = method.server_side(build_aggregator(config.aggregator or "mean", config.aggregator_options))
        return cls(run, method, server, saved[0], {row["client"]: row["name"] for row in table["clients"]})

    def prompt(self, client: int | None) -> ClientPrompt:
        """What ``client`` deploys; None asks for somebody who never took part."""
        personal = NO_PROMPT if client is None else self.state.personal[client]
        return ClientPrompt(self.server.broadcast(self.state.shared, self.state.server, client), personal)

    def bundle(self, client: int) -> Bundle:
        """What ``client`` takes home. Raises RunError if the run has no such client."""
        if client not in self.names:
            raise RunError(
                f"run '{self.run.path}' has no client {client}; it has {', '.join(map(str, sorted(self.names)))}"
            )
        return make_bundle(self.run.config, self.method, self.prompt(client), client, self.names[client])
