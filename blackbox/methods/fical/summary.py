"""A merge of records in which a language model at the server writes one record of a tool's several."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from promptfed.aggregators.base import AggregatorWrapper
from promptfed.aggregators.records import RECORDS, RecordMerge
from promptfed.blackbox.methods.fical.writers import SCHEMA
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.text.quotation_filter import shortened
from promptfed.prompt_state import PromptState
from promptfed.records.injections import refusal
from promptfed.records.merging import read_records
from promptfed.records.record import Record, records_tensor
from promptfed.types import Update

REQUEST = "Write one sentence that says the same as all of these, without repetition."
ROUND = "round"


class SummaryOfRecords(AggregatorWrapper):
    """The merge of ``inner``, then one sentence in the place of several about a tool: a query a tool and round.

    The ledger has it under client -1. A tool about which the reply is not usable keeps its sentences. Server memory:
    that of ``inner``, and ``round`` ().
    """

    inner: RecordMerge

    def __init__(self, inner: RecordMerge, oracle: Oracle, tokens: int) -> None:
        super().__init__(inner)
        self.oracle, self.tokens = oracle, tokens

    def init(self, shared: PromptState) -> PromptState:
        return PromptState({**self.inner.init(shared), ROUND: torch.zeros((), dtype=torch.int64)})

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        round = int(server.get(ROUND, torch.zeros(()))) + 1
        merged, memory = self.inner.apply(shared, updates, server)
        records, _ = read_records(merged[RECORDS], SCHEMA, self.inner.keys)
        several: dict[str, list[Record]] = {}
        for record in records:
            if record.texts:
                several.setdefault(record.key, []).append(record)
        several = {key: some for key, some in several.items() if len(some) > 1}
        summaries = self._summaries(several, round) if several else {}
        kept = [record for record in records if not record.texts or record.key not in summaries]
        joined = sorted([*kept, *summaries.values()], key=lambda record: (record.key, record.line()))
        memory = PromptState({**memory, ROUND: torch.tensor(round)})
        return PromptState({**merged, RECORDS: records_tensor(joined)}), memory

    def _summaries(self, several: dict[str, list[Record]], round: int) -> dict[str, Record]:
        """Return key -> the record in the place of its several, where the reply is usable."""
        requests = []
        for key, records in several.items():
            lines = [f"- {' '.join(record.texts.values())}" for record in records]
            requests.append("\n".join([f"{REQUEST} They are about the tool {key}.", *lines, "Sentence:"]))
        with self.oracle.account(round=round, client=-1):
            replies = self.oracle.generate(requests, max_tokens=self.tokens, stop=("\n\n",))
        summaries = {}
        for (key, records), reply in zip(several.items(), replies, strict=True):
            text = shortened(" ".join(reply.split()), SCHEMA.texts["when"])
            support, clients = (sum(getattr(r, name) for r in records) for name in ("support", "clients"))
            record = Record(key, {"when": text}, support=support, clients=clients)
            if text and not refusal(record, self.inner.keys):
                summaries[key] = record
        return summaries
