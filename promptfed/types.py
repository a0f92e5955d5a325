"""The values that pass between task, federation, engine, method and aggregator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from promptfed.examples.base import Item
from promptfed.prompt_state import PromptState
from promptfed.prompt_template import PromptTemplate
from promptfed.usage import Usage

NO_PROMPT = PromptState()
"""The empty state: what a method without a shared (or personal) part has in its place."""


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images or texts: ``labels`` ``(n,)`` int64 index the class list that the split comes with.

    ``targets`` ``(n, classes)``: probabilities of all classes, to train on in the place of ``labels``.
    """

    items: tuple[Item, ...]
    labels: Tensor
    targets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"<split of {self.total} examples>"

    @property
    def answers(self) -> Tensor:
        """What a loss compares scores with: ``targets``, or ``labels`` where there are none."""
        return self.labels if self.targets is None else self.targets

    @cached_property
    def grades(self) -> Tensor | None:
        """How well each class fits each example ``(n, classes)`` float64; None where the label says all."""
        if not self.items or not self.items[0].grades:
            return None
        return torch.tensor([item.grades for item in self.items], dtype=torch.float64)

    def is_right(self, choices: Tensor) -> Tensor:
        """Return whether the class chosen for each example ``(n,)`` is its own, or fits no worse than any; -1: no."""
        if self.grades is None:
            return choices == self.labels
        grades = self.grades.nan_to_num(0.0)
        chosen = grades.gather(1, choices.clamp(min=0)[:, None])[:, 0]
        return (choices >= 0) & (chosen > 0) & (chosen == grades.max(1).values)

    @property
    def total(self) -> int:
        """Examples, also where their numbers are all that is known."""
        return len(self.labels)

    def counts(self, classes: int) -> list[int]:
        """Examples of each class."""
        return [int(n) for n in self.labels.bincount(minlength=classes)]


UNKNOWN_LABEL = -1
"""The label of an unlabelled example."""
NO_EXAMPLES = Split((), torch.zeros(0, dtype=torch.int64))
"""A split of nothing."""


@dataclass(frozen=True, eq=False)
class ClientData:
    """What one client holds and nobody else sees. Labels index the task's base classes.

    ``classes`` lists, in rising order, the base classes of which the client has training images. ``domain`` is
    where the images come from (photo, sketch, a hospital); empty where the data knows no domains. ``unlabelled``: what
    it could train on if it knew the labels, all of them UNKNOWN_LABEL. ``true_labels`` ``(n,)`` are those of
    ``unlabelled``, empty where nobody knows them: for the log alone, how many guesses are right.
    """

    client: int
    name: str
    classes: tuple[int, ...]
    train: Split
    val: Split
    test: Split
    domain: str = ""
    unlabelled: Split = NO_EXAMPLES
    true_labels: Tensor = NO_EXAMPLES.labels


class ClientSummary(NamedTuple):
    """What is known of a client without its examples: how many it has of each use, besides name and domain.

    Unlabelled ones count as training examples, which they may become.
    """

    client: int
    name: str
    domain: str
    train: int
    val: int
    test: int


@runtime_checkable
class SummarizedClients(Protocol):
    """Clients whose summaries take less than their data."""

    def summaries(self) -> Iterator[ClientSummary]:
        """Yield the summary of each client, in order."""
        ...


@dataclass(frozen=True, eq=False)
class FederatedTask:
    """A task dealt out to clients, numbered from 0. ``new_test`` labels index ``new_classes``, which no client saw.

    ``domain_tests``: domain -> test images of base classes from it, also of domains that no client holds.
    ``form``: how an example is put to a model that reads no images; None for tasks with images. ``partition``: by what
    the examples were dealt out, if the task says so. ``new_test`` may stand without ``new_classes``: then it has
    examples of base classes from holders that take no part.
    """

    name: str
    base_classes: tuple[str, ...]
    new_classes: tuple[str, ...]
    clients: Sequence[ClientData]
    base_test: Split
    new_test: Split
    templates: tuple[str, ...]
    notes: tuple[str, ...] = ()
    domain_tests: Mapping[str, Split] = field(default_factory=dict)
    form: PromptTemplate | None = None
    partition: str = ""

    def __repr__(self) -> str:
        classes = f"{len(self.base_classes)} base and {len(self.new_classes)} new classes"
        return f"<task {self.name}: {len(self.clients)} clients, {classes}>"

    def client(self, number: int) -> ClientData:
        """Return the data of client ``number``: at that position, unless the task holds only some of the clients."""
        if number < len(self.clients) and (candidate := self.clients[number]).client == number:
            return candidate
        return next(data for data in self.clients if data.client == number)

    @property
    def classes_of_new(self) -> tuple[str, ...]:
        """What labels of ``new_test`` index: new classes, or base classes of holders that take no part."""
        return self.new_classes or (self.base_classes if len(self.new_test) else ())

    @property
    def domains(self) -> tuple[str, ...]:
        """The domain of client k at position k; a client without one is a domain of its own."""
        return tuple(summary.domain or summary.name for summary in self.summaries())

    def summaries(self) -> Iterator[ClientSummary]:
        """Yield what is known of each client without its examples, in order."""
        if isinstance(self.clients, SummarizedClients):
            yield from self.clients.summaries()
            return
        for data in self.clients:
            sizes = data.train.total + data.unlabelled.total, data.val.total, data.test.total
            yield ClientSummary(data.client, data.name, data.domain, *sizes)


@dataclass(frozen=True)
class ClientPrompt:
    """What one client deploys: its view of the shared prompt, what it has of its own, and how much of the latter.

    Its own is either ``personal``, which its method trained beside the shared prompt, or ``tuned``, a copy of the
    shared prompt that it went on to train after the federation (promptfed.personalize). ``alpha`` 1 is its own
    prompt, 0 the shared one alone; ``space`` says where the two are mixed in between: "prompt" mixes the vectors,
    "features" what the method makes of them.
    """

    shared: PromptState
    personal: PromptState = field(default_factory=PromptState)
    alpha: float = 1.0
    space: Literal["prompt", "features"] = "features"
    tuned: PromptState = field(default_factory=PromptState)

    @property
    def is_personal(self) -> bool:
        """Whether it differs from what somebody deploys who has the shared prompt alone."""
        return self.alpha > 0 and bool(len(self.personal) or len(self.tuned))


@dataclass(frozen=True)
class Broadcast:
    """What the server sends to a client at the start of round ``round`` (from 1)."""

    round: int
    shared: PromptState


@dataclass(frozen=True)
class Job:
    """One client's work in one round; ``personal`` is read from and returned to that client's own store.

    ``stage`` says which of a run's federations it belongs to: the method's name, or a baseline's. An engine that serves
    all of them tells its workers. ``most_bytes``: of the tensors of its update; a longer message is not decoded.
    """

    client: int
    broadcast: Broadcast
    personal: PromptState = field(default_factory=PromptState)
    stage: str = ""
    most_bytes: int | None = None


@dataclass(frozen=True)
class Update:
    """A client's upload: its shared prompt or the part that it may change, sample count, mean loss and accuracy."""

    client: int
    shared: PromptState
    samples: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Reply:
    """What an engine returns for a job. ``seconds`` is wall time; ``usage`` what the frozen model was asked.

    ``failure`` is empty if all went well; else it says why there is no update ("dropped out", "late", "error: ...") or
    why it must not be used ("refused: ..."). Then the round goes on without it and ``personal`` is not kept.
    ``bytes_up`` and ``bytes_down`` are what really crossed a network; None where there is none, and the serialised
    prompts are counted. ``start_seconds``: how long the client's process took until it could begin, where it had to be
    started. ``sum_bytes_up`` and ``sum_bytes_down``: what a secure sum of the round cost this client afterwards.
    ``processor_figures``: what the outgoing processors measured, ``clip.clipped`` for example. ``epsilon``:
    what a site that protects its examples says that the run has cost it.
    """

    client: int
    round: int
    update: Update
    personal: PromptState
    seconds: float
    usage: Usage = field(default_factory=Usage)
    failure: str = ""
    bytes_up: int | None = None
    bytes_down: int | None = None
    sum_bytes_up: int = 0
    sum_bytes_down: int = 0
    start_seconds: float | None = None
    processor_figures: Mapping[str, float] = field(default_factory=dict)
    epsilon: float | None = None


@dataclass(frozen=True)
class Incident:
    """What went wrong in a round after its replies were in. ``client`` is None for what concerns the whole round.

    ``kind``: "refused", an update that does not go with the others of its round; "limited", a client whose weight was
    lowered; "unmerged", a round that left the shared prompt as it was, because it would have broken it.
    """

    kind: Literal["refused", "limited", "unmerged"]
    round: int
    client: int | None
    why: str


def failed(job: Job, why: str, seconds: float = 0.0) -> Reply:
    """Return the reply of a client without a result."""
    nothing = Update(job.client, NO_PROMPT, 0, float("nan"), float("nan"))
    return Reply(job.client, job.broadcast.round, nothing, job.personal, seconds, failure=why)


@dataclass(frozen=True)
class Score:
    """An ``accuracy`` in 0..1 over ``items`` test items."""

    accuracy: float
    items: int


@dataclass(frozen=True)
class ClientScore:
    """One client's prompt on its own ``items`` test items.

    ``local``: among its own classes; None for a client with one class, which has nothing to choose between.
    ``local_all``: among all base classes.
    """

    local: float | None
    local_all: float
    items: int


@dataclass(frozen=True)
class Metrics:
    """Test accuracies in 0..1; ``new`` and ``hm`` are None without new classes.

    ``local`` is the mean over clients with two classes or more, None if there is none; ``one_class`` lists the clients
    that it leaves out. ``local_all`` is the mean over all clients; ``local_std``, ``local_all_std`` are over clients.
    ``domains``: domain -> accuracy on its test images, for tasks that have ``domain_tests``.
    ``intervals``: figure -> ends of its 95 % interval (promptfed.intervals); ``items``: figure -> test items behind it.
    ``domain_intervals`` and ``domain_items``: the same of ``domains``. ``measures``: measure besides accuracy -> its
    local, local_std, local_all, local_all_std, base and new.
    """

    name: str
    local: float | None
    local_std: float | None
    base: float
    new: float | None
    hm: float | None
    domains: Mapping[str, float] = field(default_factory=dict)
    local_all: float | None = None
    local_all_std: float | None = None
    one_class: tuple[int, ...] = ()
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    items: Mapping[str, int] = field(default_factory=dict)
    domain_intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    domain_items: Mapping[str, int] = field(default_factory=dict)
    measures: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    def recorded(self) -> dict[str, Any]:
        """As JSON has it: no tuples, so that it equals what is read back."""
        record = asdict(self)
        for name in ("intervals", "domain_intervals"):
            record[name] = {key: list(ends) for key, ends in record[name].items()}
        if not self.measures:
            del record["measures"]
        return {**record, "one_class": list(self.one_class)}


@dataclass(frozen=True)
class FederationState:
    """A federation after ``round`` finished rounds, as one value: a checkpoint is this and nothing else.

    ``pending`` holds the replies of the round that was under way when the run was interrupted, sorted by client.
    """

    round: int
    shared: PromptState
    server: PromptState = field(default_factory=PromptState)
    personal: Mapping[int, PromptState] = field(default_factory=dict)
    pending: tuple[Reply, ...] = ()
