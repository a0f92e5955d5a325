"""What synthetic texts of a run are good for, and what they give away: for whoever holds all data, in a simulation."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from promptfed.attacks.canary import Canary, allowed_rate, canary_figures, draw_canaries, plant, shown_epsilon
from promptfed.blackbox.text.quotation_filter import Quotations
from promptfed.errors import ConfigError
from promptfed.evaluation import accuracy
from promptfed.examples.base import TextItem
from promptfed.experiment import Experiment
from promptfed.export.finished import FinishedRun
from promptfed.export.texts import texts_of
from promptfed.federation import Federation
from promptfed.finished_experiment import finished_experiment
from promptfed.privacy.statement import FILE
from promptfed.prompts.synthetic_texts import makers_of_texts, synthetic_texts
from promptfed.prompts.text_states import TextStates
from promptfed.prompts.word_pool import WordPool
from promptfed.resolve import resolve
from promptfed.run_privacy import private_federation
from promptfed.tasks.centralized import joined
from promptfed.types import ClientData, FederatedTask, FederationState, Split

QUOTED = 6
"""Words in a row that make a quotation."""
NEAR = 0.95
"""The cosine above which a synthetic text is next to a real one."""
LOCAL = 5
"""Clients that train a prompt by themselves, at most."""
REFERENCES = 200
"""Canaries that are planted nowhere."""


class SyntheticReport:
    """The synthetic texts of a finished run beside the real ones.

    Args:
        finished: A run of a method that makes texts.
        progress: Receives, in a few words, what is done next.

    Raises:
        ConfigError: The run's method makes no texts.
        DataError: The run's data are not here.
        RunError: They have changed.
    """

    def __init__(self, finished: FinishedRun, progress: Callable[[str], None] = lambda words: None) -> None:
        self.finished, self.progress = finished, progress
        reader = "promptfed synthetic judges", f"use it on a run of --method {' or '.join(makers_of_texts())}"
        self.pairs = texts_of(finished.method, finished.prompt(None), *reader)
        if not self.pairs:
            raise ConfigError(
                f"run '{finished.run.path}' has made no texts: no client voted for one or had a draft accepted. Train "
                "one of more rounds, or of fedpit with a lower option method.margin, or a higher method.nearest or "
                "method.quoted_words"
            )
        self.experiment = finished_experiment(finished, attack_options={}, engine="local")
        self.task: FederatedTask = self.experiment.task
        self._states = TextStates(self.experiment.setup.language_model)

    def all(self, *, method: str, rounds: int, canaries: int, repeat: int) -> dict[str, Any]:
        """Return every figure.

        Args:
            method: The prompt method that is trained on the texts.
            rounds: Its rounds.
            canaries: Texts that are planted, in a federation that is trained anew; 0: none.
            repeat: How often each stands among its client's texts.
        """
        return {
            "texts": len(self.pairs),
            "accuracy": self.accuracies(method, rounds),
            "nearness": self.nearness(),
            "privacy": self.privacy(),
            "canaries": self.canaries(canaries, repeat) if canaries else None,
        }

    # ---------------------------------------------------------------------------------------------- accuracy

    def accuracies(self, method: str, rounds: int) -> dict[str, Any]:
        """Return the accuracy on all base test texts of one prompt, trained on synthetic, local and pooled texts."""
        plain = {"method": method, "method_options": {}, "rounds": rounds, "privacy_options": {}, "processors": ()}
        plain |= {"aggregator": None, "aggregator_options": {}, "participation": 1.0, "dropout": 0.0}
        config = resolve(self.experiment.config.model_copy(update=plain))
        trainer = Experiment.build(config, like=self.experiment, objects=self.finished.objects)
        if trainer.method().trains.startswith("nothing"):
            raise ConfigError(f"method '{method}' trains nothing: use --method fedprompt")
        classes, clients = list(self.task.base_classes), self.task.clients
        labels = torch.tensor([classes.index(name) for _, name in self.pairs], dtype=torch.int64)
        synthetic = Split(tuple(TextItem(text) for text, _ in self.pairs), labels)
        pooled = joined([data.train for data in clients])
        self.progress(f"{method} on {len(synthetic)} synthetic texts")
        figures = {"synthetic": self._alone(trainer, synthetic)}
        self.progress(f"{method} on {len(pooled)} real texts of all clients")
        figures["pooled"] = self._alone(trainer, pooled)
        alone = _apart([data for data in clients if len(data.train)], LOCAL)
        self.progress(f"{method} at each of {len(alone)} clients")
        figures["local"] = fmean(self._alone(trainer, data.train) for data in alone)
        zero = trainer.federation("zero_shot")
        figures["zero_shot"] = accuracy(zero.method, zero.prompt(_trained(zero), None), classes, self.task.base_test)
        counts = {"synthetic_texts": len(synthetic), "pooled_texts": len(pooled), "local_clients": len(alone)}
        return {"method": method, "rounds": rounds, **figures, **counts, "tests": len(self.task.base_test)}

    def _alone(self, trainer: Experiment, texts: Split) -> float:
        """Return the accuracy of a prompt that one client with ``texts`` trains."""
        first = self.task.clients[0]
        holder = ClientData(
            first.client, first.name, tuple(sorted(set(texts.labels.tolist()))), texts, first.val, texts
        )
        federation = replace(trainer, task=replace(self.task, clients=(holder,))).federation()
        state = _trained(federation)
        prompt = federation.prompt(state, first.client)
        return accuracy(federation.method, prompt, self.task.base_classes, self.task.base_test)

    # ---------------------------------------------------------------------------------------------- nearness

    def nearness(self) -> dict[str, Any]:
        """Return how many synthetic texts quote a real training text, or lie next to one."""
        real = [item for data in self.task.clients for item in data.train.items]
        real_texts = [item.text if isinstance(item, TextItem) else item.name for item in real]
        texts = [text for text, _ in self.pairs]
        nearest = (self._states.unit_of_texts(texts) @ self._states.unit(real).T).max(1).values.cpu()
        return {
            "real_texts": len(real),
            "quoting": quoting(texts, real_texts),
            "near": int((nearest > NEAR).sum()),
            "nearest_mean": float(nearest.mean()),
            "nearest_highest": float(nearest.max()),
        }

    # ----------------------------------------------------------------------------------------------- privacy

    def privacy(self) -> dict[str, Any]:
        """Return what the run's own ledger says: epsilon, delta, and the leak that they allow.

        All three are of a whole client that comes or goes; canaries show another epsilon (``canary.shown_epsilon``). A
        run that was ended from outside has no ``privacy.json``, so ``has_statement`` is false.
        """
        statement = self.finished.run.read_json(FILE)
        epsilon, delta = (statement or {}).get("epsilon"), (statement or {}).get("delta")
        allowed = None if epsilon is None or delta is None else allowed_rate(float(epsilon), float(delta))
        return {
            "differential_privacy": self.experiment.privacy.dp,
            "has_statement": statement is not None,
            "epsilon": epsilon,
            "delta": delta,
            "tpr_allowed": allowed,
        }

    # ---------------------------------------------------------------------------------------------- canaries

    def canaries(self, count: int, repeat: int = 1) -> dict[str, Any]:
        """Train the run's federation again with planted canaries, and look for them in its texts.

        The score of a canary is the cosine to the nearest synthetic text of its class. The control scores the same
        canaries by the texts of the run itself, which has never seen them.

        Args:
            count: Texts that are planted.
            repeat: How often each stands among its client's texts.
        """
        words = WordPool(self.experiment.setup.language_model).words
        length = round(median(len(text.split()) for text, _ in self.pairs))
        clients, classes = [data.client for data in self.task.clients], len(self.task.base_classes)
        sizes = count, REFERENCES, max(QUOTED, length)
        canaries = draw_canaries(words, classes, clients, *sizes, self.experiment.config.seed)
        self.progress(f"the run again, with {count} canaries")
        pairs = self._again(plant(self.task, canaries, repeat))
        scores, control = self._scores(canaries, pairs), self._scores(canaries, self.pairs)
        return {
            "planted": count,
            "references": REFERENCES,
            "repeat": repeat,
            "texts": len(pairs),
            "quoting": quoting([text for text, _ in pairs], [canary.text for canary in canaries[:count]]),
            "trained": canary_figures(scores[:count], scores[count:]),
            "control": canary_figures(control[:count], control[count:]),
            **shown_epsilon(scores[:count], scores[count:], self.privacy()["delta"] or 0.0),
        }

    def _again(self, task: FederatedTask) -> list[tuple[str, str]]:
        """Return the texts of a federation like the run's on other data, after as many rounds.

        Its noise has another key.
        """
        experiment = replace(self.experiment, task=task)
        with tempfile.TemporaryDirectory() as folder:
            federation, account = private_federation(experiment, Path(folder), None, 0)
            rounds = min(federation.method.rounds, self.finished.state.round)
            if account is not None:
                rounds = account.last_round(0, rounds)
            state = _trained(federation, rounds)
        return synthetic_texts(federation.prompt(state, None).shared, task.base_classes)

    def _scores(self, canaries: Sequence[Canary], pairs: Sequence[tuple[str, str]]) -> Tensor:
        """Return each canary's cosine to the nearest text of its class ``(canaries,)``; -1 where it has none."""
        texts = self._states.unit_of_texts([text for text, _ in pairs])
        cosines = self._states.unit_of_texts([canary.text for canary in canaries]) @ texts.T
        names = self.task.base_classes
        alike = torch.tensor([[name == names[canary.label] for _, name in pairs] for canary in canaries])
        return cosines.cpu().masked_fill(~alike, -1.0).max(1).values


def quoting(texts: Sequence[str], private: Sequence[str]) -> int:
    """Count the ``texts`` that quote a private one: six words in a row, a whole text, an address or a long number."""
    quotations = Quotations(private, QUOTED)
    plain = (" ".join(text.split()) for text in texts)
    return sum(quotations.removed(text) != text for text in plain)


def _apart(clients: Sequence[ClientData], most: int) -> Sequence[ClientData]:
    """Return ``most`` of the clients, about equally far apart in their order."""
    return clients[:: max(1, len(clients) // most)][:most]


def _trained(federation: Federation, rounds: int | None = None) -> FederationState:
    state = federation.start()
    for _ in range(federation.method.rounds if rounds is None else rounds):
        state, _replies = federation.run_round(state)
    return state


def verdict(report: Mapping[str, Any]) -> str:
    """Return in a sentence what the canaries of a report come to."""
    canaries = report["canaries"]
    if canaries["quoting"]:
        return f"{canaries['quoting']} synthetic texts quote a planted canary"
    low = canaries["trained"]["auc_interval"][0]
    if low > max(0.5, canaries["control"]["auc"]):
        return "no text quotes a canary, but planted ones lie nearer to the texts than others do"
    return "no text quotes a canary, and planted ones lie no nearer to the texts than others do, beyond the error"
