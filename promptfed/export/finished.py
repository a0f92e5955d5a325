"""The prompts of a finished run, read from its directory: evaluation and export start from them.

Loading them needs no data and no paid call of a black box.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from promptfed.aggregators.base import Aggregator, build_aggregator, deployed
from promptfed.agreement import Agreement
from promptfed.build_method import build_method
from promptfed.class_losses import sigmoid_bias
from promptfed.config import RunConfig
from promptfed.errors import RunError
from promptfed.examples.episodes import EpisodeForm
from promptfed.examples.series import SeriesForm
from promptfed.export.adapter import client_adapter, lead_of
from promptfed.export.bundle import Bundle, candidate_of, is_complete, make_bundle
from promptfed.export.folder import SEVERAL_LABELS
from promptfed.export.merged import MergedModel, merged_model
from promptfed.export.origin import BundleOrigin, origin_of
from promptfed.frozen_model import FrozenModel
from promptfed.kept_text import carried
from promptfed.method import Method
from promptfed.named_model import named_model
from promptfed.objects import NO_OBJECTS, Objects
from promptfed.printable import printable
from promptfed.processors.client_state import PromptsAlone
from promptfed.prompt_state import PromptState
from promptfed.prompt_template import PromptTemplate
from promptfed.readers.content import expected_content
from promptfed.resolve import warn_of_plugins
from promptfed.runs.checkpoint import load_checkpoint
from promptfed.runs.directory import RunDirectory
from promptfed.runs.model import check_same_basis, check_same_model
from promptfed.runs.partition_file import read_partition
from promptfed.runs.passport import check_passport, identity_of
from promptfed.runs.personal_store import PERSONAL_VERSION, PersonalPrompts
from promptfed.runs.personalized import Personalized, load_client, prompt_sha256
from promptfed.runs.plugin_tokens import load_remembered_plugins, remember_plugins
from promptfed.setup import Setup
from promptfed.types import NO_PROMPT, ClientPrompt, FederationState

log = logging.getLogger(__name__)
FORMS: Mapping[str, type[PromptTemplate]] = {"forecaster": SeriesForm, "policy": EpisodeForm}
"""What examples of a kind of model look like, where that is no text."""


@dataclass(frozen=True)
class FinishedRun:
    """The method of a run, its server side, and its prompts after the last finished round.

    Attributes:
        run: The directory of the run.
        method: The method with its model.
        server: The aggregator.
        state: The shared and personal prompts after the last finished round.
        names: Client -> its name.
        examples: The kind of the training examples: images, texts or questions.
        objects: The Python objects that the options refer to.
    """

    run: RunDirectory
    method: Method
    server: Aggregator
    state: FederationState
    names: dict[int, str]
    examples: str = "images"
    objects: Objects = NO_OBJECTS

    @classmethod
    def load(cls, run: RunDirectory, setup: Setup | None = None, objects: Objects = NO_OBJECTS) -> FinishedRun:
        """Load the prompts of a run.

        Args:
            run: The directory of the run.
            setup: The setup of the run's experiment, if it is at hand. It saves loading the model again.
            objects: The Python objects that the run's options refer to.

        Raises:
            RunError: No round of the run is finished, or a file of it is damaged.
        """
        for line in check_passport(run):
            log.warning(line)
        config, table = run.config, read_partition(run)
        load_remembered_plugins(run)
        warn_of_plugins(config, f"run '{printable(run.path)}'")
        remember_plugins(run)
        objects.check_classes(config)
        saved = load_checkpoint(run.stage_folder(config.method, is_baseline=False), fall_back=False)
        if table is None or saved is None or saved[0].round == 0:
            raise RunError(
                f"run '{run.path}' has no finished round of {config.method}; "
                f"promptfed train --resume {shlex.quote(str(run.path))}"
            )
        identity_of(run, {config.method: saved})
        with expected_content(f"the files of run '{printable(run.path)}'"):
            clients = [
                (row["client"], str(row["name"]), str(row.get("domain") or row["name"])) for row in table["clients"]
            ]
            classes, templates = (tuple(map(str, table[name])) for name in ("classes", "templates"))
            examples = str(table.get("examples", "images"))
        if setup is None:
            agreement = Agreement(
                classes=classes,
                templates=templates,
                rounds=config.rounds,
                seed=config.seed,
                domains=tuple(domain for _, _, domain in clients),
            )
            setup = Setup(_model(run, config, table, objects), agreement, config.selection)
        method = build_method(config.method, config.method_options, setup)
        check_same_basis(run.path, table, method.basis)
        server = method.server_side(build_aggregator(config.aggregator or "mean", config.aggregator_options))
        names = {client: name for client, name, _ in clients}
        personal: Mapping[int, PromptState] = PersonalPrompts(sorted(names), method.init_personal, saved.state.personal)
        is_mixed = bool(config.processors or config.attack_options) or method.remembers
        state = replace(saved.state, personal=PromptsAlone(personal) if is_mixed else personal)
        return cls(run, method, server, state, names, examples, objects)

    @property
    def keeps_personal_prompts(self) -> bool:
        """Whether the method itself gave clients something of their own that they deploy."""
        return any(self._is_own(client) for client, personal in self.state.personal.items() if len(personal))

    def _is_own(self, client: int) -> bool:
        """Return whether the personal part of ``client`` changes what it deploys.

        The personal part of a black-box search may be the state of the search alone.
        """
        prompt = self.prompt(client)
        if not is_complete(self.method, prompt):
            return True
        candidate, general = candidate_of(self.method, prompt), candidate_of(self.method, ClientPrompt(prompt.shared))
        return candidate is None or general is None or candidate.described() != general.described()

    def model_for(self, form: PromptTemplate | None) -> FrozenModel:
        """Return the run's model for examples in the template ``form``, loaded again if the template differs."""
        model = self.method.setup.model
        return model if form == model.form else self.objects.model_of(self.run.config, form)

    def prompt(self, client: int | None) -> ClientPrompt:
        """Return the prompt of a client after training.

        Args:
            client: The number of the client; None stands for somebody who never took part.

        Raises:
            RunError: The personal prompt is at the client's own site.
        """
        personal = NO_PROMPT if client is None else self.state.personal[client]
        if PERSONAL_VERSION in personal:
            raise RunError(
                f"the personal prompt of client {client} of run '{self.run.path}' is kept at its own site: "
                "promptfed site export there, or export what all share (--shared)"
            )
        return ClientPrompt(self._broadcast(client), personal)

    def _broadcast(self, client: int | None) -> PromptState:
        sent = self.server.broadcast(self.state.shared, self.state.server, client)
        return carried(deployed(sent), self.state.shared)

    def personalized(self, client: int) -> Personalized | None:
        """Return the personalised prompt of ``client``; None if the run is not personalised.

        Raises:
            RunError: Its file is damaged, or the run has been trained further since.
        """
        result = load_client(self.run.path, client)
        if result is not None and result.about.origin.prompt_sha256 != prompt_sha256(self.prompt(client)):
            raise RunError(
                f"client {client} of run '{self.run.path}' was personalised after round {result.about.origin.round}, "
                f"with other prompts than those of round {self.state.round}: run promptfed personalize "
                f"{self.run.path} again, or export the shared prompt (--shared)"
            )
        return result

    def bundle(self, client: int, *, shared_only: bool = False) -> Bundle:
        """Make the bundle of ``client``, with its personalised prompt or else its prompt after training.

        Args:
            client: The number of the client.
            shared_only: Whether to leave out the client's own part.

        Raises:
            RunError: The run has no such client.
        """
        prompt, chosen, origin = self._deployed(client, shared_only)
        names = self.names[client], self.examples, chosen, origin
        return make_bundle(self.run.config, self.method, prompt, client, *names, self._label_bias(client))

    def _label_bias(self, client: int) -> float | None:
        """Return the bias that ``client`` trained with, from its training images; None where an example has one label.

        Raises:
            DataError: The data of the run are gone.
        """
        if self.run.config.task != SEVERAL_LABELS:
            return None
        return sigmoid_bias(self.method.setup, self.objects.task_of(self.run.config).client(client))

    def peft_files(self, client: int, *, shared_only: bool = False) -> dict[str, bytes]:
        """Return file name -> content of a folder for PEFT with what ``client`` deploys.

        Raises:
            RunError: The run has no such client.
            ConfigError: PEFT cannot express it.
        """
        prompt, lead = self._deployed_and_said(client, shared_only)
        return client_adapter(self.method, prompt).files(lead)

    def merged(self, client: int, *, shared_only: bool = False) -> MergedModel:
        """Return the model with what ``client`` deploys added to its own matrices.

        Raises:
            RunError: The run has no such client.
            ConfigError: It is no change of matrices.
        """
        prompt, lead = self._deployed_and_said(client, shared_only)
        return merged_model(self.method, prompt, lead)

    def origin(self, client: int, *, shared_only: bool = False) -> BundleOrigin:
        """Return where the prompt that ``client`` deploys comes from. Raises RunError if there is no such client."""
        return self._deployed(client, shared_only)[2]

    def _deployed_and_said(self, client: int, shared_only: bool) -> tuple[ClientPrompt, str]:
        """Return what ``client`` deploys, and the first paragraph of a README on it."""
        prompt, chosen, origin = self._deployed(client, shared_only)
        return prompt, lead_of(self.method, client, self.names[client], origin, chosen)

    def _deployed(self, client: int, shared_only: bool) -> tuple[ClientPrompt, str, BundleOrigin]:
        """Return what ``client`` deploys, how its share of the client's own was chosen, and where it comes from."""
        if client not in self.names:
            raise RunError(
                f"run '{self.run.path}' has no client {client}; it has {', '.join(map(str, sorted(self.names)))}"
            )
        chosen = ""
        if shared_only:
            prompt = ClientPrompt(self._broadcast(client))
        else:
            prompt = self.prompt(client)
            if personalized := self.personalized(client):
                prompt, chosen = personalized.deployed(prompt), personalized.about.why
        alike, is_tuned = () if chosen else self._alike(client, prompt), prompt.alpha > 0 and len(prompt.tuned) > 0
        origin = origin_of(self.run, client, shared=shared_only, alike=alike, is_tuned=is_tuned)
        return prompt, chosen, origin

    def _alike(self, client: int, prompt: ClientPrompt) -> tuple[int, ...]:
        """Return the other clients whose prompt after training equals that of ``client``."""
        own_digests = prompt.shared.sha256(), prompt.personal.sha256()
        return tuple(number for number, digests in self._digests.items() if number != client and digests == own_digests)

    @cached_property
    def _digests(self) -> dict[int, tuple[str, str]]:
        """Client -> the SHA-256 of its shared and of its personal part."""
        broadcasts = {number: self._broadcast(number) for number in sorted(self.names)}
        distinct = {id(shared): shared for shared in broadcasts.values()}
        digests = {key: shared.sha256() for key, shared in distinct.items()}
        return {
            number: (digests[id(shared)], self.state.personal[number].sha256()) for number, shared in broadcasts.items()
        }


def _model(run: RunDirectory, config: RunConfig, table: Mapping[str, Any], objects: Objects) -> FrozenModel:
    """Load the model of the run. A black box is not called.

    Raises:
        RunError: The run does not say how examples were put to a black box, or the model has changed.
    """
    named_model(config).check_template(table, run.path)
    kind = FORMS.get(named_model(config).kind, PromptTemplate)
    model = objects.model_of(config, kind.model_validate(table["form"]) if "form" in table else None)
    check_same_model(run.path, table, model)
    return model
