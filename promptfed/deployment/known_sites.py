"""What the server of a deployment keeps beside its run: what was agreed on, and whose the sites' names are."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Self

from promptfed.deployment.messages import HelloAnswer, SiteAgreement
from promptfed.deployment.site_pool import Holder
from promptfed.errors import DeploymentError, RunError
from promptfed.printable import printable
from promptfed.runs.directory import RunDirectory

FILE = "deployment.json"


@dataclass
class Known:
    """``run`` is the run's name for its sites; ``answers``: what each said at first, none where they are simulated."""

    run: str
    agreement: SiteAgreement | None = None
    answers: list[HelloAnswer] = field(default_factory=list)
    holders: dict[str, Holder] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: RunDirectory) -> Self:
        """What was kept, or a new run. Raises RunError for a file that is damaged."""
        found = folder.read_json(FILE)
        if found is None:
            return cls(uuid.uuid4().hex)
        try:
            return cls(
                str(found["run"]),
                SiteAgreement.read(json.dumps(found["agreement"])) if found.get("agreement") else None,
                [HelloAnswer.read(json.dumps(answer)) for answer in found.get("answers") or ()],
                {name: Holder(int(it["node"]), str(it["key_sha256"])) for name, it in found.get("holders", {}).items()},
            )
        except (DeploymentError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"cannot read {folder.path / FILE}: {printable(error, 200)}") from error

    def save(self, folder: RunDirectory) -> None:
        """Write it down, whole or not at all. The sites' keys are not in it."""
        folder.write_json(
            FILE,
            {
                "run": self.run,
                "agreement": None if self.agreement is None else self.agreement.model_dump(mode="json"),
                "answers": [{**answer.model_dump(mode="json"), "key": "0" * 32} for answer in self.answers],
                "holders": {name: asdict(holder) for name, holder in self.holders.items()},
            },
        )

    def held_by(self, holders: Mapping[str, Holder]) -> Self:
        """Take over whose the names are."""
        self.holders = dict(holders)
        return self

    def forget(self, names: Iterable[str]) -> None:
        """Let whoever comes first have ``names``."""
        for name in names:
            self.holders.pop(name, None)
