"""What a site answers to a question for training: the work of its client, with or without noise for each example."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from promptfed.deployment import messages
from promptfed.deployment.fields import LONGEST_TEXT
from promptfed.deployment.site_account import locked
from promptfed.deployment.site_identities import check_identities
from promptfed.deployment.site_noise import SiteLimit, SiteNoise
from promptfed.deployment.site_store import SiteStore
from promptfed.deployment.site_sums import SiteSums, is_summed
from promptfed.errors import DeploymentError, TrainingError
from promptfed.experiment import Experiment
from promptfed.method import Method
from promptfed.printable import printable
from promptfed.privacy.dpsgd import Batches
from promptfed.privacy.example_check import check_example_dp
from promptfed.processors.client_state import prompt_of
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, Job, Reply


@dataclass(frozen=True)
class SiteTraining:
    """The training of a stage at one site.

    Attributes:
        experiment: The run as the site has it.
        method: The method of the stage.
        store: The site's files of the run.
        limit: What the operator allows its examples to spend.
        identities: The file of the other sites' pinned identities, if any.
    """

    experiment: Experiment
    method: Method
    store: SiteStore
    limit: SiteLimit
    identities: Path | None = None

    def answer(
        self, work: messages.Train, shared: PromptState, personal: PromptState
    ) -> tuple[messages.TrainAnswer, PromptState]:
        """Return the answer to ``work`` and its update; what the site keeps is on its disk by then.

        Raises:
            DeploymentError: The examples may not spend what it costs.
            TrainingError: What is to be kept is not finite.
            RunError: The disk refuses.
        """
        if self.experiment.privacy.dp != "example":
            return self._work(work, shared, personal)
        data, classes = self.experiment.task.client(work.client), len(self.experiment.setup.classes)
        if work.stage != self.experiment.config.method:
            if not len(data.val):
                raise DeploymentError(
                    f"without validation images at this site, figures of {work.stage} are of training images and have "
                    "no noise: add images here, or say --baselines none at the server"
                )
            return self._work(work, shared, personal)
        with locked(self.store.state_dir):  # to the end: a second process with the same question waits for its answer
            examples = SiteNoise(self.store, work.agreement, self.experiment, self.limit)
            mark = examples.mark(work, shared, personal, data)
            if (sent := examples.sent(mark)) is not None:
                return sent
            batches = Batches.of(check_example_dp(self.method).config, data.train.total, classes)
            examples.charge(mark, work.round, batches)
            words, update = self._work(work, shared, personal, examples)
            if not words.failure:
                examples.keep(mark, words, update)
            return words, update

    def _work(
        self, work: messages.Train, shared: PromptState, personal: PromptState, examples: SiteNoise | None = None
    ) -> tuple[messages.TrainAnswer, PromptState]:
        training = None if examples is None else examples.training()
        worker = self.experiment.worker(self.method, work.stage, training)
        [reply] = worker([Job(work.client, Broadcast(work.round, shared), personal, work.stage)])
        stored_round = 0
        if not reply.failure and (len(reply.personal) or len(personal)):
            if not reply.personal.is_finite():
                raise TrainingError("the personal prompt has numbers that are not finite")
            self.store.keep(work, reply.personal)
            stored_round = work.round
        update, config = reply.update, self.experiment.config
        is_held = is_summed(config) and work.stage == config.method
        if is_held:
            self._hold(work, shared, reply)
            update = replace(update, shared=NO_PROMPT, loss=math.nan, accuracy=math.nan)
        # Calls of the text encoder tell how many examples were in the secret batches.
        usage = messages.UsageWords.create(**({} if examples is not None else reply.usage.recorded()))
        words = messages.TrainAnswer.create(
            client=reply.client,
            round=reply.round,
            samples=update.samples,
            loss=_finite(update.loss),
            accuracy=_finite(update.accuracy),
            seconds=reply.seconds,
            usage=usage,
            kept=stored_round,
            is_bare=not len(prompt_of(reply.personal)),
            figures=dict(reply.processor_figures),
            is_held=is_held,
            is_protected=examples is not None,
            epsilon=None if examples is None else examples.epsilon,
            failure=printable(reply.failure, LONGEST_TEXT),
        )
        return words, update.shared

    def _hold(self, work: messages.Train, shared: PromptState, reply: Reply) -> None:
        """Keep the change for a secure sum."""
        sent, privacy = reply.update.shared, self.experiment.privacy
        if privacy.dp == "client" and (reply.failure or not sent.is_finite()):  # then it takes part with no change
            sent = PromptState({name: shared[name] for name in self.method.uploads(work.client, shared)})
        if sent:
            check_identities(self.store.state_dir, work.agreement, self.identities)
            SiteSums(self.store, work.stage).hold(work, shared, sent, privacy)


def _finite(value: float) -> float | None:
    """Return ``value``; None if it is not finite, as after a failure."""
    return value if math.isfinite(value) else None
