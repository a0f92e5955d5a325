"""The messages of the server and the sites, without the prompts (promptfed.deployment.codec adds them).

Every question has one answer. A site that cannot give it answers with an ``ErrorReply``. Messages are plain data and
are checked when they arrive: neither side trusts the other.
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
    PublicKey,
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
"""The name of a run, the same for all processes that serve it. It is safe as the name of a folder."""


class Message(BaseModel):
    """Base of all messages: frozen, strict, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def create(cls, **fields: Any) -> Self:
        """Make a message. Raise DeploymentError if the other side would refuse it."""
        try:
            return cls(**fields)
        except ValidationError as error:
            raise DeploymentError(f"cannot be sent: {wrong_in(error)}") from error

    @classmethod
    def read(cls, json: str | bytes) -> Self:
        """Read and check a message. Raise DeploymentError, in one line, for a wrong field."""
        try:
            return cls.model_validate_json(json)
        except ValidationError as error:
            raise DeploymentError(f"a {cls.__name__} message is wrong in {wrong_in(error)}") from error


def wrong_in(error: ValidationError) -> str:
    """Describe the first three errors, with the beginning of each value."""
    lines = []
    for problem in error.errors(include_url=False, include_context=False)[:3]:
        place = ".".join(map(str, problem["loc"])) or "all"
        value = problem["input"]
        excerpt = f" (it is {printable(repr(value), 40)})" if isinstance(value, int | float | bool | None) else ""
        if isinstance(value, str):
            excerpt = f" (it is '{printable(value[:41], 40)}', {len(value)} characters)"
        why = problem["msg"].removeprefix("Value error, ")  # the names that people gave in it stay as they are
        lines.append(f"{printable(place, 80)}: {why[:1].lower()}{why[1:]}{excerpt}")
    return "; ".join(lines)


class SiteInfo(Message):
    """A site as the others know it: a name and the domain of its data."""

    name: Name
    domain: Domain = ""


class SiteAgreement(Message):
    """What all sites agreed on before round 1. It travels with every question, so that a site needs no memory.

    Attributes:
        run: The name of the run.
        simulated: Whether every node plays one client of the same task. Otherwise each site has its own data.
        config: The options of the run.
        base_classes: The classes that are trained.
        new_classes: The classes that are tested alone.
        templates: The templates of prompts.
        sites: The clients in the order of their numbers.
        fingerprint: The fingerprint of the frozen backbone.
        merged: Whether class names that differ only in case, blanks or underscores are one class.
        identities: The public identities of the sites, if they sum their changes in secret.
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
    identities: Annotated[tuple[PublicKey, ...], Field(max_length=MOST_SITES)] = ()

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
        """Return the agreement in the form of every federation, with the run's ``rounds`` and ``seed``."""
        return Agreement(
            classes=self.base_classes, templates=self.templates, rounds=rounds, seed=seed, domains=self.domains
        )


# ------------------------------------------------------------------------------------------------- questions


class Hello(Message):
    """Ask a site who it is and whether it fits the run. Fields not listed are those of ``SiteAgreement``.

    Attributes:
        classes: The agreed class names; None if those of the sites are to be joined.
        promptfed: The version of promptfed at the server.
    """

    run: RunKey
    simulated: bool
    config: dict[str, Any]
    classes: ClassNames | None
    fingerprint: Name
    promptfed: Name
    merged: bool = False


class Prepare(Message):
    """Ask a site to get ready before the first round: with a dual encoder, to encode its images once."""

    agreement: SiteAgreement
    client: Number


class Work(Message):
    """The common fields of the questions about a prompt. The shared prompt travels with the message.

    Attributes:
        agreement: What all sites agreed on.
        stage: The method or baseline.
        client: The number of the client.
        round: The number of the round.
        start: The round of the personal prompt to start from; 0 for the initial one.
    """

    agreement: SiteAgreement
    stage: Name
    client: Number
    round: Number
    start: Number


class Train(Work):
    """Ask for the work of one client in one round."""


class Evaluate(Work):
    """Ask for accuracies of the prompt that the site would deploy.

    Attributes:
        part: The examples to use.
        whole: Whether to test on all classes too, not only on those of the site.
    """

    part: Literal["val", "test"]
    whole: bool = False


class Finish(Work):
    """Send the last shared prompt: the site writes its bundle, and checks that the frozen model is unchanged."""


# --------------------------------------------------------------------------------------------------- answers


class ErrorReply(Message):
    """The reason, in one line, why a site cannot answer."""

    why: Text


def problem(why: str) -> ErrorReply:
    """Make an ErrorReply of one printable line of limited length."""
    return ErrorReply(why=printable(" ".join(why.split()), LONGEST_TEXT))


class HelloAnswer(Message):
    """A site's description of its data. The examples stay at the site.

    Attributes:
        site: Its name and domain.
        client: Its number, if it plays a client of a simulated task.
        classes: Its class names.
        train: The number of training examples of each class.
        val: The number of validation examples of each class.
        test: The number of test examples of each class.
        promptfed: The version of promptfed at the site.
        key: The site's own secret for this run, by which the server recognises it.
        notes: Remarks on the data.
        identity: Its public identity for secure sums.
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
    identity: PublicKey = ""

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
    """The number of images that went through the tower, and the seconds that the preparation took."""

    images: Calls
    seconds: Seconds


class UsageWords(Message):
    """A promptfed.usage.Usage as a message."""

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
    model_rows: Calls = 0
    model_tokens: Calls = 0


class TrainAnswer(Message):
    """The result of one client's work, as in promptfed.types.Reply. The update travels with the message.

    Attributes:
        kept: The round under which the site stores its personal prompt; 0 if it has none.
        is_bare: Whether the site stores the state of outgoing processors alone, and no prompt.
        figures: The figures of outgoing processors.
        is_held: Whether the site keeps its change for a secure sum, and sends no update, loss or accuracy.
        is_protected: Whether the update has noise for each example, and the site sends no loss or accuracy.
        epsilon: What the run has cost its examples so far; None if they are not protected.
        failure: Why there is no update. ``loss`` and ``accuracy`` may be None only in these three cases.
    """

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
    is_held: bool = False
    is_protected: bool = False
    epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    failure: Text = ""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        lacks_figures = self.loss is None or self.accuracy is None
        if not self.failure and not (self.samples and (self.is_held or self.is_protected or not lacks_figures)):
            raise ValueError("an update comes with its samples, its loss and its accuracy")
        return self


class CorrectCount(Message):
    """The number of examples that are classified right, and the accuracy as promptfed.evaluation computes it.

    Attributes:
        right: The number of right answers.
        of: The number of examples.
        accuracy: Their ratio, 0..1.
    """

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
    """A promptfed.measures.base.Total: sums over ``examples`` examples, which reveal no single example."""

    sums: Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(max_length=MOST_SUMS)]
    examples: Annotated[Count, Field(ge=1)]


class MeasureTotals(Message):
    """The totals of a measure, for the same examples as the accuracies of the same names."""

    local: MeasureTotal | None = None
    local_all: MeasureTotal | None = None
    base: MeasureTotal | None = None
    new: MeasureTotal | None = None


class EvaluateAnswer(Message):
    """The accuracies of one client's prompt. ``base``, ``new`` and ``domains`` are there only for a ``whole`` question.

    Attributes:
        client: The number of the client.
        local: The accuracy on the site's own examples among its own classes; None if it has one class only.
        local_all: The accuracy on the same examples among all base classes.
        base, new: The accuracies on base and on new classes.
        domains: Domain -> the accuracy on its examples.
        measures: Measure -> its totals on test examples.
    """

    client: Number
    local: CorrectCount | None
    local_all: CorrectCount | None = None
    base: CorrectCount | None = None
    new: CorrectCount | None = None
    domains: Annotated[dict[Name, CorrectCount], Field(max_length=MOST_SITES)] = Field(default_factory=dict)
    measures: Annotated[dict[Name, MeasureTotals], Field(max_length=MOST_MEASURES)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_of_the_same_examples(self) -> Self:
        if self.local is not None and (self.local_all is None or self.local_all.of != self.local.of):
            raise ValueError("local and local_all are of the same examples")
        for name, totals in self.measures.items():
            for part in MeasureTotals.model_fields:
                total, right = getattr(totals, part), getattr(self, part)
                if total is not None and (right is None or total.examples != right.of):
                    raise ValueError(f"{part} of measure '{name}' is of the examples of its accuracy")
        return self


class FinishAnswer(Message):
    """The folder on the site's own disk that holds the bundle it deploys."""

    client: Number
    bundle: Text


def _different(names: Sequence[str], kind: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{kind} '{name}' is named twice")
        seen.add(name)
