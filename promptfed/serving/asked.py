"""What a request asks: files of a form, or images and texts in JSON, read within limits and in memory alone."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any

from python_multipart.exceptions import MultipartParseError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from promptfed.errors import FormatError
from promptfed.printable import LONGEST, printable
from promptfed.readers.json_reader import JsonLimits, parse_json
from promptfed.serving.limits import ServeLimits

FIELDS = ("bundle", "classes", "top", "threshold")
"""Fields beside the examples, in a form and in JSON."""
IMAGES, TEXTS = "images", "texts"
MOST_FIELDS = 64
LONGEST_FIELD = 200_000
"""Bytes of a field of a form that is no file."""


class InMemory(MultiPartParser):
    """A parser of forms that never writes a file into a temporary folder."""

    spool_max_size = max_file_size = 1 << 62


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        images: Uploaded images, as (name, bytes).
        texts: Texts or questions.
        bundle: Which bundle; empty: the first.
        classes: Class names to choose among; None: the bundle's.
        top: How many classes to name.
        threshold: The least probability of the best class.
    """

    images: tuple[tuple[str, bytes], ...] = ()
    texts: tuple[str, ...] = ()
    bundle: str = ""
    classes: tuple[str, ...] | None = None
    top: int = 3
    threshold: float | None = None


def refused(status: int, why: str) -> HTTPException:
    """Return the error that answers a request with ``status`` and one line."""
    return HTTPException(status, printable(why, 1_000))


async def read_request(request: Request, limits: ServeLimits) -> Asked:
    """Read what ``request`` asks.

    Raises:
        HTTPException: 400 if it is damaged, 413 if it is too large, 415 if it is of another kind, 422 if a field is
            wrong.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _from_form(request, limits)
    if kind == "application/json":
        return _from_json(b"".join([part async for part in _body(request, limits)]), limits)
    raise refused(415, f"content type is '{kind}': send multipart/form-data with files, or application/json")


async def _body(request: Request, limits: ServeLimits) -> AsyncGenerator[bytes, None]:
    """Yield the request's body. Raise HTTPException if it is too large."""
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limits.request_bytes:
            raise refused(
                413, f"the request has more than {limits.max_request_mb:g} MB: send fewer or smaller examples"
            )
        yield part


# ---------------------------------------------------------------------------------------------------------- forms


async def _from_form(request: Request, limits: ServeLimits) -> Asked:
    parser = InMemory(
        request.headers,
        _body(request, limits),
        max_files=limits.max_files,
        max_fields=MOST_FIELDS,
        max_part_size=LONGEST_FIELD,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        status = 413 if error.message.startswith(("Too many files", "Part exceeded")) else 400
        raise refused(status, f"the form cannot be read: {error.message}") from error
    except (MultipartParseError, UnicodeDecodeError, KeyError, ValueError) as error:
        raise refused(400, f"the form cannot be read: {error}") from error
    try:
        return await _form_content(form, limits)
    finally:
        await form.close()


async def _form_content(form: FormData, limits: ServeLimits) -> Asked:
    images: list[tuple[str, bytes]] = []
    texts: list[str] = []
    options: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            data = await value.read()
            shown = printable(value.filename or f"images[{len(images)}]", LONGEST)
            if len(data) > limits.file_bytes:
                raise refused(413, f"{shown} has more than {limits.max_file_mb:g} MB: make it smaller")
            images.append((shown, data))
        elif name == TEXTS:
            texts.append(value)
        elif name == "classes":
            options.setdefault("classes", []).extend(_listed(value))
        elif name in FIELDS:
            options[name] = _number(name, value) if name in ("top", "threshold") else value
        else:
            raise _unknown(name)
    return _checked(Asked(tuple(images), tuple(texts)), options, limits)


def _listed(value: str) -> list[str]:
    """Return class names: a JSON list, or names with commas between them."""
    if value.lstrip().startswith("["):
        try:
            names = json.loads(value)
        except ValueError as error:
            raise refused(422, f"classes is no JSON list: {error}") from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise refused(422, "classes must be a list of names")
        return names
    return [name for name in (part.strip() for part in value.split(",")) if name]


def _number(name: str, value: str) -> int | float:
    try:
        return int(value) if name == "top" else float(value)
    except ValueError as error:
        raise refused(422, f"{name} is '{printable(value, LONGEST)}': give a number") from error


# ----------------------------------------------------------------------------------------------------------- JSON


def _from_json(body: bytes, limits: ServeLimits) -> Asked:
    try:
        content = parse_json(body, JsonLimits(size=limits.request_bytes, depth=8, values=10_000))
    except FormatError as error:
        raise refused(400, f"the request is no JSON that is read here: {error}") from error
    if not isinstance(content, dict):
        raise refused(422, 'the request must be an object such as {"texts": ["Where is it?"]}')
    images, texts = content.pop(IMAGES, []), content.pop(TEXTS, [])
    for name, values in ((IMAGES, images), (TEXTS, texts)):
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise refused(422, f"{name} must be a list of strings")
    if unknown := sorted(set(content) - set(FIELDS)):
        raise _unknown(unknown[0])
    if len(images) > limits.max_files:
        raise _too_many(len(images), limits)
    decoded = tuple((f"images[{i}]", _decoded(value, i, limits)) for i, value in enumerate(images))
    return _checked(Asked(decoded, tuple(texts)), content, limits)


def _decoded(text: str, number: int, limits: ServeLimits) -> bytes:
    """Return the bytes of an image in base64, also as a data URL."""
    head, comma, rest = text.partition(",")
    payload = rest if comma and head.startswith("data:") and head.endswith(";base64") else text
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise refused(422, f"images[{number}] is no base64: {error}") from error
    if len(data) > limits.file_bytes:
        raise refused(413, f"images[{number}] has more than {limits.max_file_mb:g} MB: make it smaller")
    return data


# ---------------------------------------------------------------------------------------------------------- checks


def _checked(asked: Asked, options: dict[str, Any], limits: ServeLimits) -> Asked:
    """Return ``asked`` with ``options``, whose kinds are checked here. Raise HTTPException for what is wrong."""
    options = {name: value for name, value in options.items() if value is not None}
    kinds: dict[str, tuple[type | tuple[type, ...], str]] = {
        "bundle": (str, "a name"), "classes": (list, "a list of names"),
        "top": (int, "a number"), "threshold": ((int, float), "a probability from 0 to 1"),
    }  # fmt: skip
    for name, value in options.items():
        kind, words = kinds[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise refused(422, f"{name} must be {words}")
    if "classes" in options:
        if not all(isinstance(name, str) for name in options["classes"]):
            raise refused(422, "classes must be a list of names")
        if len(options["classes"]) > limits.max_classes:
            raise refused(413, f"{len(options['classes'])} classes are too many: {limits.max_classes} at most")
        options["classes"] = tuple(options["classes"])
    if asked.images and asked.texts:
        raise refused(422, "send either images or texts")
    count = len(asked.images) + len(asked.texts)
    if not count:
        raise refused(422, "there is nothing to classify: send files, images (base64) or texts")
    if count > limits.max_files:
        raise _too_many(count, limits)
    if any(len(text.encode(errors="replace")) > limits.file_bytes for text in asked.texts):
        raise refused(413, f"a text has more than {limits.max_file_mb:g} MB")
    return replace(asked, **options)


def _unknown(name: str) -> HTTPException:
    return refused(
        422, f"there is no field '{printable(name, LONGEST)}': give files, images, texts, {', '.join(FIELDS)}"
    )


def _too_many(count: int, limits: ServeLimits) -> HTTPException:
    return refused(413, f"{count} examples are too many for one request: {limits.max_files} at most")
