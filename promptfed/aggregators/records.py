"""Merging of typed text records (promptfed.records) by their key; every other tensor is averaged by sample counts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import AGGREGATORS, Aggregator, AggregatorConfig
from promptfed.aggregators.mean import mean_by_samples
from promptfed.prompt_state import PromptState
from promptfed.records.merging import MergeRule, merged_records, read_upload
from promptfed.records.record import Record, RecordSchema, records_tensor
from promptfed.types import Update

LOG = logging.getLogger(__name__)
RECORDS = "records"
"""Name of the tensor that holds records."""
SENT, REFUSED = "sent/", "refused"


class RecordsConfig(AggregatorConfig):
    """Options of the merge."""

    least_clients: int = Field(1, ge=1, description="clients that must have sent a word, or say anything about a key")
    keep: int = Field(3, ge=1, description="sentences of each key that are kept, those of most clients and support")
    words: int = Field(60, ge=1, le=400, description="words of each key that are kept, those of most clients")
    near: float = Field(
        0.8, gt=0, le=1, description="sentences whose words agree to this share (intersection by union) count as one"
    )


@AGGREGATORS.register("records")
class RecordMerge(Aggregator):
    """Records of all clients so far, merged by key; of a client that sends again, the new ones replace the old.

    Lines that are no records of the schema, that are about an unknown key or that give orders to an agent
    (``promptfed.records.injections``) are left out, one by one; the log says how many. A client's support is at most
    its sample count. Server memory: ``sent/NNNNNN``, the accepted records of each client, and ``refused`` (), how many
    were left out so far. Tensors by other names are averaged.
    """

    Config = RecordsConfig
    config: RecordsConfig
    schema: RecordSchema = RecordSchema()
    keys: tuple[str, ...] = ()

    def reading(self, schema: RecordSchema, keys: Sequence[str]) -> Self:
        """Return this rule for records of ``schema`` about ``keys``; without keys, about anything."""
        other = copy(self)
        other.schema, other.keys = schema, tuple(keys)
        return other

    def alone(self) -> Self:
        """Return the rule of one client, which need not wait for others to say the same."""
        other = copy(self)
        other.config = self.config.model_copy(update={"least_clients": 1})
        return other

    @property
    def rule(self) -> MergeRule:
        config = self.config
        return MergeRule(config.least_clients, config.keep, config.words, config.near)

    def init(self, shared: PromptState) -> PromptState:
        return PromptState({REFUSED: torch.zeros((), dtype=torch.int64)} if RECORDS in shared else {})

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        others = PromptState({name: tensor for name, tensor in shared.items() if name != RECORDS})
        rest = [replace(update, shared=_without_records(update.shared)) for update in updates]
        mean = mean_by_samples(others, rest) if others else others
        if RECORDS not in shared:
            return mean, server
        memory: dict[str, Tensor] = {**server}
        by_client: dict[int, list[Record]] = {}
        refused: Counter[str] = Counter()
        for update in sorted(updates, key=lambda update: update.client):
            accepted, reasons = read_upload(update.shared[RECORDS], self.schema, self.keys)
            refused.update(reasons)
            capped = [replace(record, support=min(record.support, max(1, update.samples))) for record in accepted]
            by_client[update.client] = capped
            memory[f"{SENT}{update.client:06}"] = records_tensor(capped)
        if refused:
            why = ", ".join(f"{count} for {reason}" for reason, count in refused.most_common(3))
            LOG.warning("%d records of this round are refused: %s", refused.total(), why)
        memory[REFUSED] = server.get(REFUSED, torch.zeros((), dtype=torch.int64)) + refused.total()
        for name, tensor in server.items():  # of earlier rounds
            if name.startswith(SENT) and (client := int(name.removeprefix(SENT))) not in by_client:
                by_client[client] = read_upload(tensor, self.schema, self.keys)[0]
        merged = records_tensor(merged_records(dict(sorted(by_client.items())), self.rule))
        return PromptState({**mean, RECORDS: merged}), PromptState(memory)


def _without_records(state: PromptState) -> PromptState:
    return PromptState({name: tensor for name, tensor in state.items() if name != RECORDS})
