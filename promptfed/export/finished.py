"""A run's prompts, read back from its directory: what evaluation and export start from. No data is needed."""

from __future__ import annotations

from dataclasses import dataclass

from promptfed.aggregators.base import Aggregator, build_aggregator
from promptfed.backbones import load_backbone
from promptfed.backbones.features import FeatureStore
from promptfed.errors import RunError
from promptfed.export.bundle import Bundle, make_bundle
from promptfed.methods.base import Method, Setup, build_method
from promptfed.personalize.saved import Personalized, load_client, prompt_sha256
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
    def load(cls, run: RunDirectory, setup: Setup | None = None) -> FinishedRun:
        """``setup`` of the run's own experiment saves loading the backbone a second time.

        Raises RunError if no round of the run is finished yet.
        """
        config, table = run.config, run.read_json("partition.json")
        saved = load_checkpoint(run.stage_folder(config.method, is_baseline=False))
        if table is None or saved is None or saved[0].round == 0:
            raise RunError(
                f"run '{run.path}' has no finished round of {config.method}; promptfed train --resume {run.path}"
            )
        if setup is None:
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

    @property
    def keeps_personal_prompts(self) -> bool:
        """Whether the method itself gave clients something of their own."""
        return any(len(personal) for personal in self.state.personal.values())

    def prompt(self, client: int | None) -> ClientPrompt:
        """What ``client`` has after training; None asks for somebody who never took part."""
        personal = NO_PROMPT if client is None else self.state.personal[client]
        return ClientPrompt(self.server.broadcast(self.state.shared, self.state.server, client), personal)

    def personalized(self, client: int) -> Personalized | None:
        """What `promptfed personalize` made of it for ``client``; None if it was not asked.

        Raises RunError if that is damaged, or if the run has been trained on since.
        """
        found = load_client(self.run.path, client)
        if found is not None and found.about.origin.prompt_sha256 != prompt_sha256(self.prompt(client)):
            raise RunError(
                f"client {client} of run '{self.run.path}' was personalised after round {found.about.origin.round}, "
                f"with other prompts than those of round {self.state.round}: run promptfed personalize "
                f"{self.run.path} again, or export the shared prompt (--shared)"
            )
        return found

    def bundle(self, client: int, *, shared_only: bool = False) -> Bundle:
        """What ``client`` takes home: its personalised prompt if there is one, else what it has after training.

        ``shared_only`` leaves out all that is its own. Raises RunError if the run has no such client.
        """
        if client not in self.names:
            raise RunError(
                f"run '{self.run.path}' has no client {client}; it has {', '.join(map(str, sorted(self.names)))}"
            )
        prompt, chosen = self.prompt(client), ""
        if shared_only:
            prompt = ClientPrompt(prompt.shared)
        elif found := self.personalized(client):
            prompt, chosen = found.deployed(prompt), found.about.why
        return make_bundle(self.run.config, self.method, prompt, client, self.names[client], chosen)
