"""Data sources: labelled images, or texts, that can be identified without being decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from promptfed.examples.base import Sample


@dataclass(frozen=True)
class Source:
    """A whole data set: class names as a person would write them, and its samples in a fixed order.

    ``base_classes``: where the source itself fixes the base/new halves (CoOp's split files), the number of
    leading classes that are base; None lets the task decide. ``skipped`` lists images that could not be read,
    ``notes`` says what else was done to the data. ``descriptions``: class -> sentence, as a ``classes.csv`` has them.
    ``content_ids``: the content id of each sample, where the source has looked at them already. ``by_client``: a
    sample's domain is the client that holds it, "" for nobody.
    """

    name: str
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    base_classes: int | None = None
    skipped: tuple[str, ...] = field(default=())
    notes: tuple[str, ...] = ()
    descriptions: Mapping[str, str] = field(default_factory=dict)
    content_ids: tuple[str, ...] = field(default=(), repr=False)
    by_client: bool = False

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(sorted({sample.domain for sample in self.samples}))
