"""Answers that say nothing: a state of their own, never a score, and an end to the run when they are too many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from promptfed.blackbox.oracle_factory import load_oracle
from promptfed.blackbox.oracles.cache import AnswerCache
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.oracles.remote.label_scoring import spoken, why_nothing
from promptfed.errors import OracleError
from promptfed.oracle_options import OracleOptions
from promptfed.prompt_template import PromptTemplate
from promptfed.scores import is_answered

CLASSES = ("cold", "hot")
FORM = PromptTemplate(template="{{ prompt }} {{ text }}\nIt is")
CHAT = {"has_completions": False, "has_logprobs": False}


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Oracle]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def make(stub: Any, form: PromptTemplate = FORM, cache: AnswerCache | None = None, **options: Any) -> Oracle:
        known = {"base_url": stub.base_url, "model": "toy-1", "backoff_seconds": 0.002, "concurrency": 4, **options}
        return load_oracle("api", form, OracleOptions(**known), cache=cache or AnswerCache(None))

    return make


def texts(count: int) -> list[str]:
    return [f"{'hot: fire' if k % 2 else 'cold: ice'} {k}" for k in range(count)]


THINKING = {"content": "<think>\nOkay, it may be hot or", "reasoning_content": "Okay", "finish_reason": "length"}
EMPTY = {"content": None, "finish_reason": "length"}
REFUSAL = {"content": "I'm sorry, I can't help with that."}


@pytest.mark.parametrize(
    ("says", "seen"),
    [
        (THINKING, "it thought and did not answer, its tokens used up"),
        (EMPTY, "the answer is empty, its tokens used up"),
        (REFUSAL, "it says 'I'm sorry"),
        ({"content": "", "finish_reason": "content_filter"}, "a filter withheld the answer"),
        ({"content": None, "refusal": "Not this one."}, "it refuses: 'Not this one.'"),
        ({"content": "lukewarm\x1b[31m"}, "it says 'lukewarm"),
        ({"content": "<thinking>hot? cold?</thinking>"}, "it thought and did not answer"),
    ],
)
def test_a_model_that_says_nothing_of_use_ends_the_run(stub_server, connect, text_split, says, seen):
    stub = stub_server(**CHAT, says=lambda text: says)
    oracle = connect(stub)
    with pytest.raises(OracleError) as error:
        oracle.score([Candidate(), Candidate("fire")], text_split(*texts(120)).items, CLASSES)
    said = str(error.value)
    assert seen in said
    assert "thinking off" in said
    assert "oracle.choice_tokens" in said
    assert "task.template" in said
    assert "\x1b" not in said
    assert "\n" not in said
    assert oracle.usage().oracle_unanswered == 21  # more than a tenth of 200
    assert len(stub.asked) <= 1 + 21 + 8  # those under way are still answered
    assert oracle.budget.under_way == 0


def test_up_to_a_tenth_is_borne_counted_and_never_a_score(stub_server, connect, text_split):
    stub = stub_server(**CHAT, says=lambda text: EMPTY if "fire 7" in text else None)
    oracle = connect(stub)
    found = oracle.score([Candidate()], text_split(*texts(40)).items, CLASSES)[0]
    silent = [k for k, text in enumerate(texts(40)) if "fire 7" in text]
    assert (~is_answered(found)).nonzero().flatten().tolist() == silent
    assert oracle.usage().oracle_unanswered == len(silent)
    assert oracle.ledger.total().oracle_unanswered == len(silent)
    assert oracle.tally.recorded()["unanswered"]["answers"] == len(silent)
    oracle.tally.check()


def test_the_end_of_a_small_run_is_held_to_the_share_too(stub_server, connect, text_split):
    oracle = connect(stub_server(**CHAT, says=lambda text: EMPTY))
    oracle.score([Candidate()], text_split(*texts(4)).items, CLASSES)
    with pytest.raises(OracleError, match="4 of 4 answers say nothing of use"):
        oracle.tally.check()


def judged(oracle: Oracle, items: Any) -> None:
    oracle.score([Candidate()], items, CLASSES)
    oracle.tally.check()


@pytest.mark.parametrize(("share", "ends"), [(0.0, True), (0.04, True), (0.5, False), (1.0, False)])
def test_the_share_is_an_option(stub_server, connect, text_split, share, ends):
    stub = stub_server(**CHAT, says=lambda text: EMPTY if "4" in text.split()[1] else None)
    oracle = connect(stub, most_unanswered=share)
    items = text_split(*texts(40)).items
    if not ends:
        return judged(oracle, items)
    with pytest.raises(OracleError, match=f"more than the share of {share:g}"):
        judged(oracle, items)


def test_a_question_without_an_answer_is_not_asked_again_in_a_run_but_by_the_next_one(
    stub_server, connect, text_split, tmp_path
):
    stub = stub_server(**CHAT, says=lambda text: EMPTY if "fire 7" in text else None)
    cache = AnswerCache(tmp_path / "answers.sqlite")
    items = text_split(*texts(20)).items
    oracle = connect(stub, cache=cache)
    one, other = (oracle.score([Candidate()], items, CLASSES)[0] for _ in range(2))
    assert torch.equal(one.nan_to_num(5), other.nan_to_num(5))
    made = len(stub.asked)
    assert len({asked.identity for asked in stub.asked[-20:]}) == 20
    stub.says = lambda text: None
    healed = connect(stub, cache=cache).score([Candidate()], items, CLASSES)[0]
    assert is_answered(healed).all()
    assert len(stub.asked) == made + 1


def test_thinking_before_the_answer_is_not_the_answer(stub_server, connect, text_split):
    def says(text: str) -> dict[str, Any]:
        label = "hot" if "fire" in text else "cold"
        return {"content": f"<think>Not {'cold' if label == 'hot' else 'hot'}, I think.</think>\n{label}."}

    stub = stub_server(**CHAT, says=says)
    found = connect(stub, choice_tokens=300).score([Candidate()], text_split(*texts(6)).items, CLASSES)[0]
    assert found.argmax(-1).tolist() == [0, 1] * 3
    assert {asked.body["max_tokens"] for asked in stub.asked[-6:]} == {300}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>a</think>b", "b"),
        ("a</think> b", "b"),
        ("<think>a", ""),
        ("b", "b"),
        ("b <Thinking>c", "b"),
        ("<think>a</think><think>b</think>", ""),
        ("1 < 2 > 0", "1 < 2 > 0"),
    ],
)
def test_spoken_is_what_is_not_thought(text, left):
    assert spoken(text) == left


def test_what_an_answer_of_no_use_looks_like_is_cut():
    assert len(why_nothing({"text": "x" * 5000})) < 100


# ------------------------------------------------------------------------------------------- texts that are refused

REFUSALS = [
    (400, "The response was filtered due to the prompt triggering content management policy"),
    (400, "This model's maximum context length is 100 tokens. However, you requested 300 tokens"),
    (413, "Payload Too Large"),
    (422, "Input is too long"),
    (403, "Your input was flagged by moderation"),
]


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("server", [{}, CHAT])
def test_a_refused_text_is_named_and_left_out_and_the_run_goes_on(
    stub_server, connect, text_split, caplog, refusal, server
):
    stub = stub_server(**server, refuses=lambda text: refusal if "awful" in text else None)
    oracle = connect(stub)
    lines = [*texts(10), "cold: awful\x1b[31m ice", *texts(10)[::-1]]
    with caplog.at_level("WARNING", "promptfed"):
        found = oracle.score([Candidate(), Candidate("so")], text_split(*lines).items, CLASSES)
    assert (~is_answered(found)).nonzero().tolist() == [[0, 10], [1, 10]]
    assert oracle.usage().oracle_unanswered == 2
    [message] = [line for line in caplog.messages if line.startswith("left out")]
    assert "awful\\x1b[31m ice" in message
    assert refusal[1][:20] in message
    left = oracle.tally.recorded()["left_out"]
    assert (left["examples"], left["of"]) == (1, 11)
    assert left["named"][0]["example"] == "awful\\x1b[31m ice"
    oracle.tally.check()


@pytest.mark.parametrize("status", [401, 403, 404, 451])
def test_a_refusal_of_everybody_still_ends_the_run(stub_server, connect, text_split, status):
    stub = stub_server(refuses=lambda text: (status, "no access") if "fire 7" in text else None)
    with pytest.raises(OracleError, match=str(status)):
        connect(stub).score([Candidate()], text_split(*texts(20)).items, CLASSES)


def test_more_than_the_share_of_refused_texts_ends_the_run_with_one_of_them(stub_server, connect, text_split):
    stub = stub_server(refuses=lambda text: (400, "too long") if "fire" in text else None)
    oracle = connect(stub)
    with pytest.raises(
        OracleError,
        match=r"11 of \d+ examples are refused.*'fire \d+': refused \(status 400\): Error code: 400 - too l",
    ):
        oracle.score([Candidate()], text_split(*texts(120)).items, CLASSES)
    calm = connect(stub, most_left_out=0.6)
    calm.score([Candidate()], text_split(*texts(120)).items, CLASSES)
    calm.tally.check()


@pytest.mark.slow
def test_a_prompt_gains_nothing_by_texts_that_are_left_out(stub_server, connect, text_split):
    """Many prompts on few texts: refused ones count once as examples, and cost nothing."""
    stub = stub_server(refuses=lambda text: (400, "filtered") if "fire 1" in text else None)
    oracle = connect(stub)
    prompts = [Candidate(f"p{k}") for k in range(40)]
    found = oracle.score(prompts, text_split(*texts(10)).items, CLASSES)
    assert (~is_answered(found)).sum() == 40
    assert oracle.usage().oracle_calls == 1 + 40 * 9
    oracle.tally.check()
