"""What a run would ask, send and cost, before anything is asked, sent or paid for.

A black box is rehearsed: the run is carried out on made-up answers, which takes seconds, and its questions are counted.
Two rehearsals with other answers tell whether their number depends on these.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from promptfed.blackbox.oracles.budget import Budget
from promptfed.blackbox.oracles.cache import AnswerCache
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.rehearsal import Rehearsal
from promptfed.communication import RoundBytes, numbers_in, round_bytes
from promptfed.config import RunConfig, validate
from promptfed.experiment import Experiment
from promptfed.federation import round_half_up
from promptfed.named_model import named_model
from promptfed.objects import NO_OBJECTS
from promptfed.oracle_options import OracleOptions
from promptfed.privacy.he import HeSums
from promptfed.privacy.simulated_sums import SimulatedSums, expected_traffic
from promptfed.prompt_template import PromptTemplate
from promptfed.runs.directory import RunDirectory
from promptfed.stderr_log import quieted
from promptfed.training import Training
from promptfed.usage import Usage

SEEDS = (0, 1)
"""Of the made-up answers of the rehearsals."""
COUNTED = ("oracle_calls", "prompt_tokens", "completion_tokens", "usd")


@dataclass(frozen=True)
class BlackBoxPlan:
    """What a run on a black box would ask.

    Args:
        oracle: Its name.
        is_server: Whether it is a server, whose calls have tokens and a price.
        rows: (stage, round) -> what is asked there; round 0 is validation and tests.
        totals: Of each rehearsal, in all.
        most: What the first one may cost at most: tokens are never more than bytes.
        known: Questions whose answers are in the cache.
        limits: "calls", "tokens" and "usd" -> the run's own limits.
        has_prices: Whether prices of tokens are given.
    """

    oracle: str
    is_server: bool
    rows: Mapping[tuple[str, int], Usage]
    totals: tuple[Usage, ...]
    most: Usage
    known: int
    limits: Mapping[str, float | None] = field(default_factory=dict)
    has_prices: bool = False

    @property
    def agree(self) -> bool:
        """Whether the rehearsals made as many calls."""
        return len({total.oracle_calls for total in self.totals}) == 1

    @property
    def exceeded(self) -> list[str]:
        """The limits at which the run would end before its time."""
        total = self.totals[0]
        used = {"calls": total.oracle_calls, "tokens": total.prompt_tokens + total.completion_tokens, "usd": total.usd}
        return [name for name, limit in self.limits.items() if limit is not None and used[name] > limit]


@dataclass(frozen=True)
class WhiteBoxPlan:
    """What a run on a model in this process would do.

    Args:
        clients: All clients.
        participants: Those of a round.
        rounds: Rounds of training.
        examples: Training examples of all clients.
        bytes_up: The most bytes from a client in a round.
        bytes_down: The most bytes to a client in the first round.
        total_up: Bytes from all clients in all rounds.
        total_down: Bytes to all clients in all rounds.
    """

    clients: int
    participants: int
    rounds: int
    examples: int
    bytes_up: int
    bytes_down: int
    total_up: int
    total_down: int


def dry_run(config: RunConfig) -> BlackBoxPlan | WhiteBoxPlan:
    """Return what a run with ``config``, resolved, would ask or send.

    Raises:
        ConfigError: Options do not go together, or do not go with the data.
    """
    if named_model(config).access == "black box":
        with quieted("promptfed", logging.CRITICAL):  # what a rehearsal logs is made up, as its figures are
            return _rehearsed(config)
    experiment = Experiment.build(config)
    experiment.check_feasible()
    participants = max(1, round_half_up(config.participation * len(experiment.task.clients)))
    sizes, together = _round_bytes(experiment, participants)
    return WhiteBoxPlan(
        clients=len(experiment.task.clients),
        participants=participants,
        rounds=config.rounds,
        examples=sum(experiment.train_sizes().values()),
        bytes_up=sizes.up,
        bytes_down=sizes.down,
        total_up=together.up * config.rounds,
        total_down=together.down * config.rounds,
    )


def _round_bytes(experiment: Experiment, participants: int) -> tuple[RoundBytes, RoundBytes]:
    """Return the most bytes of one client in a round and those of all together; a secure sum has no update."""
    kind, clip = experiment.privacy.secure_aggregation, experiment.privacy.clip_norm
    if not kind:
        one = round_bytes(experiment)
        return one, RoundBytes(one.down * participants, one.up * participants)
    broadcast, _ = experiment.first_sending()
    shapes = experiment.method().uploads(0, broadcast).values()
    size = numbers_in(shapes)
    sums = HeSums(clip) if kind == "he" else SimulatedSums(clip)
    most, together = expected_traffic(sums, participants, size)
    down = broadcast.nbytes
    return RoundBytes(down + most.down, most.up), RoundBytes(participants * down + together.down, together.up)


def _rehearsed(config: RunConfig) -> BlackBoxPlan:
    options = validate(OracleOptions, config.oracle_options, "oracle option")
    unlimited = {**config.oracle_options, "max_calls": None, "max_tokens": None, "max_usd": None}
    free = config.model_copy(update={"oracle_options": unlimited})
    (rows, double), *others = [_carried_out(free, options, seed) for seed in SEEDS]
    return BlackBoxPlan(
        oracle=config.oracle or "",
        is_server=double.is_server,
        rows={key: usage for key, usage in rows.items() if usage.oracle_calls},
        totals=tuple(sum(each.values(), Usage()) for each in (rows, *(other for other, _ in others))),
        most=double.most,
        known=double.known,
        limits={"calls": options.max_calls, "tokens": options.max_tokens, "usd": options.max_usd},
        has_prices=bool(options.usd_per_million_prompt_tokens or options.usd_per_million_completion_tokens),
    )


def _carried_out(
    config: RunConfig, options: OracleOptions, seed: int
) -> tuple[dict[tuple[str, int], Usage], Rehearsal]:
    """Carry out the run in a folder that is removed again; return what it asked in each round, and whom."""
    doubles: list[Rehearsal] = []

    def model_for(form: PromptTemplate | None) -> Oracle:
        real = NO_OBJECTS.model_of(config, form)
        assert isinstance(real, Oracle)
        doubles.append(Rehearsal(real.backend, options, seed))
        return Oracle(doubles[-1], cache=AnswerCache(None), budget=Budget())

    rows: dict[tuple[str, int], Usage] = {}
    with TemporaryDirectory() as place:
        folder = RunDirectory.create(Path(place) / "run", config, label="rehearsal")
        with folder.lock():
            experiment = Experiment.build(config, model_for=model_for)
            experiment.check_feasible()
            oracle = experiment.setup.model
            assert isinstance(oracle, Oracle)
            Training(experiment, folder).execute()
            for row in oracle.ledger.rows():
                key = row["stage"], row["round"]
                rows[key] = rows.get(key, Usage()) + Usage(**{name: row[name] for name in COUNTED})
            oracle.ledger.close()
    return rows, doubles[0]
