"""Write the pages of docs/reference/ when the site is built: methods, API, notebook, and files of the repository."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from api_page import api_page
from repository_links import PAGES, ROOT, site_links

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
"""Nothing in it is committed."""


def generate(app: Any) -> None:
    """Write all generated pages; files that did not change keep their time, so that a second build is quick."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    pages = {Path("reference/api.md"): api_page(), **copies(), **methods()}
    for path, text in pages.items():
        _write(DOCS / path, text)
    for path in REFERENCE.rglob("*"):
        if path.is_file() and path.relative_to(DOCS) not in pages:
            path.unlink()


def copies() -> dict[Path, str]:
    """Return the pages that are files elsewhere in the repository, with links as the site has them."""
    result = {}
    for name, page in PAGES.items():
        if page.startswith("/reference/"):
            text = (ROOT / name).read_text(encoding="utf-8")
            if name.endswith(".ipynb"):
                text = text.replace("(../docs/", "(/")
            else:
                text, missing = site_links(text, (ROOT / name).parent)
                assert not missing, f"{name} links {missing}"
            result[Path(page.lstrip("/"))] = text
    return result


def methods() -> dict[Path, str]:
    """Return the page of each method, and the list of them."""
    from method_pages import method_page, titles

    from promptfed.commands.method_listing import traffic_of

    names = titles()
    traffic = traffic_of(None, None, names)
    pages = {Path(f"reference/methods/{key}.md"): method_page(key, traffic.get(key, {})) for key in names}
    entries = "\n".join(f"{title} <{key}>" for key, title in sorted(names.items(), key=lambda item: item[1].lower()))
    index = (
        "# Every method, a page each\n\n"
        "Each page is made from the method's class: what is trained and sent, where the code departs from the\n"
        "paper, figures, options. [Methods](/methods.md) and [black boxes](/blackbox.md) say what they share.\n\n"
        f"```{{toctree}}\n{entries}\n```\n"
    )
    return {Path("reference/methods/index.md"): index, **pages}


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def clean(app: Any, exception: Exception | None) -> None:
    """Remove the generated pages of a build that failed before it could use them."""
    if exception is not None:
        shutil.rmtree(REFERENCE, ignore_errors=True)


def setup(app: Any) -> dict[str, bool]:
    """Write the pages before Sphinx looks for sources."""
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True}
