"""Options of an oracle: where it is, what it may cost, how fast it may be asked."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from promptfed.blackbox.oracles.budget import Limits


class OracleOptions(BaseModel):
    """``--set oracle.NAME=VALUE`` on the command line; some have flags of their own. A key is never an option: only the
    name of the environment variable that holds it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str | None = Field(None, description="of an OpenAI-compatible server, such as http://127.0.0.1:8080/v1")
    model: str | None = Field(None, description="the model's name on that server")
    api_key_env: str | None = Field(
        None, description="environment variable that holds the API key; by default the usual one of a known provider"
    )
    served_model: str | None = Field(
        None, description="the name that the server answers with, where it is another one than that asked for"
    )
    mode: Literal["auto", "completions", "chat"] = Field(
        "auto", description="endpoint; auto: completions, or chat where there are none (instruction-tuned: say chat)"
    )
    scoring: Literal["auto", "logprobs", "echo", "choice"] = Field(
        "auto", description="how labels are scored; auto: the best that the server is found to give"
    )
    top_logprobs: int | None = Field(
        None, ge=1, description="log-probabilities asked for at a position; by default as many as the labels need"
    )
    concurrency: int = Field(8, ge=1, description="requests under way at once")
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)
    timeout_seconds: float = Field(60, gt=0, description="of one request")
    retries: int = Field(6, ge=0, description="of a request that failed in a way that may heal")
    backoff_seconds: float = Field(
        0.5, ge=0, le=60, description="before the first retry, doubled for each further one up to 30 s, with jitter"
    )
    retry_after_seconds: float = Field(120, ge=0, description="longest wait that a server's Retry-After is granted")
    usd_per_million_prompt_tokens: float = Field(0, ge=0)
    usd_per_million_completion_tokens: float = Field(0, ge=0)
    max_calls: int | None = Field(None, ge=0, description="requests that the run may make, cache hits not counted")
    max_tokens: int | None = Field(None, ge=0, description="tokens that the run may use")
    max_usd: float | None = Field(None, ge=0, description="what the run may cost")
    soft_dim: int | None = Field(None, ge=1, description="of embeds: the model's hidden size")
    soft_std: float = Field(0.02, gt=0, description="of embeds: standard deviation of its token embeddings")
    embeddings: str | None = Field(
        None, description="of embeds: a local model folder with the same tokenizer and embedding table"
    )
    side: Literal["label", "text"] = Field("label", description="of minilm: what a prompt stands before")
    rows: int = Field(32, ge=1, description="of local models: queries in one batch")
    choice_tokens: int | None = Field(
        None, ge=1, description="most tokens of an answer that names a label; models that think first need hundreds"
    )
    most_unanswered: float = Field(
        0.1, ge=0, le=1, description="share of answers that may say nothing of use before the run ends"
    )
    most_left_out: float = Field(
        0.25, ge=0, le=1, description="share of examples that the black box may refuse before the run ends"
    )
    cache: bool = Field(
        True, description="keep answers on disk, so that no question is paid for twice, by a resumed run neither"
    )

    @property
    def limits(self) -> Limits:
        return Limits(calls=self.max_calls, tokens=self.max_tokens, usd=self.max_usd)
