"""What every method of the literature looks like to the federation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional as F

from promptfed.aggregators.base import Aggregator
from promptfed.asked_texts import asked_scores, is_asked
from promptfed.backbones.base import PromptedText
from promptfed.cosines import cosine_logits, mixed_features
from promptfed.errors import ConfigError
from promptfed.method_traits import MethodTraits
from promptfed.prompt_state import PromptState
from promptfed.registry import Registry
from promptfed.scoring_job import ScoringJob, in_chunks
from promptfed.setup import Setup
from promptfed.types import NO_PROMPT, Broadcast, ClientData, ClientPrompt, Split, Update


class MethodConfig(BaseModel):
    """Base of every method's options: frozen, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def option_names(cls, options: Mapping[str, Any]) -> frozenset[str]:
        """Return all names that may stand beside ``options``; a method around another one has that one's too."""
        return frozenset(cls.model_fields)


Shape = tuple[int | None, ...]
"""A tensor's shape; None stands for any length."""

Pair = tuple[PromptState, PromptState]
"""A shared and a personal prompt that predict together."""

TrainingJob = tuple[Broadcast, ClientData, PromptState]
"""One client's round: what it was sent, its data, its personal prompt."""

PREDICTIONS = "client_logits", "logits", "image_logits", "client_features", "class_features", "texts", "joint_features"
"""What decides how a method predicts."""


class Method(MethodTraits, ABC):
    """A learner. It keeps no state between calls: shared and personal prompts come in and go out as values.

    A new method is one file with a ``MethodConfig`` and a subclass registered by ``@METHODS.register("name")``.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig

    def __init__(self, config: MethodConfig, setup: Setup) -> None:
        self.config, self.setup = config, setup

    def __repr__(self) -> str:
        return f"<method {self.name}: {self.config!r}>"

    @property
    def rounds(self) -> int:
        """Rounds this method needs, by default those of the run."""
        return self.setup.rounds

    # ------------------------------------------------------------------------------------------------ state

    def init_shared(self) -> PromptState:
        """Return the prompt the server starts from; empty for methods that share nothing."""
        return NO_PROMPT

    def init_personal(self, client: int) -> PromptState:
        """Return what ``client`` keeps to itself from the start; empty for methods without a personal part."""
        return NO_PROMPT

    # --------------------------------------------------------------------------------------------- training

    @abstractmethod
    def train(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> tuple[Update, PromptState]:
        """One client's work in one round. Raises TrainingError if the loss is not finite."""

    def train_many(self, jobs: Sequence[TrainingJob]) -> list[tuple[Update, PromptState]]:
        """Several clients' work in one round, with the same results as one by one (to rounding)."""
        return [self.train(*job) for job in jobs]

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        """Names and shapes of the tensors that ``client`` must send back; by default those that it was sent."""
        return shapes(sent)

    def check_feasible(self, clients: Sequence[ClientData]) -> None:
        """Raise ConfigError if these options and the data of ``clients`` allow no step of training; nothing is asked.

        A method that makes no step would return its start as if it had been trained.
        """
        if not any(len(data.train) for data in clients):
            raise ConfigError(f"no client holds a training example, so {self.name} makes no step: raise --shots")

    def data_notes(self, clients: Sequence[ClientData]) -> tuple[str, ...]:
        """Return what to tell the user of the options that were chosen from the data of ``clients``, a line each."""
        return ()

    def check_trained(self, shared: PromptState) -> None:
        """Raise TrainingError if, after the last round, ``shared`` shows that no client's work was of any use."""

    @property
    def is_centralized(self) -> bool:
        """Whether it is no federation but trains its first client on the data of all, as an upper bound."""
        return False

    def participants(self, round: int, drawn: Sequence[int], clients: Sequence[int]) -> Sequence[int]:
        """Who of ``clients`` takes part in ``round``; by default those ``drawn`` by the run's participation."""
        return drawn

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        """Return what merges updates; a method with a rule of its own wraps or replaces ``aggregator``."""
        return aggregator

    def fit_newcomer(self, shared: PromptState, data: ClientData) -> PromptState | None:
        """Make what a client that never took part deploys in the place of what ``broadcast`` would send it.

        None (the default): the paper has no way of its own to make it from the server's ``shared`` state and the
        newcomer's data.
        """
        return None

    # ------------------------------------------------------------------------------------------- prediction

    def text_contexts(self, shared: PromptState, personal: PromptState) -> PromptState:
        """Return the contexts that the text tower reads beside a class name.

        Args:
            shared: What the client is sent.
            personal: What it keeps; empty for somebody who never took part.

        Returns:
            A context ``(n_ctx, text_dim)``, or one of each of the run's classes ``(classes, n_ctx, text_dim)``, by
            its name. Empty (the default): the method learns no words.
        """
        return NO_PROMPT

    def shared_text(self, shared: PromptState) -> str:
        """Return ``shared`` for people to read, where it is text of another kind than one prompt; else ""."""
        return ""

    @abstractmethod
    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        """Scores ``(n, classes)`` of the split's examples.

        An empty ``personal`` asks for what somebody gets who never took part.
        """

    def blend(self, shared: PromptState, personal: PromptState, alpha: float) -> PromptState | None:
        """Return the personal prompt ``alpha`` of the way from the shared to the personal one, in prompt space.

        At 0 the client behaves as one without a personal part. None (the default): this method has no such path.
        """
        return None

    def tuned_blend(self, shared: PromptState, tuned: PromptState, alpha: float) -> PromptState | None:
        """Return the prompt ``alpha`` of the way from the shared one to a copy of it that a client trained on.

        By default each tensor is mixed. None: there is no such path, as where the prompt is made by a network.
        """
        return shared.interpolate(tuned, alpha)

    def client_logits(self, prompt: ClientPrompt, classes: Sequence[str], split: Split) -> Tensor:
        """Scores ``(n, classes)`` with what a client deploys: its personal prompt, the shared one, or a mixture.

        In feature space the logits are mixed. Raises ConfigError for ``space`` "prompt" if the method has no path in
        prompt space.
        """
        with torch.no_grad():
            pair, general = self.ends(prompt)
            client_logits = self.logits(*pair, classes, split)
            if general is None:
                return client_logits
            return torch.lerp(self.logits(*general, classes, split), client_logits, prompt.alpha)

    def scores(self, jobs: Iterable[ScoringJob]) -> Iterator[Tensor]:
        """Yield what ``client_logits`` gives for each job, to rounding; by default one by one.

        Jobs are taken as scores are, so that never all of either are in memory.
        """
        for job in jobs:
            yield self.client_logits(job.prompt, job.classes, job.examples())

    @property
    def scores_apart(self) -> bool:
        """Whether the scores of some classes are their columns among those of more classes, to rounding.

        A class says so by ``classes_apart``, of its own way to predict: one that changes an inherited way says it anew.
        """
        for kind in type(self).__mro__:
            if "classes_apart" in vars(kind):
                return bool(vars(kind)["classes_apart"])
            if any(name in vars(kind) for name in PREDICTIONS):
                return False
        return False

    def ends(self, prompt: ClientPrompt) -> tuple[Pair, Pair | None]:
        """Return the (shared, personal) pair to predict with, and the general pair to mix its outcome with, if any."""
        general = (prompt.shared, NO_PROMPT)
        if not prompt.is_personal:
            return general, None
        client_pair = (prompt.tuned if len(prompt.tuned) else prompt.shared, prompt.personal)
        if prompt.alpha == 1:
            return client_pair, None
        if prompt.space == "features":
            return client_pair, general
        if len(prompt.tuned):
            return (self._path(self.tuned_blend(prompt.shared, prompt.tuned, prompt.alpha)), prompt.personal), None
        return (prompt.shared, self._path(self.blend(prompt.shared, prompt.personal, prompt.alpha))), None

    def _path(self, mixture: PromptState | None) -> PromptState:
        if mixture is None:
            raise ConfigError(
                f"{self.name} cannot be interpolated in prompt space; use feature space (--space features)"
            )
        return mixture

    def check_agreed(self, shared: PromptState) -> None:
        """Raise TrainingError if ``shared`` means something else here than where it was made, such as other tokens."""

    @property
    def basis(self) -> str:
        """SHA-256 of the directions that its prompt is a sum of, if a file has them; a run keeps it."""
        return ""

    @property
    def reads_texts_only(self) -> bool:
        """Whether it predicts by cosines to text features alone, which can then be made once and kept."""
        return False


class FeatureMethod(Method):
    """A method on a dual encoder: it makes text features of class names, and predicts by their cosines to images.

    It says which ``texts`` these features come from, or overrides ``class_features``.
    """

    def texts(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Sequence[PromptedText]:
        """Return the texts that ``joint_features`` makes class features of; those of many clients go together."""
        raise ConfigError(f"method '{self.name}' has neither texts nor class_features: its class needs one of them")

    def joint_features(
        self, features: Sequence[Tensor], shared: PromptState, personal: PromptState, classes: Sequence[str]
    ) -> Tensor:
        """Return unit class features ``(classes, embed_dim)`` from those of ``texts``; by default there is one text."""
        return F.normalize(features[0], dim=-1)

    def class_features(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Tensor:
        """Return unit text features ``(classes, embed_dim)`` of any class names, without a gradient.

        An empty ``personal`` asks for what somebody gets who never took part.
        """
        with torch.no_grad():
            features = self.setup.backbone.encode_prompted_texts(self.texts(shared, personal, classes))
            return self.joint_features(features, shared, personal, classes)

    @torch.no_grad()
    def many_class_features(self, wanted: Sequence[tuple[Pair, Sequence[str]]]) -> list[Tensor]:
        """Return ``class_features`` of each, whose texts go through the text tower together."""
        if type(self).class_features is not FeatureMethod.class_features:
            return [self.class_features(*pair, classes) for pair, classes in wanted]
        texts = [self.texts(*pair, classes) for pair, classes in wanted]
        different = {text.key(): text for some in texts for text in some}
        encoded = self.setup.backbone.encode_prompted_texts(list(different.values()))
        features = dict(zip(different, encoded, strict=True))
        return [
            self.joint_features([features[text.key()] for text in some], *pair, classes)
            for some, (pair, classes) in zip(texts, wanted, strict=True)
        ]

    def image_logits(
        self, texts: Tensor, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split
    ) -> Tensor:
        """Scores ``(n, classes)`` of the split's images from ``class_features``; by default scaled cosines."""
        return cosine_logits(self.setup.features.images(split), texts, self.setup.backbone.logit_scale)

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        """As every method's; a question about an image is read with each of its answers."""
        with torch.no_grad():
            if is_asked(split):
                images, scale = self.setup.features.images(split), self.setup.backbone.logit_scale
                return asked_scores(split, classes, images, scale, partial(self.class_features, shared, personal))
            texts = self.class_features(shared, personal, classes)
            return self.image_logits(texts, shared, personal, classes, split)

    def client_logits(self, prompt: ClientPrompt, classes: Sequence[str], split: Split) -> Tensor:
        """As every method's; one that predicts by text features alone is mixed as ``client_features`` says."""
        if not self.reads_texts_only or is_asked(split):
            return super().client_logits(prompt, classes, split)
        with torch.no_grad():
            texts = self.client_features(prompt, classes)
            return cosine_logits(self.setup.features.images(split), texts, self.setup.backbone.logit_scale)

    def client_features(self, prompt: ClientPrompt, classes: Sequence[str]) -> Tensor:
        """Return unit text features ``(classes, embed_dim)`` of what a client deploys.

        In feature space they are ``N((1 - alpha) T_shared + alpha T_personal)``: Profit's interpolation
        (arXiv 2310.04627), moved from prompts to features. Raises ConfigError as ``client_logits`` does.
        """
        return self.many_client_features([(prompt, classes)])[0]

    def many_client_features(self, wanted: Sequence[tuple[ClientPrompt, Sequence[str]]]) -> list[Tensor]:
        """Return ``client_features`` of each, whose texts are encoded together. Raises as ``client_logits``."""
        ends = [self.ends(prompt) for prompt, _ in wanted]
        features = iter(self._features_of(ends, [classes for _, classes in wanted]))
        return [
            own if general is None else mixed_features(general, own, prompt.alpha)
            for (own, general), (prompt, _) in zip(features, wanted, strict=True)
        ]

    def _features_of(
        self, ends: Sequence[tuple[Pair, Pair | None]], classes: Sequence[Sequence[str]]
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Return the class features of both ``ends``, made together."""
        names = list(zip(ends, classes, strict=True))
        pairs = [(pair, some) for (pair, _), some in names]
        general = [(pair, some) for (_, pair), some in names if pair is not None]
        features = self.many_class_features([*pairs, *general])
        rest = iter(features[len(pairs) :])
        return [(own, None if pair is None else next(rest)) for own, (_, pair) in zip(features, ends, strict=False)]

    def scores(self, jobs: Iterable[ScoringJob]) -> Iterator[Tensor]:
        """As every method's; the texts of many jobs are encoded together, unless ``logits`` is the method's own."""
        for has_questions, some in groupby(jobs, lambda job: is_asked(job.split)):
            score = super().scores if has_questions else self._scores_of_classes
            yield from score(some)

    def _scores_of_classes(self, jobs: Iterable[ScoringJob]) -> Iterator[Tensor]:
        kind = type(self)
        if kind.client_logits is not FeatureMethod.client_logits or kind.logits is not FeatureMethod.logits:
            yield from super().scores(jobs)
        elif self.reads_texts_only:
            yield from self._cosine_scores(jobs)
        else:
            for some in in_chunks(jobs):
                ends = [self.ends(job.prompt) for job in some]
                features = self._features_of(ends, [job.classes for job in some])
                for job, (pair, general), (own, other) in zip(some, ends, features, strict=True):
                    with torch.no_grad():
                        examples = job.examples()
                        scores = self.image_logits(own, *pair, job.classes, examples)
                        if general is not None and other is not None:
                            start = self.image_logits(other, *general, job.classes, examples)
                            scores = torch.lerp(start, scores, job.prompt.alpha)
                    yield scores

    def _cosine_scores(self, jobs: Iterable[ScoringJob]) -> Iterator[Tensor]:
        """Yield the scores of ``jobs`` for a method that predicts by text features alone; images are read once."""
        split, images, scale = None, torch.empty(0), self.setup.backbone.logit_scale
        for some in in_chunks(jobs):
            features = self.many_client_features([(job.prompt, job.classes) for job in some])
            for job, texts in zip(some, features, strict=True):
                with torch.no_grad():
                    if job.split is not split:
                        split, images = job.split, scale * F.normalize(self.setup.features.images(job.split), dim=-1)
                    part = images if job.rows is None else images[job.rows.to(images.device)]
                    scores = part @ F.normalize(texts, dim=-1).T
                yield scores

    @property
    def reads_texts_only(self) -> bool:
        kind = type(self)
        return kind.logits is FeatureMethod.logits and kind.image_logits is FeatureMethod.image_logits


def shapes(state: Mapping[str, Tensor], names: Iterable[str] | None = None) -> dict[str, Shape]:
    """Return the shapes of ``state``'s tensors, or of some of them."""
    return {name: tuple(state[name].shape) for name in (state if names is None else names)}


METHODS: Registry[type[Method]] = Registry(
    "method", "promptfed.methods", "promptfed.blackbox.methods",
    group="promptfed.methods", required=("name", "paper", "trains"),
)  # fmt: skip
