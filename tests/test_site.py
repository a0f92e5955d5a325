"""The documentation site: every page is in its navigation, links lead somewhere, and nothing is loaded from elsewhere.

The site itself is built by .ci/run, where a warning is an error.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "extensions"))

import own_host  # noqa: E402
import page_sections  # noqa: E402
import repository_links  # noqa: E402

OWN = [page for page in sorted(DOCS.rglob("*.md")) if "reference" not in page.relative_to(DOCS).parts]
"""Pages that are committed; those of docs/reference are made when the site is built."""
PAGES = [*OWN, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"))]


def prose(page: Path) -> str:
    """Return a page without its pieces of code."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"^(?:[^<\n]+<)?([\w/]+)>?$", (DOCS / "index.md").read_text(), re.M))
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in OWN} - {"index"}
    assert pages - listed == set(), "name these pages in docs/index.md"
    made = {path[1:].rpartition(".")[0] for path in repository_links.PAGES.values()} - {"index"}
    assert listed - pages == made | {"reference/api", "reference/methods/index"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    wrong = []
    for path, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)\s#]*)(?:#([^)\s]*))?\)", prose(page)):
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            wrong.append(path)
        elif anchor and anchor not in {section.anchor for section in page_sections.sections(target.read_text())}:
            wrong.append(f"{path}#{anchor}")
    assert wrong == []


@pytest.mark.parametrize("page", [*OWN, ROOT / "README.md"], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_prose_breaks_at_100_columns(page: Path) -> None:
    code_or_table = ("|", "    ", "#")
    lines = [line for line in prose(page).splitlines() if len(line) > 100 and "](" not in line]
    assert [line for line in lines if not line.startswith(code_or_table) and not line.strip().startswith("|")] == []


def test_a_load_from_another_host_is_found_and_a_link_is_none() -> None:
    page = (
        '<a href="https://a.org">a</a> <img src="local.png"><link rel="canonical" href="https://b.org">'
        '<script src="https://cdn.org/x.js"></script><link href="//fonts.org/f.css" rel="stylesheet">'
        "<style>@import url(https://css.org/y.css)</style>"
    )
    assert sorted(own_host.loads(page)) == ["//fonts.org/f.css", "https://cdn.org/x.js", "https://css.org/y.css"]


def test_links_to_other_files_become_links_within_the_site_or_names() -> None:
    text = "[c](../CHANGELOG.md) [e](engines.md#ray) [code](../promptfed/run.py) [no](nowhere.md) [w](https://x.org)"
    rewritten, missing = repository_links.site_links(text, DOCS)
    assert missing == ["nowhere.md"]
    assert rewritten == (
        "[c](/reference/changelog.md) [e](/engines.md#ray) code (`promptfed/run.py`) [no](nowhere.md) [w](https://x.org)"
    )


PAGE = """# Page

Start.

## FedOne and Two

All of it.

| | a | b |
|---|---|---|
| zero-shot | 1 | 2 |
| `fedone` | 3 | x \\| y |

## Others

**three** is short.

It goes on.

**four.** Something else.
"""


def test_what_a_page_says_of_one_method() -> None:
    cut = page_sections.sections(PAGE)
    assert [section.anchor for section in cut[1:]] == ["page", "fedone-and-two", "others"]
    [(section, blocks)] = page_sections.about("fedone", "FedOne", cut)
    assert (section.title, blocks[0]) == ("FedOne and Two", "All of it.")
    [(_, blocks)] = page_sections.about("three", "Three", cut)
    assert blocks == ["**three** is short.", "It goes on."]
    [row] = page_sections.rows("fedone", "FedOne", cut)
    assert row.cells == ("`fedone`", "3", "x \\| y")
    assert row.zero_shot == ("zero-shot", "1", "2")


@pytest.fixture(scope="module")
def method_pages() -> dict[str, str]:
    from method_pages import method_page, titles

    return {key: method_page(key, {"bytes_up": 1000, "bytes_down": 2000}) for key in titles()}


BASELINES = (
    "zero_shot",
    "local_only",
    "description_words",
    "persistence",
    "yesterday",
    "affine_output",
    "majority_answer",
    "question_only",
    "random_allocation",
    "preferred_allocation",
    "lowest_allocation",
    "expert_allocation",
    "trajectory_prompt",
)


def test_every_method_has_a_page_with_what_is_trained_and_its_options(method_pages: dict[str, str]) -> None:
    from promptfed.method import METHODS

    assert len(method_pages) > 50
    for key, page in method_pages.items():
        kind = METHODS[key]
        assert page.startswith(f"# {kind.name}\n")
        assert kind.trains in page
        assert all(f"`method.{option}`" in page for option in kind.Config.model_fields), key
        if key not in BASELINES:
            assert "departs from the paper" in page, key


def test_a_method_page_has_its_rows_of_the_results(method_pages: dict[str, str]) -> None:
    [row] = [
        line for line in (DOCS / "results.md").read_text().splitlines() if line.startswith("| `pfedmoap` | **98.3")
    ]
    assert row in method_pages["pfedmoap"]
    assert "| `zero_shot` | 76.3" in method_pages["pfedmoap"]


def test_the_page_of_the_api_has_every_public_name() -> None:
    from api_page import api_page

    import promptfed

    page = api_page()
    assert all(f":: promptfed.{name}\n" in page for name in promptfed.__all__)


def test_ci_builds_the_site_and_a_warning_is_an_error() -> None:
    assert re.search(r"sphinx -W --keep-going .*docs", (ROOT / ".ci" / "run").read_text())
