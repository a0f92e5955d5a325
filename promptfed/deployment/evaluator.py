"""Judging at the sites: the server holds no data, so each site says how its own prompt does on its own examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from statistics import fmean
from typing import Any, Literal

from promptfed.deployment import codec
from promptfed.deployment.engine import start_of
from promptfed.deployment.messages import (
    CorrectCount,
    Evaluate,
    EvaluateAnswer,
    Finish,
    FinishAnswer,
    MeasureTotal,
    MeasureTotals,
    SiteAgreement,
)
from promptfed.deployment.site_pool import SitePool
from promptfed.errors import DeploymentError
from promptfed.evaluation import Evaluation
from promptfed.federation import Federation
from promptfed.measures.base import Measure, Total
from promptfed.measures.figures import PartTotals
from promptfed.processors.client_state import prompt_of
from promptfed.types import ClientScore, FederationState, Score


class SiteEvaluator:
    """The protocol of promptfed.evaluation, where each site computes the figures of its own data.

    local: every site on its own classes, mean over the sites that have two or more; local_all: its own test examples
    among all base classes. Where nodes simulate clients of one task, base, new and domains are of the common test
    examples, mean over the clients' prompts, as in one process. Where sites have data of their own there are no common
    examples: base is the share of *all sites' test examples* that are classified right among all base classes, each by
    its own site's prompt; new and domains likewise.

    Attributes:
        sites: The sites.
        agreement: What all sites agreed on.
        seconds: The limit for each question. A site that exceeds it is named and left out of the figures.
        domains: The domains that may have figures, by default those of the sites.
        examples: Client -> the number of examples that it announced. No figure may count more.
        measures: The measures besides accuracy. Sites send their sums and no scores.
    """

    def __init__(
        self,
        sites: SitePool,
        agreement: SiteAgreement,
        seconds: float | None = None,
        *,
        domains: Iterable[str] | None = None,
        examples: Mapping[int, int] | None = None,
        measures: Mapping[str, Measure] | None = None,
    ) -> None:
        self.sites, self.agreement, self.seconds = sites, agreement, seconds
        self.domains = set(agreement.domains if domains is None else domains)
        self.examples, self.measures = dict(examples or {}), dict(measures or {})

    def validate(self, federation: Federation, state: FederationState) -> float:
        """Return the mean validation accuracy, 0..1; NaN if no site with validation examples answered."""
        answers = self._ask(federation, state, federation.clients, ())
        choosing = [answer.local for answer in answers.values() if answer.local is not None]
        judged = choosing or [answer.local_all for answer in answers.values() if answer.local_all is not None]
        return fmean(one.accuracy for one in judged) if judged else float("nan")

    def evaluate(self, federation: Federation, state: FederationState) -> Evaluation:
        """Test the prompts at the sites.

        Args:
            federation: The federation of the stage.
            state: Its state after a round.

        Raises:
            DeploymentError: No site with test examples answered.
        """
        broadcasts = {client: federation.deployed(state, client) for client in federation.clients}
        first = federation.clients[0]
        alike = all(
            broadcasts[c] is broadcasts[first] and not len(prompt_of(state.personal[c])) for c in federation.clients
        )
        whole = federation.clients[:1] if alike and self.agreement.simulated else federation.clients
        answers = self._ask(federation, state, federation.clients, whole, part="test")
        for client in federation.clients if len(whole) == 1 else ():
            if any(answers[c].base for c in whole if c in answers):
                break
            whole = [client]  # the site that had to test for all did not answer: another has the same examples
            answers |= self._ask(federation, state, whole, whole, part="test")
        local = {c: score for c in sorted(answers) if (score := _client_score(answers[c])) is not None}
        base = self._joint([answers[c].base for c in whole if c in answers])
        if not local or base is None:
            raise DeploymentError("no site with test examples answered: start the run again to repeat the tests")
        new = self._joint([answers[c].new for c in whole if c in answers])
        domains = {
            name: self._joint([answers[c].domains.get(name) for c in whole if c in answers]) or Score(0.0, 0)
            for name in sorted({name for answer in answers.values() for name in answer.domains})
        }
        figures = self._totals(answers, whole).figures(self.measures)
        return Evaluation.of(federation.method.name, local, base, new, domains, figures)

    def _totals(self, answers: Mapping[int, EvaluateAnswer], whole: Sequence[int]) -> PartTotals:
        """Collect the sites' totals of the other measures, added up where each site has its own examples."""

        def part(name: str, clients: Iterable[int]) -> dict[int, dict[str, Total]]:
            totals_by_client = {c: _totals_of(answers[c], name) for c in clients if c in answers}
            return {client: totals for client, totals in totals_by_client.items() if totals}

        base, new = ([*part(name, whole).values()] for name in ("base", "new"))
        if not self.agreement.simulated:
            base, new = _sum_of(base), _sum_of(new)
        clients = sorted(answers)
        return PartTotals(part("local", clients), part("local_all", clients), base, new)

    def finish(self, federation: Federation, state: FederationState) -> dict[int, str]:
        """Have every site write the bundle that it deploys.

        Returns:
            Client -> the folder of its bundle, or the reason in brackets why there is none.
        """
        questions = {
            client: codec.pack(
                Finish.create(**self._work(federation, state, client)), shared=federation.deployed(state, client)
            )
            for client in federation.clients
        }
        bundles = dict.fromkeys(questions, "(no answer)")
        for client, answer in self.sites.ask(questions, group="finish", seconds=self.seconds).items():
            try:
                bundles[client] = answer.opened(FinishAnswer).words.bundle
            except DeploymentError as error:
                bundles[client] = f"({error})"
        return bundles

    def _ask(
        self,
        federation: Federation,
        state: FederationState,
        clients: Sequence[int],
        whole: Sequence[int],
        part: Literal["val", "test"] = "val",
    ) -> dict[int, EvaluateAnswer]:
        questions = {
            client: codec.pack(
                Evaluate.create(**self._work(federation, state, client), part=part, whole=client in whole),
                shared=federation.deployed(state, client),
            )
            for client in clients
        }
        answers: dict[int, EvaluateAnswer] = {}
        for client, answer in self.sites.ask(questions, group=f"{part}-{state.round}", seconds=self.seconds).items():
            try:
                words = answer.opened(EvaluateAnswer).words
                self._check(client, words)
                answers[client] = words
            except DeploymentError as error:
                self.sites.say(f"client {client} is not in the figures: {error}")
        return answers

    def _check(self, client: int, answer: EvaluateAnswer) -> None:
        """Raise DeploymentError for figures of another client, of unknown domains or of too many examples."""
        if answer.client != client:
            raise DeploymentError(f"it is the answer of client {answer.client}")
        if strange := [name for name in answer.domains if name not in self.domains]:
            raise DeploymentError(f"it has a figure of domain '{strange[0]}', which is none of the run's")
        for name, words in answer.measures.items():
            if name not in self.measures:
                raise DeploymentError(f"it has figures of measure '{name}', which is none of the run's")
            for part in MeasureTotals.model_fields:
                classes = len(self.agreement.new_classes if part == "new" else self.agreement.base_classes)
                total: MeasureTotal | None = getattr(words, part)
                if total is not None and not self.measures[name].allows(_total(total), classes, local=part == "local"):
                    raise DeploymentError(f"its sums of measure '{name}' are none that examples can have")
        most = self.examples.get(client)
        for one in (answer.local, answer.local_all, answer.base, answer.new, *answer.domains.values()):
            if most is not None and one is not None and one.of > most:
                raise DeploymentError(f"it has a figure of {one.of} examples, and the site announced {most}")

    def _work(self, federation: Federation, state: FederationState, client: int) -> dict[str, Any]:
        """Return the fields that every question about the prompt of ``client`` has."""
        return {
            "agreement": self.agreement,
            "stage": federation.stage,
            "client": client,
            "round": state.round,
            "start": start_of(state.personal[client]),
        }

    def _joint(self, counts: Sequence[CorrectCount | None]) -> Score | None:
        """Join the scores of several prompts; None if no site has test examples."""
        present = [one for one in counts if one is not None]
        if not present:
            return None
        if self.agreement.simulated:  # the same examples each time
            return Score(fmean(one.accuracy for one in present), present[0].of)
        items = sum(one.of for one in present)
        return Score(sum(one.right for one in present) / items, items)


def _client_score(answer: EvaluateAnswer) -> ClientScore | None:
    """Return the score of a client; None for a site without test examples."""
    if answer.local_all is None:
        return None
    local = None if answer.local is None else answer.local.accuracy
    return ClientScore(local, answer.local_all.accuracy, answer.local_all.of)


def _total(words: MeasureTotal) -> Total:
    return Total(words.sums, words.examples)


def _totals_of(answer: EvaluateAnswer, part: str) -> dict[str, Total]:
    """Return measure -> its total of ``part`` ("local", "base", ...), for the totals that the site sent."""
    words_by_measure = {name: getattr(words, part) for name, words in answer.measures.items()}
    return {name: _total(words) for name, words in words_by_measure.items() if words is not None}


def _sum_of(totals: Sequence[Mapping[str, Total]]) -> list[dict[str, Total]]:
    """Add up the totals of all sites, measure by measure. The list has one entry, or none without totals."""
    names = dict.fromkeys(name for one in totals for name in one)
    joint = {name: reduce(add, (one[name] for one in totals if name in one)) for name in names}
    return [joint] if joint else []


def places(bundles: Mapping[int, str], agreement: SiteAgreement) -> list[str]:
    """Format the result of ``finish`` as lines to read."""
    return [f"{agreement.sites[client].name}: {where}" for client, where in sorted(bundles.items())]
