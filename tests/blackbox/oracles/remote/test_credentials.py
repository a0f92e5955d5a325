"""A key is read from the environment and is in nothing that is said, whatever the server says."""

from __future__ import annotations

import traceback

import pytest

from promptfed.blackbox.oracle_factory import load_oracle
from promptfed.blackbox.oracles.cache import AnswerCache
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.oracles.remote.credentials import NO_KEY, Key, read_key
from promptfed.errors import OracleError
from promptfed.oracle_options import OracleOptions
from promptfed.prompt_template import PromptTemplate

SECRET = "gsk_4f9ab7c2e1d8"


def test_where_a_key_comes_from(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("MY_KEY", f" {SECRET}\n")
    assert read_key(OracleOptions()).value == NO_KEY
    assert read_key(OracleOptions(api_key_env="MY_KEY")).value == SECRET
    monkeypatch.setenv("OPENAI_API_KEY", "another-one")
    assert read_key(OracleOptions(base_url="https://api.openai.com/v1")).value == "another-one"
    for address in (
        "http://api.openai.com/v1",
        "https://api.openai.com.example/v1",
        "http://127.0.0.1:1/v1",
        None,
    ):
        assert read_key(OracleOptions(base_url=address)).value == NO_KEY
    assert read_key(OracleOptions(api_key_env="MY_KEY")).value == SECRET
    with pytest.raises(OracleError, match="environment variable OTHER_KEY is not set"):
        read_key(OracleOptions(api_key_env="OTHER_KEY"))
    with pytest.raises(OracleError) as caught:  # a key where its variable's name belongs
        read_key(OracleOptions(api_key_env=SECRET))
    assert SECRET not in str(caught.value)


def test_what_is_cut_out():
    key = Key(SECRET, True)
    assert SECRET not in repr(key)
    said = key.scrubbed(f"bad key {SECRET}, header 'Bearer other-token' at https://me:pw@host/v1")
    assert said == "bad key [key], header 'Bearer [key]' at https://[...]@host/v1"
    assert key.kept_out(f"hot {SECRET} Bearer x") == "hot [key] Bearer x"
    assert Key(NO_KEY, False).kept_out("there is no-key here") == "there is no-key here"


@pytest.mark.parametrize("fault", ["401", "500", "429", "400", "truncated"])
def test_no_error_holds_the_key_in_any_of_its_causes(stub_server, text_split, monkeypatch, fault):
    monkeypatch.setenv("MY_KEY", SECRET)
    stub = stub_server(fault=lambda number, body: fault)
    options = OracleOptions(base_url=stub.base_url, model="toy-1", api_key_env="MY_KEY", retries=1, backoff_seconds=0.0)
    oracle = load_oracle("api", PromptTemplate(), options, cache=AnswerCache(None))
    with pytest.raises(OracleError) as caught:
        oracle.score([Candidate()], text_split("hot: a").items, ("cold", "hot"))
    assert stub.asked[0].authorization == f"Bearer {SECRET}"
    error: BaseException | None = caught.value
    assert SECRET not in "".join(traceback.format_exception(error))
    while error is not None:
        assert SECRET not in f"{error} {error!r} {vars(error)}"
        error = error.__cause__ or error.__context__


def test_a_key_that_the_model_repeats_is_not_kept(stub_server, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", SECRET)
    stub = stub_server(vocabulary=(f" {SECRET}",))
    options = OracleOptions(base_url=stub.base_url, model="toy-1", api_key_env="MY_KEY")
    oracle = load_oracle("api", PromptTemplate(), options, cache=AnswerCache(tmp_path / "answers.sqlite"))
    [said] = oracle.generate(["Say it again"], max_tokens=2)
    assert said == " [key]"
    assert all(SECRET.encode() not in path.read_bytes() for path in tmp_path.iterdir())
