"""FlowerEngine for the contract: sites on a grid in this process, whose personal prompts the tests can see.

The server has tickets; the engine here shows the test what each site keeps under them, and takes the same back.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import torch

from promptfed.deployment import codec
from promptfed.deployment.engine import FlowerEngine
from promptfed.deployment.messages import Hello, HelloAnswer, SiteAgreement
from promptfed.deployment.messages import SiteInfo as Member
from promptfed.deployment.site import Site, SiteOptions
from promptfed.deployment.site_pool import SitePool
from promptfed.deployment.site_store import SiteStore
from promptfed.engines.base import never
from promptfed.privacy_options import PrivacyOptions
from promptfed.prompt_state import PromptState
from promptfed.runs.personal_store import PERSONAL_VERSION, PersonalStore

RUN = "0" * 32
NOBODY = {"run": RUN, "simulated": True, "config": {}, "fingerprint": "0"}


class ToyStore(SiteStore):
    def _prompts(self, stage):
        return PersonalStore(self.folder / "prompts")


class ToySite(Site):
    def __init__(self, client, place, folder):
        super().__init__(SiteOptions.of({"state-dir": str(folder), "partition-id": client}))
        self.client, self.place = client, place

    def _hello(self, content, began):
        name = Member(name=f"client {self.client}")
        key, one = f"{self.client:032x}", (1,)
        return codec.pack(
            HelloAnswer(site=name, client=None, classes=("a",), train=one, val=one, test=one, promptfed="0", key=key)
        )

    def _begin(self, work, shared, keep=True):
        method = self.place.method(work.stage)
        config = SimpleNamespace(privacy_options={}, method=work.stage)
        experiment = SimpleNamespace(
            worker=lambda method, stage, training: self.place.worker(stage), config=config, privacy=PrivacyOptions()
        )
        return experiment, method, ToyStore(self.options.state_dir, RUN)


class SeenThrough(FlowerEngine):
    def __init__(self, place, folder, grid):
        self.stores = [ToyStore(folder / str(client), RUN)._prompts("") for client in range(3)]
        for client in range(3):
            own = replace(place, setups=[])  # a site has its own model, and counts its own calls
            grid.nodes[client + 1] = ToySite(client, own, folder / str(client)).answer
        sites = SitePool(grid, Hello(**NOBODY, classes=None, promptfed="0"), poll=0.01, say=lambda line: None)
        members = tuple(Member(name=f"client {client}") for client in range(3))
        sites.gather(3, 30)
        sites.agree([member.name for member in members])
        super().__init__(sites, SiteAgreement(**NOBODY, base_classes=(), templates=(), sites=members))

    def run_round(self, jobs, on_reply=None, should_stop=never, seconds=None):
        shown = {job.client: job.personal for job in jobs}
        asked = [replace(job, personal=self.ticket(job.client, job.personal)) for job in jobs]

        def seen(reply):
            kept = reply.personal
            value = (
                self.stores[reply.client].read(reply.client, int(kept[PERSONAL_VERSION]))
                if PERSONAL_VERSION in kept
                else None
            )
            return replace(reply, personal=shown[reply.client] if reply.failure or value is None else value)

        heard = on_reply and (lambda reply: on_reply(seen(reply)))
        return [seen(reply) for reply in super().run_round(asked, heard, should_stop, seconds)]

    def ticket(self, client, personal):
        store = self.stores[client]
        for round in store.rounds(client):
            if store.read(client, round) == personal:
                return PromptState({PERSONAL_VERSION: torch.tensor(round)})
        return personal
