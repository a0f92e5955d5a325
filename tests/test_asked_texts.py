"""Questions about images: their texts once, their scores by hand, and training that is the gradient of the loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from promptfed.asked_texts import NO_CANDIDATE, AskedTexts, asked_scores, is_asked
from promptfed.examples.visual_questions import VisualQuestion
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.prompt_state import PromptState
from promptfed.scoring_job import ScoringJob
from promptfed.types import NO_PROMPT, Broadcast, ClientPrompt, Split

CLASSES = ("blue", "no", "red", "yes")


@pytest.fixture
def asked(make_split):
    """Three questions about two images."""
    first, second = make_split(3, [0, 2]).items
    items = (
        VisualQuestion(first, "is it red?", candidates=("yes", "no")),
        VisualQuestion(second, "is it red?", candidates=("yes", "no")),
        VisualQuestion(second, "which?", candidates=("red", "blue", "pink")),
    )
    return Split(items, torch.tensor([3, 1, 0]))


def test_an_image_is_looked_at_once_and_a_question_about_it_is_another_example(asked):
    first, second, third = asked.items
    assert second.image_id() == third.image_id() == second.image.content_id() != first.image_id()
    assert len({item.content_id() for item in asked.items} | {second.image.content_id()}) == 4
    assert first.text("yes") == "is it red? yes"


def test_every_text_is_there_once_and_answers_that_are_no_class_are_left_out(asked):
    texts = AskedTexts(asked.items, CLASSES)
    assert texts.names == ("is it red? yes", "is it red? no", "which? red", "which? blue")
    assert texts.texts.tolist() == [[0, 1], [0, 1], [2, 3]]
    assert texts.columns.tolist() == [[3, 1], [3, 1], [2, 0]]
    assert texts.used(torch.tensor([2])).tolist() == [2, 3]


def test_scores_are_cosines_to_the_texts_of_the_question(asked):
    texts = {
        "is it red? yes": [3.0, 4.0],
        "is it red? no": [0.0, 1.0],
        "which? red": [1.0, 0.0],
        "which? blue": [-1.0, 0],
    }
    images = torch.tensor([[1.0, 0.0], [0.0, 5.0], [2.0, 0.0]])
    scores = asked_scores(asked, CLASSES, images, 10.0, lambda names: torch.tensor([texts[name] for name in names]))
    gap = NO_CANDIDATE
    assert torch.allclose(scores, torch.tensor([[gap, 0, gap, 6], [gap, 10, gap, 8], [-10, gap, 10, gap]]), atol=1e-5)


def test_a_question_without_a_known_answer_has_no_score(asked):
    images = torch.ones(3, 2)
    scores = asked_scores(asked, ("pear",), images, 1.0, lambda names: torch.ones(len(names), 2))
    assert scores.tolist() == [[NO_CANDIDATE]] * 3


def test_a_step_follows_the_gradient_of_the_loss_of_answers(asked, setup, toy_task):
    setup = setup.agreeing(classes=CLASSES)
    config = PromptFLConfig(optimizer="sgd", momentum=0, lr=0.3, schedule="constant", local_epochs=1, n_ctx=2)
    method, backbone = PromptFL(config, setup), setup.backbone
    data = replace(toy_task.clients[0], train=asked, classes=(0, 1, 3))
    start = method.init_shared()
    update, _ = method.train(Broadcast(1, start), data, NO_PROMPT)

    ctx = start["ctx"].clone().requires_grad_()
    images = F.normalize(setup.features.images(asked), dim=-1)
    losses = []
    for k, (names, right) in enumerate(
        [
            (("is it red? yes", "is it red? no"), 0),
            (("is it red? yes", "is it red? no"), 1),
            (("which? red", "which? blue"), 1),
        ]
    ):
        texts = F.normalize(backbone.encode_prompted_texts([method.tuner.prompted(ctx, names)])[0], dim=-1)
        losses.append(F.cross_entropy(backbone.logit_scale * images[k] @ texts.T, torch.tensor(right)))
    (slope,) = torch.autograd.grad(torch.stack(losses).mean(), ctx)
    torch.testing.assert_close(update.shared["ctx"], start["ctx"] - 0.3 * slope, atol=1e-5, rtol=0)
    assert update.samples == 3


def test_many_jobs_are_scored_as_one_by_one_whatever_they_ask(asked, setup, make_split):
    setup = setup.agreeing(classes=CLASSES)
    method = PromptFL(PromptFLConfig(n_ctx=2), setup)
    plain, prompt = make_split(5, [0, 1, 2]), ClientPrompt(method.init_shared())
    jobs = [ScoringJob(prompt, CLASSES, split) for split in (plain, asked, asked, plain)]
    scores = list(method.scores(iter(jobs)))
    for job, some in zip(jobs, scores, strict=True):
        torch.testing.assert_close(some, method.client_logits(prompt, CLASSES, job.split), atol=1e-5, rtol=0)
    assert is_asked(asked)
    assert not is_asked(plain)
    assert bool((scores[1][:, 2] <= NO_CANDIDATE).any())
    assert scores[0].min() > NO_CANDIDATE


def test_zero_shot_reads_questions_in_its_template(asked, setup):
    model = setup.model
    scores = model.template_scores("look: {}", asked, CLASSES)
    texts = F.normalize(model.features.texts(["look: is it red? yes", "look: is it red? no"]), dim=-1)
    images = F.normalize(model.features.images(asked), dim=-1)
    torch.testing.assert_close(scores[0, [3, 1]], model.backbone.logit_scale * images[0] @ texts.T)
    assert scores[0, 0] == NO_CANDIDATE


def test_prompts_of_questions_are_mixed_by_their_scores(asked, setup):
    setup = setup.agreeing(classes=CLASSES)
    method = PromptFL(PromptFLConfig(n_ctx=2), setup)
    shared = method.init_shared()
    tuned = PromptState({"ctx": shared["ctx"] + 1})
    ends = [method.logits(state, NO_PROMPT, CLASSES, asked) for state in (shared, tuned)]
    mixed = method.client_logits(ClientPrompt(shared, tuned=tuned, alpha=0.25), CLASSES, asked)
    torch.testing.assert_close(mixed, torch.lerp(*ends, 0.25), atol=1e-4, rtol=0)
