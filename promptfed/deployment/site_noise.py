"""How a site protects its examples in a run: by a key of its own, and within what its operator and the run allow.

<state-dir>/releases.json                            what was released in all runs (promptfed.deployment.site_account)
<state-dir>/<run>/privacy.key                        what batches and noise of the run come from
<state-dir>/<run>/<stage>/sent-<mark>.safetensors    the last answers, as they were sent

An answer is on the disk before it is sent, so a question that comes again is answered with the same bytes. A question
whose answer was never written was never answered: its release is in the account, and made then.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.torch import save

from promptfed.config import RunConfig
from promptfed.deployment.messages import SiteAgreement, Train, TrainAnswer
from promptfed.deployment.site_account import RunTerms, SiteAccount, SiteRelease, locked, spent
from promptfed.deployment.site_store import KEPT_BEHIND, SiteStore
from promptfed.errors import ConfigError, DeploymentError, FormatError
from promptfed.experiment import Experiment
from promptfed.files.atomic import naming
from promptfed.files.paths import make_private_folder
from promptfed.local_training import LocalSteps
from promptfed.printable import printable
from promptfed.privacy.dpsgd import DPSGD, Batches
from promptfed.privacy.example_account import PRECISION, batches_of, least_noise
from promptfed.privacy.example_check import check_example_dp
from promptfed.privacy.run_examples import counted
from promptfed.privacy.secret_key import KEY_FILE, SecretKey, create_key, read_key
from promptfed.privacy_options import PrivacyOptions
from promptfed.prompt_state import PromptState
from promptfed.readers.tensors import parse_tensors, read_tensor_bytes, tensor_metadata
from promptfed.runs.personal_store import SEAL
from promptfed.types import ClientData

WORDS = "words"
UNTRAINED = "zero_shot"


@dataclass(frozen=True)
class SiteLimit:
    """What the operator of a site allows: its examples spend ``epsilon`` at most at ``delta``, in all runs together."""

    epsilon: float | None = None
    delta: float = 1e-5

    def check(self, config: RunConfig) -> None:
        """Raise DeploymentError if ``epsilon`` is limited, and a run has no noise for each example."""
        if self.epsilon is not None and PrivacyOptions.model_validate(config.privacy_options).dp != "example":
            raise DeploymentError(
                "this site's examples may spend no more than max-epsilon in its node-config, and the run gives them no "
                "noise: set privacy.dp=example"
            )


class SiteNoise:
    """A run's training with noise at one site. Its methods are called while the account is locked."""

    def __init__(self, store: SiteStore, agreement: SiteAgreement, experiment: Experiment, limit: SiteLimit) -> None:
        """Read the account.

        Raises:
            DeploymentError: The account cannot be used, the server changed the terms of the run, or names no noise.
            RunError: The run has begun, and its key is gone.
        """
        self.store, self.run, self.limit = store, agreement.run, limit
        self.config, self.terms = experiment.config, experiment.privacy
        if self.terms.noise is None:
            raise DeploymentError("the server names no noise for privacy.dp=example")
        self.noise: float = self.terms.noise
        self.account = SiteAccount.load(store.state_dir)
        self.digest = hashlib.sha256(agreement.model_dump_json().encode()).hexdigest()
        self.begun = self.account.runs.get(self.run)
        if self.begun is not None and self.begun.terms != self.digest:
            raise DeploymentError("the server changed the terms of a run that has begun, whose batches may repeat")

    def check(self, batches: Batches) -> None:
        """Check that one round at least can be afforded, and tell the operator what all of them cost.

        Raises:
            DeploymentError: It cannot.
        """
        rounds = sorted({release.round for release in self.account.of_run(self.run)})
        left = [round for round in range(1, self.config.rounds + 1) if round not in rounds]
        if not left:
            return
        self._check_limits(self._with(batches, left[:1]))
        every = self._with(batches, left)
        words = f"all {self.config.rounds} rounds cost epsilon {self._of_run(every):.3g} at delta {self.terms.delta:g}"
        if self.limit.epsilon is not None:
            in_all = spent(every.releases, self.limit.delta)
            words += f"; with other runs {in_all:.3g} of the {self.limit.epsilon:g} that max-epsilon allows"
        clip = self.terms.clip_norm
        print(f"noise {self.noise:g}, clip {clip:g}, {batches.steps} steps a round: {words}", flush=True)

    def mark(self, work: Train, shared: PromptState, personal: PromptState, data: ClientData) -> str:
        """Return a keyed hash of all that the update of ``work`` is made of."""
        examples = hashlib.sha256()
        for item, label in zip(data.train.items, data.train.labels.tolist(), strict=True):
            examples.update(f"{item.content_id()}:{label};".encode())
        parts = [self.digest, work.round, work.client, shared.sha256(), personal.sha256(), examples.hexdigest()]
        return self._key().keyed_hash(json.dumps(parts).encode()).hex()

    def sent(self, mark: str) -> tuple[TrainAnswer, PromptState] | None:
        """Return the answer that was made before; None if there is none (any more).

        Raises:
            DeploymentError: It cannot be read.
        """
        path = self._path(mark)
        if not path.exists():
            return None
        try:
            content = read_tensor_bytes(path)
            state = PromptState(parse_tensors(content))
            found = tensor_metadata(content)
            if state.sha256() != found.get(SEAL):
                raise FormatError("its SHA-256 is not the one that was written")
            return TrainAnswer.read(found[WORDS]), state
        except (OSError, FormatError, KeyError) as error:
            raise DeploymentError(f"cannot read {printable(path)}: {printable(error, 200)}") from error

    def charge(self, mark: str, round: int, batches: Batches) -> None:
        """Write the release of ``mark`` into the account, unless it is the last one, whose answer was never sent.

        Raises:
            DeploymentError: It would spend more than the run or the operator allows: it must not be made.
            DiskError: The disk refuses; then it must not be made either.
        """
        mine = self.account.of_run(self.run)
        if mine and mine[-1].mark == mark:
            return
        key = self._key()
        if self.begun is not None and self.begun.key != key.fingerprint:
            raise DeploymentError(f"{KEY_FILE} of this run is not the key of its releases: bring it back from a backup")
        release = SiteRelease(self.run, round, mark, self.noise, batches.probability, batches.steps)
        account = self.account.with_release(release)
        self._check_limits(account)
        self.begun = RunTerms(
            terms=self.digest,
            key=key.fingerprint,
            method=self.config.method,
            rounds=self.config.rounds,
            delta=self.terms.delta,
            limit=self.terms.epsilon,
        )
        account.runs[self.run] = self.begun
        account.save(self.store.state_dir)
        self.account = account

    def training(self) -> DPSGD:
        """Return what trains with the key of the run."""
        return DPSGD(self._key(), self.terms.clip_norm, self.noise, self.terms.clip_space, self.config.method)

    def keep(self, mark: str, words: TrainAnswer, update: PromptState) -> None:
        """Write an answer before it is sent, and delete those that no server may ask for again.

        Raises:
            RunError: The disk refuses; then it must not be sent.
        """
        metadata = {WORDS: words.model_dump_json(), SEAL: update.sha256()}
        self.store.write(self._path(mark), save(dict(update), metadata))
        marks = [release.mark for release in self.account.of_run(self.run)]
        for old in marks[: -KEPT_BEHIND - 1]:
            if old not in marks[-KEPT_BEHIND - 1 :]:
                self._path(old).unlink(missing_ok=True)

    @property
    def epsilon(self) -> float | None:
        """What the run has cost so far; None: it has no noise."""
        value = self._of_run(self.account)
        return value if math.isfinite(value) else None

    def _key(self) -> SecretKey:
        if self.begun is None and not (self.store.folder / KEY_FILE).exists():
            self.account.save(self.store.state_dir)  # so that a key without an account is one whose account is lost
            with naming(self.store.folder):
                make_private_folder(self.store.folder)
            return create_key(self.store.folder)
        return read_key(self.store.folder)

    def _path(self, mark: str) -> Path:
        return self.store.folder / self.config.method / f"sent-{mark}.safetensors"

    def _of_run(self, account: SiteAccount) -> float:
        return spent(account.of_run(self.run), self.terms.delta)

    def _with(self, batches: Batches, rounds: Sequence[int]) -> SiteAccount:
        account = self.account
        for round in rounds:
            account = account.with_release(
                SiteRelease(self.run, round, "", self.noise, batches.probability, batches.steps)
            )
        return account

    def _check_limits(self, account: SiteAccount) -> None:
        """Raise DeploymentError if ``account`` has more than the run or the operator allows."""
        most, of_run = self.terms.epsilon, self._of_run(account)
        if most is not None and of_run > most * (1 + PRECISION):
            raise DeploymentError(
                f"the round would bring this site to epsilon {of_run:.3g} at delta {self.terms.delta:g}, and the run "
                f"may spend {most:g} (privacy.epsilon)"
            )
        most = self.limit.epsilon
        if most is None:
            return
        in_all, before = (spent(each.releases, self.limit.delta) for each in (account, self.account))
        if in_all > most * (1 + PRECISION):
            raise DeploymentError(
                f"the round would bring this site to epsilon {in_all:.3g} at delta {self.limit.delta:g}, and its "
                f"operator allows {most:g} for all runs together (max-epsilon in its node-config), of which "
                f"{before:.3g} is spent"
            )


def check_plan(
    store: SiteStore, agreement: SiteAgreement, experiment: Experiment, client: int, limit: SiteLimit
) -> None:
    """Check before the first round that ``client`` can afford one, and tell its operator what all of them cost.

    Raises:
        DeploymentError: It cannot, or the account cannot be used.
    """
    with locked(store.state_dir):
        batches = announced_batches(experiment).get(client)
        if batches is None:
            raise DeploymentError(f"the server asks for client {client}, and there is none")
        SiteNoise(store, agreement, experiment, limit).check(batches)


def check_noise_at_sites(config: RunConfig) -> None:
    """Raise ConfigError if a run that protects examples trains something without noise at its sites."""
    if PrivacyOptions.model_validate(config.privacy_options).dp == "example" and set(config.baselines or ()) - {
        UNTRAINED
    }:
        raise ConfigError(
            "privacy.dp=example over sites trains no baseline, which has no noise: say --baselines zero_shot"
        )


def with_untrained_baselines(config: RunConfig) -> RunConfig:
    """Return ``config`` with zero-shot as its only baseline, if it protects examples and names none."""
    is_open = config.baselines is None and PrivacyOptions.model_validate(config.privacy_options).dp == "example"
    return config.model_copy(update={"baselines": (UNTRAINED,)}) if is_open else config


def with_agreed_noise(experiment: Experiment, agreement: SiteAgreement) -> tuple[Experiment, SiteAgreement]:
    """Return both with the noise that ``privacy.epsilon`` can afford for the planned rounds of all sites.

    Args:
        experiment: The run at the server, which knows how many examples each site announced.
        agreement: What the sites agreed on; noise that is there stays.
    """
    terms, options = experiment.privacy, dict(agreement.config.get("privacy_options") or {})
    if terms.dp != "example":
        return experiment, agreement
    if options.get("noise") is None:
        planned = counted(experiment.federation().participants, range(1, experiment.config.rounds + 1))
        options["noise"] = least_noise(announced_batches(experiment), planned, terms.epsilon or 0.0, terms.delta)
    config = experiment.config.model_copy(update={"privacy_options": options})
    agreed = {**agreement.config, "privacy_options": options}
    return replace(experiment, config=config), agreement.model_copy(update={"config": agreed})


def announced_batches(experiment: Experiment) -> dict[int, Batches]:
    """Return the batches of all clients, by the numbers of examples that are known here."""
    method = check_example_dp(experiment.method())
    steps: LocalSteps = method.config
    return batches_of(steps, experiment.train_sizes(), len(experiment.setup.classes))
