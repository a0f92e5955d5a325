"""What the server and the sites say to each other, prompts apart (promptfed.deployment.codec adds those).

Every question has one answer; a site that cannot give it answers with a ``ErrorReply``. All of it is plain data that is
checked when it arrives: neither side believes the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from promptfed.agreement import Agreement
from promptfed.deployment.fields import (
    LONGEST_TEXT,
    MOST_CLASSES,
    MOST_EXAMPLES,
    MOST_FIGURES,
    MOST_MEASURES,
    MOST_NOTES,
    MOST_SITES,
    MOST_SUMS,
    Calls,
    Count,
    Dollars,
    Domain,
    Figure,
    Hex32,
    Loss,
    Name,
    Number,
    Seconds,
    Share,
    Text,
)
from promptfed.errors import DeploymentError
from promptfed.printable import printable

ClassNames = Annotated[tuple[Name, ...], Field(max_length=MOST_CLASSES)]
Counts = Annotated[tuple[Count, ...], Field(max_length=MOST_CLASSES)]
Notes = Annotated[tuple[Text, ...], Field(max_length=MOST_NOTES)]
RunKey = Hex32
"""Names a run for good, whatever process serves it; safe as the name of a folder."""


class Message(BaseModel):
    """Base of all messages: frozen, strict, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def create(cls, **fields: Any) -> Self:
        """Make a message of one's own. Raises DeploymentError for what the other side would refuse."""
        try:
            return cls(**fields)
        except ValidationError as error:
            raise DeploymentError(f"cannot be sent: {wrong_in(error)}") from error

    @classmethod
    def read(cls, json: str | bytes) -> Self:
        """Check what arrived. Raises DeploymentError, in one line that names what is wrong."""
        try:
            return cls.model_validate_json(json)
        except ValidationError as error:
            raise DeploymentError(f"a {cls.__name__} message is wrong in {wrong_in(error)}") from error


def wrong_in(error: ValidationError) -> str:
    """The first three things that are wrong, with the beginning of each value."""
    said = []
    for problem in error.errors(include_url=False, include_context=False)[:3]:
        place = ".".join(map(str, problem["loc"])) or "all"
        value = problem["input"]
        shown = f" (it is {printable(repr(value), 40)})" if isinstance(value, int | float | bool | None) else ""
        if isinstance(value, str):
            shown = f" (it is '{printable(value[:41], 40)}', {len(value)} characters)"
        said.append(f"{printable(place, 80)}: {problem['msg'].lower()}{shown}")
    return "; ".join(said)


class SiteInfo(Message):
    """A site as the others know it: a name and the domain of its data."""

    name: Name
    domain: Domain = ""


class SiteAgreement(Message):
    """What all sites agreed on before round 1; it travels with every question, so that a site needs no memory.

    ``sites`` are the clients in the order of their numbers. ``simulated``: every node deals out the same task from
    ``config`` and plays one client of it; else each has data of its own. ``merged``: class names that differ only in
    case, blanks or underscores are one class.
    """

    run: RunKey
    simulated: bool
    config: dict[str, Any]
    base_classes: ClassNames
    new_classes: ClassNames = ()
    templates: Annotated[tuple[Text, ...], Field(max_length=1_000)]
    sites: Annotated[tuple[SiteInfo, ...], Field(max_length=MOST_SITES)]
    fingerprint: Name
    merged: bool = False

    @model_validator(mode="after")
    def _are_all_different(self) -> Self:
        _different([*self.base_classes, *self.new_classes], "class")
        _different([site.name for site in self.sites], "site")
        return self

    @property
    def domains(self) -> tuple[str, ...]:
        """The domain of client k at position k; a site without one is a domain of its own."""
        return tuple(site.domain or site.name for site in self.sites)

    def shared(self, rounds: int, seed: int) -> Agreement:
        """Return it as every federation's, with the run's ``rounds`` and ``seed``."""
        return Agreement(
            classes=self.base_classes, templates=self.templates, rounds=rounds, seed=seed, domains=self.domains
        )


# ------------------------------------------------------------------------------------------------- questions


class Hello(Message):
    """Who are you, and do you fit? ``classes``: the agreed names, None if the sites' own are to be joined; ``merged``
    as in SiteAgreement."""

    run: RunKey
    simulated: bool
    config: dict[str, Any]
    classes: ClassNames | None
    fingerprint: Name
    promptfed: Name
    merged: bool = False


class Prepare(Message):
    """Encode the images, once, before the first round."""

    agreement: SiteAgreement
    client: Number


class Work(Message):
    """What the questions about a prompt have in common: ``start`` is the round whose personal prompt counts, 0 the
    initial one. The shared prompt comes with it."""

    agreement: SiteAgreement
    stage: Name
    client: Number
    round: Number
    start: Number


class Train(Work):
    """One client's work in one round."""


class Evaluate(Work):
    """Accuracies of what the site would deploy; ``whole``: on all classes too, not only on its own."""

    part: Literal["val", "test"]
    whole: bool = False


class Finish(Work):
    """The last shared prompt: write down what you deploy, and check that the frozen model is what was loaded."""


# --------------------------------------------------------------------------------------------------- answers


class ErrorReply(Message):
    """In one line, why a site did not do what it was asked."""

    why: Text


def problem(why: str) -> ErrorReply:
    """A Problem whose reason is one printable line, however long it was."""
    return ErrorReply(why=printable(" ".join(why.split()), LONGEST_TEXT))


class HelloAnswer(Message):
    """``classes`` and the numbers of examples of each, by use; the examples stay where they are.

    ``key`` is the site's own secret for this run: whoever shows it again is the same site.
    """

    site: SiteInfo
    client: Number | None
    classes: Annotated[ClassNames, Field(min_length=1)]
    train: Counts
    val: Counts
    test: Counts
    promptfed: Name
    key: Hex32
    notes: Notes = ()

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        _different(self.classes, "class")
        for use in ("train", "val", "test"):
            if len(counts := getattr(self, use)) != len(self.classes):
                raise ValueError(f"{use} has {len(counts)} counts for {len(self.classes)} classes")
        if (total := self.total) > MOST_EXAMPLES:
            raise ValueError(f"{total} examples are more than {MOST_EXAMPLES}")
        return self

    @property
    def total(self) -> int:
        """All examples of the site."""
        return sum(self.train) + sum(self.val) + sum(self.test)


class PrepareAnswer(Message):
    """How many images really went through the tower, and how long all took."""

    images: Calls
    seconds: Seconds


class UsageWords(Message):
    """A promptfed.usage.Usage."""

    image_encoder_calls: Calls = 0
    text_encoder_calls: Calls = 0
    oracle_queries: Calls = 0
    oracle_calls: Calls = 0
    oracle_cache_hits: Calls = 0
    oracle_retries: Calls = 0
    labels_floored: Calls = 0
    prompt_tokens: Calls = 0
    completion_tokens: Calls = 0
    usd: Dollars = 0.0


class TrainAnswer(Message):
    """``kept`` is the round under which the site keeps its personal prompt, 0 if it has none; ``is_bare``: nothing of
    that is a prompt, only what outgoing processors keep. ``figures`` are what these measured. ``failure`` as in
    promptfed.types.Reply: only with one are ``loss`` and ``accuracy`` unknown."""

    client: Number
    round: Number
    samples: Count
    loss: Loss | None
    accuracy: Share | None
    seconds: Seconds
    usage: UsageWords
    kept: Number
    is_bare: bool = False
    figures: Annotated[dict[Name, Figure], Field(max_length=MOST_FIGURES)] = Field(default_factory=dict)
    failure: Text = ""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if not self.failure and (self.loss is None or self.accuracy is None or not self.samples):
            raise ValueError("an update comes with its samples, its loss and its accuracy")
        return self


class CorrectCount(Message):
    """So many of so many examples were classified right, and the accuracy as promptfed.evaluation computes it."""

    right: Count
    of: Annotated[Count, Field(ge=1)]
    accuracy: Share

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.right > self.of:
            raise ValueError(f"{self.right} of {self.of} are right")
        if abs(self.accuracy - self.right / self.of) > 1e-6:
            raise ValueError(f"{self.right} of {self.of} are no accuracy of {self.accuracy:g}")
        return self


class MeasureTotal(Message):
    """A promptfed.measures.base.Total: sums over ``examples`` examples, none of which can be told from them."""

    sums: Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(max_length=MOST_SUMS)]
    examples: Annotated[Count, Field(ge=1)]


class MeasureTotals(Message):
    """A measure's totals, for the same images as the accuracies of the same names."""

    local: MeasureTotal | None = None
    local_all: MeasureTotal | None = None
    base: MeasureTotal | None = None
    new: MeasureTotal | None = None


class EvaluateAnswer(Message):
    """``local``: on the site's own classes, None where it has one only; ``local_all``: the same images among all base
    classes. ``base``, ``new``, ``domains``: only if the whole was asked for. ``measures``: those besides accuracy, only
    on test images."""

    client: Number
    local: CorrectCount | None
    local_all: CorrectCount | None = None
    base: CorrectCount | None = None
    new: CorrectCount | None = None
    domains: Annotated[dict[Name, CorrectCount], Field(max_length=MOST_SITES)] = Field(default_factory=dict)
    measures: Annotated[dict[Name, MeasureTotals], Field(max_length=MOST_MEASURES)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_of_the_same_images(self) -> Self:
        if self.local is not None and (self.local_all is None or self.local_all.of != self.local.of):
            raise ValueError("local and local_all are of the same images")
        for name, totals in self.measures.items():
            for part in MeasureTotals.model_fields:
                total, right = getattr(totals, part), getattr(self, part)
                if total is not None and (right is None or total.examples != right.of):
                    raise ValueError(f"{part} of measure '{name}' is of the images of its accuracy")
        return self


class FinishAnswer(Message):
    """Where, on its own disk, the site has put the prompt that it deploys."""

    client: Number
    bundle: Text


def _different(names: Sequence[str], kind: str) -> None:
    met: set[str] = set()
    for name in names:
        if name in met:
            raise ValueError(f"{kind} '{name}' is named twice")
        met.add(name)
