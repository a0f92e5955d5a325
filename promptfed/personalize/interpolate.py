"""Interpolation between the shared prompt and a client's own: accuracy for every alpha, and the choice of alpha.

A client deploys ``p_a = (1 - a) p_g + a p_i`` (Profit, arXiv 2310.04627), or the same mixture of what the method makes
of the two prompts. ``a`` is chosen on the client's validation images, never on test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean, harmonic_mean, pstdev
from typing import Any, Literal

import torch
from torch import Tensor

from promptfed.config import ACCURACY
from promptfed.cosines import cosine_logits, mixed_features
from promptfed.evaluation import has_choice, top1_accuracy
from promptfed.measures.selection import Selection
from promptfed.method import FeatureMethod, Method
from promptfed.runs.personalized import AlphaChoice, ClientCurve
from promptfed.truth import truth_of
from promptfed.types import ClientData, ClientPrompt, FederatedTask, Split

LOCAL, BASE, NEW = "local", "base", "new"


def natural_space(method: Method, prompt: ClientPrompt) -> Literal["prompt", "features"]:
    """Return prompt space if there is a path in it from the shared to the client's own prompt, else feature space."""
    has_tuned, shared = bool(len(prompt.tuned)), prompt.shared
    middle = method.tuned_blend(shared, prompt.tuned, 0.5) if has_tuned else method.blend(shared, prompt.personal, 0.5)
    return "features" if middle is None else "prompt"


class Sweep:
    """One client's prompt at each of ``alphas``. Each list of class names is encoded once for all images.

    In feature space that is two encodings, however many alphas there are; in prompt space it is one for each.
    """

    def __init__(self, method: Method, prompt: ClientPrompt, alphas: Sequence[float]) -> None:
        self.method, self.alphas, self.prompt = method, tuple(alphas), prompt
        self._texts: dict[tuple[str, ...], list[Tensor]] = {}

    def accuracies(self, classes: Sequence[str], split: Split, among: Sequence[int] | None = None) -> tuple[float, ...]:
        """Return ``promptfed.evaluation.accuracy`` for each alpha; empty for a split without images."""
        if not len(split):
            return ()
        return tuple(self._each(partial(top1_accuracy, split=split), classes, split, among))

    def figures(self, classes: Sequence[str], split: Split, among: Sequence[int] | None = None) -> tuple[float, ...]:
        """As ``accuracies``, by the measure of the run's option ``selection``."""
        selection = Selection.of(self.method.setup.selection)
        if selection.is_accuracy or not len(split):
            return self.accuracies(classes, split, among)
        truth = truth_of(selection.measure, split, len(classes), among)
        return tuple(self._each(lambda logits, _: selection.measure.figure(logits, truth), classes, split, among))

    def _each(
        self,
        judge: Callable[[Tensor, Tensor], float],
        classes: Sequence[str],
        split: Split,
        among: Sequence[int] | None,
    ) -> Iterator[float]:
        """Return ``judge(logits, candidates)`` for each alpha."""
        candidates = torch.tensor(range(len(classes)) if among is None else among)
        if self.method.scores_apart and self.method.reads_texts_only:  # the texts of all classes serve all splits
            every = self._logits(tuple(classes), split)
            return (judge(logits[:, candidates.to(logits.device)], candidates) for logits in every)
        names = tuple(classes[i] for i in candidates.tolist())
        return (judge(logits, candidates) for logits in self._logits(names, split))

    @torch.no_grad()
    def _logits(self, names: tuple[str, ...], split: Split) -> list[Tensor]:
        method, setup = self.method, self.method.setup
        if isinstance(method, FeatureMethod) and method.reads_texts_only:
            images, scale = setup.features.images(split), setup.backbone.logit_scale
            return [cosine_logits(images, texts, scale) for texts in self._class_features(method, names)]
        if self.prompt.space == "features":
            general, personal = (method.client_logits(self._at(alpha), names, split) for alpha in (0.0, 1.0))
            return [torch.lerp(general, personal, alpha) for alpha in self.alphas]
        return [method.client_logits(self._at(alpha), names, split) for alpha in self.alphas]

    def _class_features(self, method: FeatureMethod, names: tuple[str, ...]) -> list[Tensor]:
        if names not in self._texts:
            if self.prompt.space == "features":
                general, personal = method.many_client_features([(self._at(alpha), names) for alpha in (0.0, 1.0)])
                self._texts[names] = [mixed_features(general, personal, alpha) for alpha in self.alphas]
            else:
                self._texts[names] = method.many_client_features([(self._at(alpha), names) for alpha in self.alphas])
        return self._texts[names]

    def _at(self, alpha: float) -> ClientPrompt:
        return replace(self.prompt, alpha=alpha)


def choose(
    alphas: Sequence[float],
    figures: Sequence[float],
    count: int,
    selection: Selection | None = None,
    examples: str = "images",
) -> AlphaChoice:
    """Return the alpha with the best validation figure, by default the best accuracy.

    Of equal ones it is the smallest: the closest to the shared prompt. Without validation examples too.

    Args:
        alphas: The alphas tried.
        figures: Validation figure of each; empty without examples.
        count: The number of validation examples.
        selection: The measure of the figures.
        examples: What they are called.
    """
    selection = selection or Selection.of(ACCURACY)
    if not figures:
        why = f"no validation {examples}: alpha {alphas[0]:g}, the closest to the shared prompt"
        return AlphaChoice(alphas[0], 0, why)
    best = figures[selection.best(figures)]
    equal = [alpha for alpha, figure in zip(alphas, figures, strict=True) if figure == best]
    why = f"{selection.words(best, count, f'validation {examples}')}, the best of {len(alphas)} values of alpha"
    if len(equal) > 1:
        why += f"; the smallest of {len(equal)} that reach it"
    return AlphaChoice(equal[0], list(alphas).index(equal[0]), why)


def client_curve(
    method: Method,
    prompt: ClientPrompt,
    alphas: Sequence[float],
    task: FederatedTask,
    data: ClientData,
    sweep: Sweep | None = None,
) -> ClientCurve:
    """Return the accuracy of a client's ``prompt`` at each alpha, and the alpha that validation chooses.

    ``sweep`` is one of the same prompt and alphas, whose texts are encoded.
    """
    sweep = Sweep(method, prompt, alphas) if sweep is None else sweep
    chooses = has_choice(data)
    among = data.classes if chooses else None
    val = sweep.accuracies(task.base_classes, data.val, among)
    selection = Selection.of(method.setup.selection)
    figures = val if selection.is_accuracy else sweep.figures(task.base_classes, data.val, among)
    return ClientCurve(
        val=val,
        local=sweep.accuracies(task.base_classes, data.test, data.classes) if chooses else (),
        base=sweep.accuracies(task.base_classes, task.base_test),
        new=sweep.accuracies(task.classes_of_new, task.new_test),
        choice=choose(alphas, figures, len(data.val), selection, method.setup.model.examples),
    )


def curve_rows(alphas: Sequence[float], clients: Sequence[ClientCurve]) -> list[dict[str, Any]]:
    """Return means over clients at each alpha, and last (alpha None) with each client's chosen alpha."""
    rows = [_row(alpha, clients, [index] * len(clients)) for index, alpha in enumerate(alphas)]
    return [*rows, _row(None, clients, [client.choice.place for client in clients])]


def _row(alpha: float | None, clients: Sequence[ClientCurve], places: Sequence[int]) -> dict[str, Any]:
    def at_places(part: str) -> list[float]:
        curves = [getattr(client, part) for client in clients]
        return [curve[index] for curve, index in zip(curves, places, strict=True) if curve]

    val, local, base, new = (at_places(part) for part in ("val", LOCAL, BASE, NEW))
    parts = [fmean(values) for values in (local, base, new) if values]
    return {
        "alpha": alpha,
        "val": fmean(val) if val else None,
        LOCAL: fmean(local) if local else None,
        "local_std": pstdev(local) if local else None,
        BASE: fmean(base),
        NEW: fmean(new) if new else None,
        "hm": harmonic_mean(parts) if local and new else None,
    }
