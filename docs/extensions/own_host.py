"""Warn of each page of the site that would load something from another host."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

LOADING = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc=["'](?P<src>(?:https?:)?//[^"']+)"""
    r"""|<link\b(?P<link>[^>]*)>""",
    re.IGNORECASE,
)
"""Tags whose addresses a browser loads without being asked. A link that a reader may follow is none of them."""
IN_STYLE = re.compile(r"""(?:@import\s+|url\()\s*["']?(?P<url>(?:https?:)?//[^"')\s]+)""", re.IGNORECASE)
RELATIONS = re.compile(r"""\brel=["'][^"']*\b(?:stylesheet|preload|preconnect|dns-prefetch|icon|modulepreload)\b""")
ADDRESS = re.compile(r"""\bhref=["'](?P<url>(?:https?:)?//[^"']+)""")


def loads(text: str) -> list[str]:
    """Return the addresses on other hosts that a page or a style sheet loads by itself."""
    found = [match["url"] for match in IN_STYLE.finditer(text)]
    for match in LOADING.finditer(text):
        if match["src"]:
            found.append(match["src"])
        elif match["link"] and RELATIONS.search(match["link"]) and (address := ADDRESS.search(match["link"])):
            found.append(address["url"])
    return found


def check(app: Any, exception: Exception | None) -> None:
    """Warn of every address; with -W a warning ends the build."""
    if exception is not None or app.builder.format != "html":
        return
    from sphinx.util import logging

    for path in sorted(Path(app.outdir).rglob("*")):
        if path.suffix in {".html", ".css"}:
            for address in loads(path.read_text(encoding="utf-8")):
                logging.getLogger(__name__).warning("%s loads %s", path.relative_to(app.outdir), address)


def setup(app: Any) -> dict[str, bool]:
    """Register the check with Sphinx."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
