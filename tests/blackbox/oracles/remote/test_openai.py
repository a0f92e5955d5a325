"""Scores from a server: the right ones, in every layout that servers have, and however often a request fails."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from promptfed.blackbox.oracle_factory import load_oracle
from promptfed.blackbox.oracles.budget import Limits
from promptfed.blackbox.oracles.cache import AnswerCache
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.errors import BudgetExhausted, ConfigError, OracleError
from promptfed.oracle_options import OracleOptions
from promptfed.prompt_template import PromptTemplate

CLASSES = ("cold", "hot")
TEXTS = [f"hot: {words}" for words in ("fire lava", "the fire", "ice", "snow ice ice", "mild", "lava ice fire a")]
PROMPTS = [Candidate(), Candidate("fire"), Candidate("so much snow")]
FORM = PromptTemplate(template="{{ prompt }} {{ text }}\nIt is")


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Oracle]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def make(stub: Any, form: PromptTemplate = FORM, cache: AnswerCache | None = None, **options: Any) -> Oracle:
        known = {"base_url": stub.base_url, "model": "toy-1", "backoff_seconds": 0.002, "concurrency": 4, **options}
        return load_oracle("api", form, OracleOptions(**known), cache=cache or AnswerCache(None))

    return make


def expected(stub: Any, text: str, form: PromptTemplate = FORM) -> list[float]:
    found = stub.log_probs(form.render("", text))
    return [found[" cold"], found[" hot"]]


def test_scores_are_the_labels_log_probabilities(stub_server, connect, text_split):
    stub = stub_server()
    split = text_split(*TEXTS)
    oracle = connect(stub)
    found = oracle.score(PROMPTS, split.items, CLASSES)
    wanted = [
        [[stub.log_probs(FORM.render(p.text, i.text))[w] for w in (" cold", " hot")] for i in split.items]
        for p in PROMPTS
    ]
    assert torch.allclose(found, torch.tensor(wanted), atol=1e-5)
    assert oracle.usage().oracle_calls == len(stub.asked) == stub.count("answered") == 18 + 1
    assert oracle.usage().labels_floored == 0


@pytest.mark.parametrize(
    ("server", "scoring"),
    [
        ({"layout": "chat"}, "logprobs"),
        ({"has_echo": False}, "logprobs"),
        ({"most_top": 5}, "logprobs"),
        ({"most_top": 5, "caps_top": True}, "logprobs"),
        ({"has_completions": False}, "logprobs"),
        ({"has_logprobs": False}, "choice"),
        ({"has_logprobs": False, "has_completions": False}, "choice"),
        ({"most_top": 1}, "echo"),
        ({"most_top": 1, "caps_top": True}, "echo"),
        ({"most_top": 1, "has_echo": False}, "choice"),
    ],
)
def test_the_probe_finds_the_best_way(stub_server, connect, text_split, server, scoring):
    stub = stub_server(**server)
    oracle = connect(stub)
    split = text_split(*TEXTS)
    found = oracle.score([Candidate()], split.items, CLASSES)[0]
    assert f'"scoring": "{scoring}"' in oracle.backend._probe_results[CLASSES]
    right = [math.copysign(1, hot - cold) for cold, hot in (expected(stub, item.text) for item in split.items)]
    if scoring == "choice":
        assert set(found.flatten().tolist()) <= {0.0, 1.0}
    else:
        assert torch.allclose(found, torch.tensor([expected(stub, item.text) for item in split.items]), atol=1e-5)
        assert (found[:, 1] - found[:, 0]).sign().tolist() == pytest.approx([r if r else 0 for r in right], abs=1)
    assert oracle.usage().oracle_calls == stub.count("answered")


def test_labels_of_several_tokens_count_by_their_first_where_it_is_their_own(stub_server, connect, text_split):
    form = FORM.model_copy(update={"words": {"cold": "chilly", "hot": "scorching"}})
    stub = stub_server(vocabulary=(" ch", " sc", " hot", " a"), most_top=3)
    oracle = connect(stub, form)
    oracle.score([Candidate()], text_split(*TEXTS).items, CLASSES)
    assert '"first": [" ch", " sc"]' in oracle.backend._probe_results[("chilly", "scorching")]


def test_labels_that_begin_alike_are_scored_whole(stub_server, connect, text_split):
    form = FORM.model_copy(update={"words": {"cold": "scalding", "hot": "scorching"}})
    stub = stub_server()
    oracle = connect(stub, form)
    split = text_split("hot: fire")
    [[[one, other]]] = oracle.score([Candidate()], split.items, CLASSES).tolist()
    assert '"scoring": "echo"' in oracle.backend._probe_results[("scalding", "scorching")]
    before, total = FORM.render("", "fire"), 0.0
    for token in (" sc", "orc", "hin", "g"):
        total += stub.log_probs(before).get(token) or -4.0 - __import__("stub_server")._share(before + token)
        before += token
    assert other == pytest.approx(total, abs=1e-5)
    assert one != other


def test_missing_labels_get_a_floor_and_are_counted(stub_server, connect, text_split, caplog):
    stub = stub_server(most_top=2)
    oracle = connect(stub)
    split = text_split(*[f"hot: fire lava {'fire ' * k}" for k in range(60)])
    with caplog.at_level("WARNING", "promptfed"):
        found = oracle.score([Candidate()], split.items, CLASSES)[0]
    floored = [sorted(stub.log_probs(FORM.render("", i.text)).values())[-2] - 1 for i in split.items]
    assert oracle.usage().labels_floored > 30
    assert found[-1, 0].item() == pytest.approx(floored[-1], abs=1e-5)
    assert sum("set to a floor" in line for line in caplog.messages) == 1


HEALING = ["429", "429 0", "500", "503", "408", "truncated", "no logprobs", "nan logprobs", "reset", "drip", "silent"]


@pytest.mark.parametrize("fault", [*HEALING, "no usage", "mixed"])
def test_faults_that_heal_change_nothing_and_are_counted_once(stub_server, connect, text_split, fault):
    split = text_split(*TEXTS)
    calm = stub_server()
    wanted = connect(calm).score(PROMPTS, split.items, CLASSES)

    def often(number: int, body: dict[str, Any]) -> str:
        if fault == "no usage":
            return fault
        return (HEALING[number % 8] if fault == "mixed" else fault) if number % 3 else ""

    stub = stub_server(fault=often)
    slow = {"timeout_seconds": 0.15} if fault in ("drip", "silent") else {}
    oracle = connect(stub, retries=20, **slow)
    assert torch.equal(oracle.score(PROMPTS, split.items, CLASSES), wanted)
    used = oracle.usage()
    assert used.oracle_calls == stub.count("answered", "lost")
    assert used.oracle_retries == len(stub.asked) - len(calm.asked)
    assert oracle.budget.under_way == 0
    assert used.prompt_tokens > 0
    assert oracle.ledger.total() == used


@pytest.mark.parametrize(("fault", "says"), [("401", "status 401"), ("404", "404"), ("wrong model", "other-9")])
def test_faults_that_do_not_heal_stop_at_once(stub_server, connect, text_split, fault, says):
    stub = stub_server(fault=lambda number, body: fault if number == 7 else "")
    oracle = connect(stub, concurrency=1)
    with pytest.raises(OracleError, match=says):
        oracle.score(PROMPTS, text_split(*TEXTS).items, CLASSES)
    assert len(stub.asked) == 7
    assert oracle.usage().oracle_calls == stub.count("answered")
    stub.fault = lambda number, body: ""
    oracle.score(PROMPTS, text_split(*TEXTS).items, CLASSES)
    assert len(stub.asked) == 18 + 1 + 1  # every question once, the one that failed once more


def test_a_server_that_never_recovers_is_given_up(stub_server, connect, text_split):
    stub = stub_server(fault=lambda number, body: "503" if number > 3 else "")
    oracle = connect(stub, concurrency=1, retries=3)
    with pytest.raises(OracleError, match=r"status 503.*after 4 attempts"):
        oracle.score(PROMPTS, text_split(*TEXTS).items, CLASSES)
    assert len(stub.asked) == 3 + 4
    assert (oracle.usage().oracle_calls, oracle.usage().oracle_retries) == (3, 3)


def test_a_server_that_changed_is_probed_anew_by_the_next_run(stub_server, connect, text_split, tmp_path):
    stub = stub_server()
    cache = AnswerCache(tmp_path / "answers.sqlite")
    connect(stub, cache=cache).score([Candidate()], text_split("hot: fire").items, CLASSES)
    stub.has_logprobs = False
    with pytest.raises(OracleError, match="no log-probabilities"):
        connect(stub, cache=cache, retries=1).score([Candidate()], text_split("hot: ice").items, CLASSES)
    again = connect(stub, cache=cache)
    again.score([Candidate()], text_split("hot: ice").items, CLASSES)
    assert '"choice"' in again.backend._probe_results[CLASSES]


def test_nothing_is_asked_when_all_is_known(stub_server, connect, text_split, tmp_path):
    stub = stub_server()
    split = text_split(*TEXTS)
    first = connect(stub, cache=AnswerCache(tmp_path / "answers.sqlite")).score(PROMPTS, split.items, CLASSES)
    stub.reset()
    oracle = connect(stub, cache=AnswerCache(tmp_path / "answers.sqlite"))
    assert torch.equal(oracle.score(PROMPTS, split.items, CLASSES), first)
    assert stub.asked == []
    assert oracle.usage().oracle_calls == 0
    assert oracle.backend._loop is None  # not even a thread


@pytest.mark.parametrize("limit", [{"max_calls": 9}, {"max_tokens": 300}, {"max_usd": 0.0003}])
def test_a_hard_stop_is_never_overshot_by_requests_side_by_side(stub_server, connect, text_split, limit):
    stub = stub_server(slow=0.005, fault=lambda number, body: "truncated" if number % 4 == 0 else "")
    oracle = connect(stub, concurrency=8, usd_per_million_prompt_tokens=1, usd_per_million_completion_tokens=2, **limit)
    split = text_split(*[f"hot: fire x{k}" for k in range(60)])
    with pytest.raises(BudgetExhausted, match=r"is used up"):
        oracle.score([Candidate()], split.items, CLASSES)
    used, most = oracle.usage(), Limits(**{k.removeprefix("max_"): v for k, v in limit.items()})
    assert used.oracle_calls == stub.count("answered")
    if most.calls is not None:
        assert used.oracle_calls == most.calls
    if most.tokens is not None:
        assert most.tokens - 60 < used.prompt_tokens + used.completion_tokens <= most.tokens
    if most.usd is not None:
        assert most.usd - 0.00006 < used.usd <= most.usd
    assert oracle.budget.under_way == 0


def test_after_the_stop_no_question_is_paid_for_twice(stub_server, connect, text_split, tmp_path):
    stub = stub_server(slow=0.002)
    split = text_split(*[f"hot: fire x{k}" for k in range(40)])
    cache = AnswerCache(tmp_path / "answers.sqlite")
    with pytest.raises(BudgetExhausted):
        connect(stub, cache=cache, max_calls=13).score([Candidate()], split.items, CLASSES)
    connect(stub, cache=cache).score([Candidate()], split.items, CLASSES)
    identities = [asked.identity for asked in stub.asked]
    assert len(identities) == len(set(identities)) == 41


def test_a_label_that_was_half_scored_by_echoes_is_not_paid_for_twice(stub_server, connect, text_split, tmp_path):
    stub = stub_server()
    cache = AnswerCache(tmp_path / "answers.sqlite")
    items = text_split(*TEXTS).items
    with pytest.raises(BudgetExhausted):
        connect(stub, cache=cache, scoring="echo", concurrency=1, max_calls=5).score([Candidate()], items, CLASSES)
    connect(stub, cache=cache, scoring="echo").score([Candidate()], items, CLASSES)
    identities = [asked.identity for asked in stub.asked[2:]]  # after the probe
    assert len(identities) == len(set(identities)) == 12


@pytest.fixture
def ctrl_c():
    """A shell's background jobs ignore it."""
    import signal

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_keeps_what_is_under_way(stub_server, connect, text_split, tmp_path, ctrl_c):
    import signal

    stub = stub_server(slow=0.03)
    stub.on_request = lambda number: signal.raise_signal(signal.SIGINT) if number == 10 else None
    split = text_split(*[f"hot: fire x{k}" for k in range(40)])
    cache = AnswerCache(tmp_path / "answers.sqlite")
    oracle = connect(stub, cache=cache)
    with pytest.raises(KeyboardInterrupt):
        oracle.score([Candidate()], split.items, CLASSES)
    assert 9 < len(stub.asked) < 41
    assert oracle.usage().oracle_calls == stub.count("answered") == len(stub.asked)
    connect(stub, cache=cache).score([Candidate()], split.items, CLASSES)
    identities = [asked.identity for asked in stub.asked]
    assert len(identities) == len(set(identities)) == 41


def test_requests_side_by_side_are_bounded(stub_server, connect, text_split):
    import threading

    now, most, lock = 0, 0, threading.Lock()
    stub = stub_server(slow=0.01)
    inner = stub.log_probs

    def counting(text: str) -> Any:
        return inner(text)

    stub.log_probs = counting

    def begun(number: int) -> None:
        nonlocal now, most
        with lock:
            now = number - stub.count("answered")
            most = max(most, now)

    stub.on_request = begun
    connect(stub, concurrency=3).score([Candidate()], text_split(*[f"hot: x{k}" for k in range(30)]).items, CLASSES)
    assert 1 < most <= 3


def test_the_rate_is_kept(stub_server, connect, text_split):
    import time

    stub = stub_server()
    oracle = connect(stub, requests_per_minute=1200, concurrency=8)  # 20 a second, 100 at once
    items = text_split(*[f"hot: x{k}" for k in range(110)]).items
    began = time.monotonic()
    oracle.score([Candidate()], items, CLASSES)
    assert time.monotonic() - began > 0.45


def test_text_is_generated_and_proposed(stub_server, connect):
    stub = stub_server()
    oracle = connect(stub)
    assert oracle.generate(["The fire and lava is"], max_tokens=3) == [" hot"]
    assert oracle.propose("The fire is", "", 3)[0] == "hot"
    chat = connect(stub_server(has_completions=False))
    assert chat.generate(["The ice is"], max_tokens=3) == ["cold"]
    assert len(stub.asked) == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"base_url": None}, "--base-url is missing"),
        ({"base_url": "http://me:secret@127.0.0.1/v1"}, "no user, password"),
        ({"base_url": "http://127.0.0.1/v1?key=secret"}, "no user, password"),
        ({"base_url": "ftp://127.0.0.1"}, "ftp"),
        ({"base_url": "http://127.0.0.1:secret/v1"}, "not an address"),
        ({"api_key_env": "sk-secret-1234567890"}, "NAME of an environment variable"),
        ({"api_key_env": "secret_not_set"}, "is not set"),
        ({"model": None}, "--model"),
    ],
)
def test_options_that_cannot_work_are_refused_without_repeating_secrets(connect, options, says):
    class Nowhere:
        base_url = "http://127.0.0.1:9/v1"

    with pytest.raises(ConfigError, match=says) as caught:
        connect(Nowhere(), **options)
    assert "secret" not in str(caught.value)


def test_a_model_that_is_not_there_is_refused_with_those_that_are(stub_server, connect, text_split):
    with pytest.raises(OracleError, match=r"no model 'toy-2', but toy-1"):
        connect(stub_server(), model="toy-2").score([Candidate()], text_split("hot: a").items, CLASSES)


def test_scoring_that_the_server_does_not_have_is_refused(stub_server, connect, text_split):
    oracle = connect(stub_server(has_logprobs=False), scoring="logprobs")
    with pytest.raises(OracleError, match=r"no log-probabilities.*oracle.scoring=choice"):
        oracle.score([Candidate()], text_split("hot: a").items, CLASSES)


def test_a_server_that_is_not_there_is_said_so(connect, text_split):
    class Nowhere:
        base_url = "http://127.0.0.1:9/v1"

    oracle = connect(Nowhere(), retries=20)
    with pytest.raises(OracleError, match=r"127.0.0.1:9/v1: .*cannot be reached.*\(after 3 attempts\): is it running"):
        oracle.score([Candidate()], text_split("hot: a").items, CLASSES)
    assert oracle.usage().oracle_calls == 0
