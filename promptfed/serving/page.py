"""The page at /docs: what can be asked, and a form to try it. It asks no other server for anything."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.metadata import version
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from promptfed.printable import printable

if TYPE_CHECKING:
    from promptfed.serving.service import Service


def docs_page(service: Service) -> tuple[str, str]:
    """Return the page, and the content security policy that it works under."""
    folder = files("promptfed.serving")
    template, script, style = ((folder / name).read_text("utf-8") for name in ("docs.html", "docs.js", "docs.css"))
    bundle = service.bundles[service.first].meta
    limits = service.limits
    is_image = bundle.examples == "images"
    call = "-F files=@photo.jpg -F top=3" if is_image else """-H 'content-type: application/json' \\
    -d '{"texts": ["Where is my parcel?"], "top": 3}'"""  # fmt: skip
    page = Template(template).substitute(
        style=style,
        script=script,
        version=escape(version("promptfed")),
        model=escape(printable(service.model.name)),
        names="".join(f"<option>{escape(printable(name))}</option>" for name in service.bundles),
        kind=bundle.examples,
        call=escape(call),
        limits=escape(
            f"At most {limits.max_files} examples and {limits.max_request_mb:g} MB in a request, "
            f"{limits.max_file_mb:g} MB a file, {limits.max_megapixels:g} million pixels an image."
        ),
        images_hidden="" if is_image else "hidden",
        texts_hidden="hidden" if is_image else "",
    )
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
