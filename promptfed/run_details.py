"""details.json of a run: what its report shows besides figures.

    counts     [true class, predicted class, examples]: the clients' own test examples, each with its client's prompt,
               among all training classes; predicted class -1: no answer
    average_precisions  in the place of counts, where several classes fit an example: [class, figure, examples]
    right      which of these examples are answered right, a bit each in their order, as hexadecimal digits
    samples    a few of these examples, right and wrong: a text, or a small picture as a data: address
    words      what the prompt says: the nearest words of each vector, or the text before and after training

It is made of what the tests of the method scored anyway, so no encoder and no black box is asked. A server over sites
has no examples, and writes no such file.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterator
from typing import Any

from promptfed.config import RunConfig
from promptfed.errors import PromptFedError
from promptfed.evaluation import Evaluation
from promptfed.examples.base import ImageItem, Item, QuestionItem, TextItem
from promptfed.experiment import Experiment
from promptfed.export.bundle import candidate_of
from promptfed.federation import Federation
from promptfed.kept_text import kept_of
from promptfed.learned_prompt import LearnedPrompt
from promptfed.measure_check import NO_CLASSES
from promptfed.method import Method
from promptfed.own_answers import Answer, OwnAnswers
from promptfed.packed_bits import packed_bits
from promptfed.prompt_state import PromptState
from promptfed.prompts.language_method import LanguageMethod
from promptfed.prompts.nearest_words import NearestWords, nearest_tokens
from promptfed.runs.directory import DETAILS, RunDirectory
from promptfed.types import ClientPrompt, FederatedTask, FederationState

log = logging.getLogger(__name__)
FEWEST_SAMPLES, MOST_VECTORS, MOST_TEXTS = 12, 64, 4
PIXELS = 96
"""Longer side of a sample's picture."""
LARGEST_PICTURE = 24_000
"""Bytes of a sample's picture; a larger one is left out."""
LONGEST_TEXT = 500
"""Characters of a sample's text."""
NEAREST = 5
"""Words beside each vector."""


def samples_of(config: RunConfig) -> int:
    """Return how many examples a run keeps for its report: by default none where its training protects them."""
    if config.report_samples is not None:
        return config.report_samples
    return 0 if config.privacy_options.get("dp", "none") != "none" else FEWEST_SAMPLES


def write_details(
    experiment: Experiment, run: RunDirectory, trained: tuple[Federation, FederationState], evaluation: Evaluation
) -> None:
    """Write details.json of a finished run; nothing where its examples are elsewhere.

    Raises:
        DiskError: The disk refuses.
    """
    answers = evaluation.answers
    if answers is None:
        return
    has_no_classes = experiment.task.base_classes in NO_CLASSES
    run.write_json(
        DETAILS,
        {
            "items": len(answers),
            "right": packed_bits(answers.right()),
            "counts": [] if has_no_classes else answers.counts(),
            **({"average_precisions": precisions} if (precisions := answers.average_precisions()) else {}),
            "samples": list(_samples(experiment.task, answers, samples_of(experiment.config))),
            "words": prompt_words(*trained),
        },
    )


def _samples(task: FederatedTask, answers: OwnAnswers, most: int) -> Iterator[dict[str, Any]]:
    """Yield the chosen examples with their content; one that cannot be shown is left out."""
    for answer in answers.chosen(most):
        data = task.client(answer.client)
        item = data.test.items[answer.place]
        fitting = [label for label, grade in enumerate(item.grades) if grade > 0]
        if content := _content(item):
            yield {**_recorded(answer), **({"labels": fitting} if fitting else {}), "name": data.name, **content}


def _recorded(answer: Answer) -> dict[str, Any]:
    return {
        "truth": answer.truth,
        "prediction": answer.prediction,
        "confidence": round(answer.confidence, 4),
        "of_truth": round(answer.of_truth, 4),
    }


def _content(item: Item) -> dict[str, str]:
    """Return the text or the picture of an example; empty if there is none that can be shown."""
    if isinstance(item, TextItem):
        answer = {"answer": item.answer[:LONGEST_TEXT]} if isinstance(item, QuestionItem) else {}
        return {"text": item.text[:LONGEST_TEXT], **answer}
    if isinstance(item, ImageItem):
        try:
            picture = picture_of(item)
        except (PromptFedError, OSError, ValueError) as error:
            log.info("a sample of the report is left out: %s", error)
            return {}
        return {"image": picture} if picture else {}
    return {}


def picture_of(item: ImageItem) -> str:
    """Return a small copy of an image as a ``data:`` address; empty if even that is large."""
    image = item.load().convert("RGB")
    image.thumbnail((PIXELS, PIXELS))
    versions = []
    formats: dict[str, dict[str, Any]] = {"png": {"optimize": True}, "jpeg": {"quality": 82}}
    for kind, options in formats.items():
        buffer = io.BytesIO()
        image.save(buffer, format=kind, **options)
        versions.append((buffer.tell(), kind, buffer.getvalue()))
    size, kind, content = min(versions)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}" if size <= LARGEST_PICTURE else ""


def prompt_words(federation: Federation, state: FederationState) -> dict[str, Any]:
    """Return what the trained prompt says, as far as it can be read.

    Returns:
        ``texts``: (whose, before, after) of text prompts. ``vectors``: a table of nearest words (NearestWords), of
        ``whose`` prompt. ``trains``: what is trained instead, where neither can be read.
    """
    method = federation.method
    if said := method.shared_text(state.shared):
        text = {"whose": "shared", "before": method.shared_text(federation.start().shared), "after": said}
        return {"texts": [{**text, "is_zero_shot": False}], "trains": method.trains}
    start, whose = federation.start(), _owners(federation, state)
    texts = [
        {"whose": name, "before": before, "after": after, "is_zero_shot": kept_of(prompt) is not None}
        for name, client, prompt in whose
        if (after := _text(method, prompt)) and (before := _text(method, federation.prompt(start, client))) is not None
    ]
    if texts:
        return {"texts": texts, "trains": method.trains}
    for name, _, prompt in whose[:2]:
        if (table := _vectors(method, prompt)) is not None:
            return {"whose": name, "vectors": table.recorded(), "trains": method.trains}
    return {"trains": method.trains}


def _owners(federation: Federation, state: FederationState) -> list[tuple[str, int | None, ClientPrompt]]:
    """Return (whose, client, prompt) of the shared prompt and of some clients that have one of their own."""
    owners: list[tuple[str, int | None, ClientPrompt]] = [("shared", None, federation.prompt(state, None))]
    for client in federation.clients[: MOST_TEXTS - 1]:
        prompt = federation.prompt(state, client)
        if prompt.is_personal:
            owners.append((f"client {client}", client, prompt))
    return owners


def _text(method: Method, prompt: ClientPrompt) -> str | None:
    """Return the text prompt that is deployed; None if it is no text."""
    try:
        candidate = candidate_of(method, prompt)
    except (PromptFedError, KeyError):
        return None
    return candidate.text if candidate is not None and candidate.soft is None and candidate.pixels is None else None


def _vectors(method: Method, prompt: ClientPrompt) -> NearestWords | None:
    """Return the nearest words of what ``prompt`` puts before the model's words; None if it puts none."""
    try:
        if isinstance(method, LanguageMethod):
            (shared, personal), _ = method.ends(prompt)
            values = method.one_insert(shared, personal)
            soft = None if values is None or not len(values) else method.kind.insert(values).soft
            return None if soft is None else nearest_tokens(soft[:MOST_VECTORS], method.model, NEAREST)
        learned = LearnedPrompt(None, prompt, method)
        if not len(contexts := learned.text_contexts):
            return None
        return learned.nearest_words(NEAREST, "cosine", contexts=_cut(contexts))
    except (PromptFedError, KeyError) as error:  # a backbone that does not tell its words, a prompt without a start
        log.info("the report shows no words of the prompt: %s", error)
        return None


def _cut(contexts: PromptState) -> PromptState:
    """Return the first contexts, ``MOST_VECTORS`` vectors in all, at least one context each."""
    most, cut = MOST_VECTORS, {}
    for name, context in contexts.items():
        if most <= 0:
            break
        length = context.shape[-2]
        if context.dim() == 3:
            context = context[: max(1, most // length)]
        cut[name] = context
        most -= context.shape[:-1].numel()
    return PromptState(cut)
