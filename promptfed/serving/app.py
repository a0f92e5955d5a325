"""The HTTP interface: classify, bundle, health, and a page that describes it without any other server."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from importlib.metadata import version
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from promptfed.errors import BudgetExhausted, ConfigError, DataError, OracleError, PromptFedError
from promptfed.export.predict import Prediction, check_threshold, checked_classes
from promptfed.printable import printable
from promptfed.serving.asked import Asked, read_request, refused
from promptfed.serving.batching import QueueFullError
from promptfed.serving.gate import HEADERS, Gate
from promptfed.serving.page import docs_page
from promptfed.serving.service import Service


class Share(BaseModel):
    """A class and its probability."""

    name: str = Field(serialization_alias="class")
    probability: float


class Answer(BaseModel):
    """What is said of one example: its classes, or why there is no answer."""

    name: str = Field(description="the file's name, or the place in the request such as texts[0]")
    best: str | None = Field(default=None, description="the most probable class; null if it is none of these")
    none_of_these: bool = Field(default=False, description="whether the best class is below the threshold")
    ranked: list[Share] = Field(default_factory=list, description="the most probable classes, best first")
    error: str | None = None


class Answers(BaseModel):
    """The answers to one request, in the order of its examples."""

    bundle: str
    results: list[Answer]


class Health(BaseModel):
    """Whether the server works, and with what."""

    status: Literal["ok"] = "ok"
    model: str
    fingerprint: str
    version: str
    bundles: dict[str, str] = Field(description="name of a bundle -> SHA-256 of its config")
    waiting: int = Field(description="examples in the queue")


class BundleFacts(BaseModel):
    """What a bundle says of itself."""

    name: str
    sha256: str
    method: str
    examples: Literal["images", "texts", "questions"]
    classes: list[str]
    model: str
    rounds: int
    promptfed_version: str
    whose: str | None = Field(default=None, description="a client's own prompt, or the one that all share")
    data: str | None = None
    accuracy: dict[str, float] = Field(default_factory=dict, description="test accuracy in its run, 0 to 1")
    below_zero_shot: list[str] = Field(default_factory=list)
    privacy: list[str] = Field(default_factory=list, description="what its run promises those who hold the data")


class Problem(BaseModel):
    """An error, in one line."""

    error: str


OPTIONS: dict[str, Any] = {
    "bundle": {"type": "string", "description": "which bundle, where several are served"},
    "classes": {"type": "array", "items": {"type": "string"}, "description": "classes to choose among [the bundle's]"},
    "top": {"type": "integer", "minimum": 1, "default": 3},
    "threshold": {"type": "number", "minimum": 0, "maximum": 1, "description": "below it: none of these"},
}
FILE = {"type": "string", "format": "binary"}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"files": {"type": "array", "items": FILE}, **OPTIONS}}
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "images": {"type": "array", "items": {"type": "string", "format": "byte"}},
                        "texts": {"type": "array", "items": {"type": "string"}},
                        **OPTIONS,
                    },
                }
            },
        },
    }
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": words}
    for status, words in (
        (400, "damaged"), (401, "no token"), (408, "too slow"), (413, "too large"), (415, "of another kind"),
        (422, "a field is wrong, or no example could be read"), (429, "too many requests"),
        (502, "the black box does not answer"), (503, "the queue is full"), (504, "the answer takes too long"),
    )
}  # fmt: skip


def make_app(service: Service, *, token: str | None = None, hosts: frozenset[str] = frozenset()) -> FastAPI:
    """Return the application around ``service``.

    Args:
        service: The bundles with their model.
        token: What requests must carry.
        hosts: Names that the server is called by; empty: any.
    """
    app = FastAPI(
        title="promptfed",
        version=version("promptfed"),
        description="Classes of images or texts, by prompts that were learned by federated learning.",
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Gate, limits=service.limits, token=token, hosts=hosts)
    app.add_exception_handler(HTTPException, _problem)
    app.add_exception_handler(RequestValidationError, _problem)

    async def classify(request: Request) -> JSONResponse:
        try:
            asked = await asyncio.wait_for(read_request(request, service.limits), service.limits.read_seconds)
        except TimeoutError as error:
            raise refused(408, "the request took too long to arrive") from error
        try:
            status, answers = await _answers(service, asked)
        except (PromptFedError, HTTPException) as error:
            raise _as_http(error) from error
        except Exception as error:  # never with a value of the request in it
            raise refused(500, f"a fault of promptfed's: {type(error).__name__}") from error
        return _json(answers.model_dump(by_alias=True, exclude_none=False), status)

    async def health() -> JSONResponse:
        model = service.model
        facts = Health(
            model=printable(model.name),
            fingerprint=model.fingerprint,
            version=version("promptfed"),
            bundles=service.digests,
            waiting=service.batcher.waiting,
        )
        return _json(facts.model_dump())

    async def bundle(name: str = "") -> JSONResponse:
        return _json(_facts(service, _named(service, name)).model_dump())

    async def docs() -> HTMLResponse:
        page, policy = docs_page(service)
        return HTMLResponse(page, headers={**HEADERS, "content-security-policy": policy})

    async def home() -> RedirectResponse:
        return RedirectResponse("/docs")

    app.add_api_route(
        "/v1/classify", classify, methods=["POST"], response_model=Answers, responses=PROBLEMS, openapi_extra=BODY,
        summary="Classify images or texts",
        description="Files of a form, or JSON with images (base64) or texts. One that cannot be read costs its own "
        "answer alone; if none can be read, the status is 422.",
    )  # fmt: skip
    app.add_api_route("/v1/bundle", bundle, response_model=BundleFacts, summary="What a bundle says of itself")
    app.add_api_route("/health", health, response_model=Health, summary="Whether the server works")
    app.add_api_route("/docs", docs, include_in_schema=False)
    app.add_api_route("/", home, include_in_schema=False)
    return app


def _named(service: Service, name: str) -> str:
    """Return the name of a bundle that is served; of the first for none. Raise HTTPException for an unknown one."""
    if name and name not in service.bundles:
        raise refused(404, f"there is no bundle '{printable(name, 200)}'; this server has {', '.join(service.bundles)}")
    return name or service.first


async def _answers(service: Service, asked: Asked) -> tuple[int, Answers]:
    """Return status and answers. Raise PromptFedError or HTTPException if there are none."""
    bundle = _named(service, asked.bundle)
    meta = service.bundles[bundle].meta
    check_threshold(asked.threshold, meta.examples)
    checked_classes(meta.classes if asked.classes is None else asked.classes, asked.top)
    classes = None if asked.classes is None or asked.classes == meta.classes else asked.classes
    if bool(asked.images) != (meta.examples == "images"):
        raise refused(422, f"bundle '{bundle}' is for {meta.examples}: send those")
    answers, examples = await _examples(service, asked)
    if examples:
        future: Future[list[Prediction]] = service.submit(bundle, classes, list(examples.values()))
        try:
            predictions = await asyncio.wait_for(asyncio.wrap_future(future), service.limits.answer_seconds)
        except TimeoutError as error:
            raise refused(504, "the answer takes too long: try again later") from error
        for place, prediction in zip(examples, predictions, strict=True):
            answers[place] = _answer(answers[place].name, prediction.cut(asked.top, asked.threshold))
    has_any = any(answer.error is None for answer in answers)
    if not has_any and len(answers) == 1:
        raise refused(422, answers[0].error or "there is no answer")
    return (200 if has_any else 422), Answers(bundle=bundle, results=answers)


async def _examples(service: Service, asked: Asked) -> tuple[list[Answer], dict[int, Any]]:
    """Return an answer for each example, to be filled, and place -> example of those that can be read."""
    if asked.texts:
        answers = [Answer(name=f"texts[{i}]") for i in range(len(asked.texts))]
        return answers, dict(enumerate(asked.texts))
    answers = [Answer(name=name) for name, _ in asked.images]
    read = await asyncio.gather(
        *(asyncio.to_thread(service.image, data, name) for name, data in asked.images), return_exceptions=True
    )
    examples: dict[int, Any] = {}
    for place, item in enumerate(read):
        if isinstance(item, DataError):
            answers[place].error = str(item)
        elif isinstance(item, BaseException):
            raise item
        else:
            examples[place] = item
    return answers, examples


def _answer(name: str, prediction: Prediction) -> Answer:
    if not prediction.ranked:
        return Answer(name=name, error="not answered")
    ranked = [Share(name=each, probability=value) for each, value in prediction.ranked]
    return Answer(name=name, best=prediction.best, none_of_these=prediction.is_none, ranked=ranked)


def _facts(service: Service, name: str) -> BundleFacts:
    meta = service.bundles[name].meta
    origin = meta.origin
    facts = BundleFacts(
        name=name,
        sha256=service.digests[name],
        method=meta.method,
        examples=meta.examples,
        classes=list(meta.classes),
        model=meta.model.name,
        rounds=meta.rounds,
        promptfed_version=meta.promptfed_version,
    )
    if origin is None:
        return facts
    about = {
        "whose": origin.whose,
        "data": origin.data,
        "accuracy": dict(origin.accuracy),
        "below_zero_shot": list(origin.below_zero_shot),
        "privacy": list(origin.privacy),
    }
    return facts.model_copy(update=about)


def _as_http(error: PromptFedError | HTTPException) -> HTTPException:
    """Return the error as an answer."""
    if isinstance(error, HTTPException):
        return error
    kinds: tuple[tuple[type[PromptFedError], int], ...] = (
        (QueueFullError, 503), (BudgetExhausted, 503), (OracleError, 502), (ConfigError, 422), (DataError, 422),
    )  # fmt: skip
    status = next((status for kind, status in kinds if isinstance(error, kind)), 422)
    return refused(status, str(error))


async def _problem(request: Request, error: Exception) -> JSONResponse:
    """Answer an error with one line of JSON."""
    if isinstance(error, HTTPException):
        return _json({"error": str(error.detail)}, error.status_code, dict(error.headers or {}))
    return _json({"error": "a value in the address is wrong"}, 422)


def _json(content: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> JSONResponse:
    extra = {"retry-after": "1"} if status == 503 else {}
    return JSONResponse(content, status, headers={**HEADERS, **extra, **(headers or {})})
