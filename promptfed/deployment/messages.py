"""What the server and the sites say to each other, prompts apart (promptfed.deployment.codec adds those).

Every question has one answer; a site that cannot give it answers with a ``Problem``. All of it is plain data that is
checked when it arrives: neither side believes the other.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Count = Annotated[int, Field(ge=0)]
RunKey = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
"""Names a run for good, whatever process serves it; safe as the name of a folder."""


TICKET = "kept_in_round"
"""What the server has in the place of a personal prompt: the round after which its site wrote it down."""


class Words(BaseModel):
    """Base of all messages: frozen, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Site(Words):
    """A site as the others know it: a name and the domain of its data."""

    name: str
    domain: str = ""


class Agreement(Words):
    """What all parties agreed on before round 1; it travels with every question, so that a site needs no memory.

    ``sites`` are the clients in the order of their numbers. ``simulated``: every node deals out the same task from
    ``config`` and plays one client of it; else each has data of its own.
    """

    run: RunKey
    simulated: bool
    config: dict[str, Any]
    base_classes: tuple[str, ...]
    new_classes: tuple[str, ...] = ()
    templates: tuple[str, ...]
    sites: tuple[Site, ...]
    fingerprint: str

    @property
    def domains(self) -> tuple[str, ...]:
        """The domain of client k at position k; a site without one is a domain of its own."""
        return tuple(site.domain or site.name for site in self.sites)


# ------------------------------------------------------------------------------------------------- questions


class Hello(Words):
    """Who are you, and do you fit? ``classes``: the agreed names, None if the sites' own are to be joined."""

    run: RunKey
    simulated: bool
    config: dict[str, Any]
    classes: tuple[str, ...] | None
    fingerprint: str
    promptfed: str


class Prepare(Words):
    """Encode the images, once, before the first round."""

    agreement: Agreement
    client: Count


class Work(Words):
    """What the questions about a prompt have in common: ``start`` is the round whose personal prompt counts, 0 the
    initial one. The shared prompt comes with it."""

    agreement: Agreement
    stage: str
    client: Count
    round: Count
    start: Count


class Train(Work):
    """One client's work in one round."""


class Evaluate(Work):
    """Accuracies of what the site would deploy; ``whole``: on all classes too, not only on its own."""

    part: Literal["val", "test"]
    whole: bool = False


class Finish(Work):
    """The last shared prompt: write down what you deploy, and check that the frozen model is what was loaded."""


# --------------------------------------------------------------------------------------------------- answers


class Problem(Words):
    """In one line, why a site did not do what it was asked."""

    why: str


class HelloAnswer(Words):
    """``classes`` and the numbers of examples of each, by use; the examples stay where they are."""

    site: Site
    client: Count | None
    classes: tuple[str, ...]
    train: tuple[Count, ...]
    val: tuple[Count, ...]
    test: tuple[Count, ...]
    promptfed: str
    notes: tuple[str, ...] = ()


class PrepareAnswer(Words):
    """How many images really went through the tower, and how long all took."""

    images: Count
    seconds: float


class TrainAnswer(Words):
    """``kept`` is the round under which the site keeps its personal prompt, 0 if it has none; ``failure`` as in
    promptfed.types.Reply."""

    client: Count
    round: Count
    samples: int
    loss: float
    accuracy: float
    seconds: float
    usage: dict[str, int | float]
    kept: Count
    failure: str = ""


class Right(Words):
    """So many of so many examples were classified right, and the accuracy as promptfed.evaluation computes it."""

    right: Count
    of: Count
    accuracy: float


class EvaluateAnswer(Words):
    """``local``: on the site's own classes, None where it has one only; ``local_all``: the same images among all base
    classes. ``base``, ``new``, ``domains``: only if the whole was asked for."""

    client: Count
    local: Right | None
    local_all: Right | None = None
    base: Right | None = None
    new: Right | None = None
    domains: dict[str, Right] = Field(default_factory=dict)


class FinishAnswer(Words):
    """Where, on its own disk, the site has put the prompt that it deploys."""

    client: Count
    bundle: str
