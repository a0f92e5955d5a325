"""Options of an oracle: where it is, what it may cost, how fast it may be asked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from promptfed.option import Option


class OracleOptions(BaseModel):
    """``--set oracle.NAME=VALUE`` on the command line; some have flags of their own.

    A key is never an option: only the name of the environment variable that holds it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: Annotated[str | None, Option("oracle", "moved", metavar="URL", in_bundle=True)] = Field(
        None, description="address of an OpenAI-compatible server, such as http://127.0.0.1:8080/v1"
    )
    model: Annotated[str | None, Option("oracle", in_bundle=True)] = Field(
        None, description="the model's name on that server"
    )
    api_key_env: Annotated[str | None, Option("oracle", "free", default="that of a known provider", metavar="NAME")] = (
        Field(None, description="environment variable that holds the API key")
    )
    served_model: Annotated[str | None, Option("oracle", flag=False, in_bundle=True)] = Field(
        None, description="the name that the server answers with, where it is another one than that asked for"
    )
    mode: Annotated[Literal["auto", "completions", "chat"], Option("oracle", flag=False, in_bundle=True)] = Field(
        "auto", description="endpoint; auto: completions, or chat where there are none (instruction-tuned: say chat)"
    )
    scoring: Annotated[Literal["auto", "logprobs", "echo", "choice"], Option("oracle", flag=False, in_bundle=True)] = (
        Field("auto", description="how labels are scored; auto: the best that the server is found to give")
    )
    top_logprobs: Annotated[
        int | None, Option("oracle", default="as many as the labels need", flag=False, in_bundle=True)
    ] = Field(None, ge=1, description="log-probabilities asked for at a position")
    concurrency: Annotated[int, Option("oracle", "free", flag=False)] = Field(
        8, ge=1, description="requests under way at once"
    )
    requests_per_minute: Annotated[float | None, Option("oracle", "free", default="no limit", flag=False)] = Field(
        None, gt=0, description="most requests in a minute"
    )
    tokens_per_minute: Annotated[float | None, Option("oracle", "free", default="no limit", flag=False)] = Field(
        None, gt=0, description="most tokens in a minute"
    )
    timeout_seconds: Annotated[float, Option("oracle", "free", flag=False)] = Field(
        60, gt=0, description="longest wait for one answer"
    )
    retries: Annotated[int, Option("oracle", "free", flag=False)] = Field(
        6, ge=0, description="further tries of a request that failed in a way that may heal"
    )
    backoff_seconds: Annotated[float, Option("oracle", "free", flag=False)] = Field(
        0.5,
        ge=0,
        le=60,
        description="wait before the first retry, doubled each time up to 30 s, with jitter",
    )
    retry_after_seconds: Annotated[float, Option("oracle", "free", flag=False)] = Field(
        120, ge=0, description="longest wait that a server's Retry-After is granted"
    )
    usd_per_million_prompt_tokens: Annotated[float, Option("oracle", flag=False, in_bundle=True)] = Field(
        0, ge=0, description="price of what is sent"
    )
    usd_per_million_completion_tokens: Annotated[float, Option("oracle", flag=False, in_bundle=True)] = Field(
        0, ge=0, description="price of what is answered"
    )
    max_calls: Annotated[int | None, Option("oracle", "free", default="no limit", metavar="N")] = Field(
        None, ge=0, description="requests that the run may make, cache hits not counted"
    )
    max_tokens: Annotated[int | None, Option("oracle", "free", default="no limit", metavar="N")] = Field(
        None, ge=0, description="tokens that the run may use"
    )
    max_usd: Annotated[float | None, Option("oracle", "free", default="no limit", metavar="USD")] = Field(
        None, ge=0, description="what the run may cost"
    )
    soft_dim: Annotated[int | None, Option("oracle", flag=False, in_bundle=True)] = Field(
        None, ge=1, description="of embeds: the model's hidden size"
    )
    soft_std: Annotated[float, Option("oracle", flag=False, in_bundle=True)] = Field(
        0.02, gt=0, description="of embeds: standard deviation of its token embeddings"
    )
    embeddings: Annotated[str | None, Option("oracle", flag=False)] = Field(
        None, description="of embeds: a local model folder with the same tokenizer and embedding table"
    )
    side: Annotated[Literal["label", "text"], Option("oracle", flag=False, in_bundle=True)] = Field(
        "label", description="of minilm: what a prompt stands before"
    )
    rows: Annotated[int, Option("oracle", flag=False)] = Field(
        32, ge=1, description="of local models: queries in one batch"
    )
    choice_tokens: Annotated[int | None, Option("oracle", flag=False, in_bundle=True)] = Field(
        None, ge=1, description="most tokens of an answer that names a label; models that think first need hundreds"
    )
    prompt_cache: Annotated[Literal["server", "on", "off"], Option("oracle", flag=False, in_bundle=True)] = Field(
        "server",
        description="of api with llama.cpp: whether tokens that requests share are computed once (cache_prompt); "
        "server: as the server likes",
    )
    most_unanswered: Annotated[float, Option("oracle", "free", flag=False)] = Field(
        0.1, ge=0, le=1, description="share of answers that may say nothing of use before the run ends"
    )
    most_left_out: Annotated[float, Option("oracle", "free", flag=False)] = Field(
        0.25, ge=0, le=1, description="share of examples that the black box may refuse before the run ends"
    )
    cache: Annotated[bool, Option("oracle", flag=False)] = Field(
        True, description="keep answers on disk, so that no question is paid for twice, also when a run goes on"
    )
