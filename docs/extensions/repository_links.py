"""Let links from a page to files of the repository lead to pages of the site, and warn of those that lead nowhere.

A page of docs/ links as it would on a code host: ``[changelog](../CHANGELOG.md)``. Files that are pages of the site are
linked as such. Every other file of the repository is named, not linked, as the site does not hold it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {
    "README.md": "/index.md",
    "CHANGELOG.md": "/reference/changelog.md",
    "CONTRIBUTING.md": "/reference/contributing.md",
    "SECURITY.md": "/reference/security.md",
    "CODE_OF_CONDUCT.md": "/reference/code_of_conduct.md",
    "examples/first_steps.ipynb": "/reference/first_steps.ipynb",
    "promptfed/backbones/tiny_weights/MODEL_CARD.md": "/reference/tiny_model_card.md",
}
"""Files outside of docs/ that are pages of the site."""
LINK = re.compile(r"(?<!\!)\[(?P<text>[^\]]*)\]\((?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")


def site_links(text: str, folder: Path) -> tuple[str, list[str]]:
    """Return ``text`` with the links of a page in ``folder`` as the site has them, and the targets that are missing."""
    missing: list[str] = []

    def link(match: re.Match[str]) -> str:
        path = match["path"]
        target = Path(os.path.normpath(DOCS / path.lstrip("/") if path.startswith("/") else folder / path))
        if path.startswith("/"):
            return match[0]
        if not target.exists():
            missing.append(path)
            return match[0]
        anchor = match["anchor"] or ""
        name = target.relative_to(ROOT).as_posix()
        if name in PAGES:
            return f"[{match['text']}]({PAGES[name]}{anchor})"
        if target.is_relative_to(DOCS):
            return f"[{match['text']}](/{target.relative_to(DOCS).as_posix()}{anchor})"
        return match["text"] if "`" in match["text"] or "/" in match["text"] else f"{match['text']} (`{name}`)"

    return LINK.sub(link, text), missing


def read(app: Any, docname: str, source: list[str]) -> None:
    """Rewrite the links of one page that stands in docs/ itself; generated pages have theirs already."""
    path = Path(app.env.doc2path(docname))
    if path.suffix != ".md" or docname.startswith("reference/"):
        return
    source[0], missing = site_links(source[0], path.parent)
    from sphinx.util import logging

    for target in missing:
        logging.getLogger(__name__).warning("no such file: %s", target, location=docname)


def setup(app: Any) -> dict[str, bool]:
    """Register the rewriting with Sphinx."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
