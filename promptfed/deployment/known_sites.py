"""The server's own record of a deployment: the agreement, and the owners of the sites' names."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Self

from promptfed.deployment.messages import HelloAnswer, SiteAgreement
from promptfed.errors import DeploymentError, RunError
from promptfed.printable import printable
from promptfed.runs.directory import DEPLOYMENT, RunDirectory


@dataclass(frozen=True)
class Holder:
    """The owner of a site's name: its node, and the SHA-256 of the key in its state-dir.

    A node's number stays the same where Flower authenticates nodes by keys; the site's own key outlives its node.
    """

    node: int
    key_sha256: str

    @classmethod
    def of(cls, node: int, answer: HelloAnswer) -> Holder:
        return cls(node, _sha256(answer.key))

    def is_shown_by(self, node: int, answer: HelloAnswer) -> bool:
        """Return whether it is the same site again, by the number of its node or by its key."""
        return node == self.node or _sha256(answer.key) == self.key_sha256


@dataclass
class Known:
    """What the server stores beside the run.

    Attributes:
        run: The name of the run for its sites.
        agreement: What all sites agreed on; None before they have.
        answers: The first answer of each site; none if the sites are simulated.
        holders: The name of a site -> its owner.
    """

    run: str
    agreement: SiteAgreement | None = None
    answers: list[HelloAnswer] = field(default_factory=list)
    holders: dict[str, Holder] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: RunDirectory) -> Self:
        """Load the record in ``folder``, or begin one for a new run. Raise RunError if the file is damaged."""
        content = folder.read_json(DEPLOYMENT)
        if content is None:
            return cls(uuid.uuid4().hex)
        try:
            return cls(
                str(content["run"]),
                SiteAgreement.read(json.dumps(content["agreement"])) if content.get("agreement") else None,
                [HelloAnswer.read(json.dumps(answer)) for answer in content.get("answers") or ()],
                {
                    name: Holder(int(it["node"]), str(it["key_sha256"]))
                    for name, it in content.get("holders", {}).items()
                },
            )
        except (DeploymentError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"cannot read {folder.path / DEPLOYMENT}: {printable(error, 200)}") from error

    def save(self, folder: RunDirectory) -> None:
        """Write the record whole or not at all, without the keys of the sites."""
        folder.write_json(
            DEPLOYMENT,
            {
                "run": self.run,
                "agreement": None if self.agreement is None else self.agreement.model_dump(mode="json"),
                "answers": [{**answer.model_dump(mode="json"), "key": "0" * 32} for answer in self.answers],
                "holders": {name: asdict(holder) for name, holder in self.holders.items()},
            },
        )

    def held_by(self, holders: Mapping[str, Holder]) -> Self:
        """Set the owners of the names."""
        self.holders = dict(holders)
        return self

    def forget(self, names: Iterable[str]) -> None:
        """Free ``names``: each goes to the first site that uses it."""
        for name in names:
            self.holders.pop(name, None)


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
