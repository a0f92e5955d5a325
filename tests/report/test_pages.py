"""Pages in a real browser, wide and narrow, light and dark: axe-core finds nothing serious, and nothing overflows.

It needs chromium, node, and the npm packages axe-core and puppeteer-core: in the folder that PROMPTFED_NODE names, or
in node_modules beside the checkout. Without them it is skipped; ``.ci/run`` installs them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptfed.blackbox.oracles.ledger import Account, OracleLedger
from promptfed.report.comparison_page import write_page
from promptfed.report.html import write_report
from promptfed.runs.directory import RunDirectory
from promptfed.runs.personalized import CURVE
from promptfed.usage import Usage
from promptfed.watching.followed_run import FollowedRun
from promptfed.watching.page import live_part, whole_page

from .test_comparison_page import entry, summary

pytestmark = pytest.mark.slow
MakeRun = Callable[..., RunDirectory]
HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a" * 150, "\u202egnp.exe", "犬" * 40]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)


@pytest.fixture(scope="module")
def look() -> Callable[[list[Path]], list[dict[str, Any]]]:
    """``look(pages)``: what a browser says of each page in each of four settings."""
    node = shutil.which("node")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    modules = Path(os.environ.get("PROMPTFED_NODE") or Path(__file__).parents[2] / "node_modules")
    packages = [modules / name / "package.json" for name in ("axe-core", "puppeteer-core")]
    if node is None or browser is None or not all(package.is_file() for package in packages):
        pytest.skip("no chromium, node, axe-core or puppeteer-core")

    def look(pages: list[Path]) -> list[dict[str, Any]]:
        script = Path(__file__).with_name("look.js")
        command = [node, str(script), str(modules), browser, *map(str, pages)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return look


def details(names: list[str]) -> dict[str, Any]:
    """What a run keeps, with these class names."""
    samples = [
        {"truth": k, "prediction": (k + k % 2) % len(names), "confidence": 0.7, "of_truth": 0.2, "name": name,
         **({"image": PIXEL} if k % 2 else {"text": name})}
        for k, name in enumerate(names)
    ]  # fmt: skip
    vectors = [
        {"context": "ctx", "class_name": "", "position": k + 1, "words": [[name, 0.5]]} for k, name in enumerate(names)
    ]
    counts = [[k, (k + shift) % len(names), 3 + shift] for k in range(len(names)) for shift in range(2)]
    words = {"whose": "shared", "trains": names[0], "vectors": {"backbone": names[0], "vectors": vectors}}
    return {"items": 35, "counts": counts, "samples": samples, "words": words}


def whole(run: RunDirectory, names: list[str]) -> RunDirectory:
    """The run with a partition, an evaluation and details, all of these names."""
    clients = [
        {"client": k, "name": name, "domain": name, "train": [k] * len(names), "val": [1] * len(names), "test": [2]}
        for k, name in enumerate(names)
    ]
    run.write_json("partition.json", {"classes": names, "clients": clients, "backbone": {"name": names[0]}})
    run.write_json("details.json", details(names))
    rows = [
        {"client": k, "name": name, "accuracy": k / 10 if k else None, "all_classes": 0.4, "items": 20}
        for k, name in enumerate(names)
    ]
    for stage in ("zero_shot", "promptfl"):
        run.events.write("evaluation", stage=stage, name=stage, local=rows, base=0.5, new=None, hm=None)
    return run


def personalized(run: RunDirectory) -> RunDirectory:
    row = {"val": 0.5, "local": 0.5, "local_std": 0.1, "base": 0.4, "new": 0.3, "hm": 0.4}
    rows = [{**row, "alpha": alpha, "local": 0.5 + alpha / 4} for alpha in (0.0, 0.5, 1.0)] + [{**row, "alpha": None}]
    clients = [{"client": k, "name": f"site {k}", "alpha": 0.5, "why": "best on validation"} for k in range(3)]
    (run.path / "personalized").mkdir()
    curve = {"name": "PromptFL", "round": 3, "space": "prompt", "training": None, "rows": rows, "clients": clients}
    run.write_json(CURVE, curve)
    return run


def black_box(run: RunDirectory, metrics: dict[str, Any]) -> RunDirectory:
    """The run as one of FedBPT that paid a server, got some answers of no use, and kept the zero-shot prompt."""
    ledger = OracleLedger(run.path / "oracle.sqlite")
    for round in (1, 2, 3):
        for client in range(3):
            asked = Usage(
                oracle_queries=1200, oracle_calls=900, oracle_cache_hits=300, oracle_retries=2, oracle_unanswered=3,
                labels_floored=4, prompt_tokens=120_000, completion_tokens=900, usd=1.25,
            )  # fmt: skip
            ledger.add(Account("promptfl", round, client), asked)
    ledger.add(Account("promptfl"), Usage(oracle_queries=30, oracle_cache_hits=30))
    kept = {"method": f'kept zero-shot: "{HOSTILE[2]}"'}
    run.write_metrics({**metrics, "method": {**metrics["method"], "name": "FedBPT"}, "kept_zero_shot": kept})
    return run


def test_pages_are_accessible_and_fit(
    make_run: MakeRun, look: Callable[..., list[dict[str, Any]]], metrics: dict[str, Any], tmp_path: Path
) -> None:
    pages = []

    def keep(name: str, run: RunDirectory) -> None:
        target = tmp_path / f"{name}.html"
        shutil.copy(write_report(run), target)
        pages.append(target)
        shutil.rmtree(run.path)

    keep("plain", make_run())
    keep("whole", whole(make_run(rounds=12), ["cat", "dog", "eel", "fox", "gnu"]))
    run = whole(make_run(clients=5), HOSTILE)
    notes = {"notes": HOSTILE, "data_notes": HOSTILE, "new_classes": HOSTILE, "examples": "images"}
    run.write_metrics({**metrics, **notes, "method": {**metrics["method"], "name": HOSTILE[2]}})
    keep("hostile", run)
    keep("black box", black_box(whole(make_run(clients=3), ["cat", "dog", "eel"]), metrics))
    assert all(words in pages[-1].read_text() for words in ("The oracle", "not answered", "USD", "kept zero-shot"))
    keep("personalized", personalized(make_run(clients=3)))
    keep("unfinished", make_run(rounds=1, finished=False))
    found = look(pages)
    assert len(found) == 4 * len(pages)
    for one in found:
        where = Path(one["page"]).stem, one["scheme"], one["width"]
        assert [v for v in one["violations"] if v["impact"] in ("serious", "critical")] == [], where
        assert one["overflow"] <= 0, where
        assert one["others"] == [], where


def test_pages_of_a_comparison_and_of_watch_are_accessible_and_fit(
    make_run: MakeRun, look: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    methods = {
        "zero_shot": entry((0.4, 0.4, 0.4), 0),
        "promptfl": entry((0.5, 0.6, 0.7), 1000, below_zero_shot=["new"]),
        "kgcoop": entry((0.4, 0.4, 0.7), 2000, label=HOSTILE[2]),
        "absent": {"label": HOSTILE[0], "left_out": HOSTILE[1], "tuned": {}, "runs": []},
    }
    followed = FollowedRun(make_run(rounds=2, finished=False).path, HOSTILE[2])
    followed.update()
    page, script = whole_page("Watching runs", "now", "x"), "<script nonce"
    head, _, rest = page.partition(script)
    page = (
        head.replace('<p class="soft">Reading the runs ...</p>', live_part([followed])) + rest.partition("</script>")[2]
    )
    (tmp_path / "watch.html").write_text(page)
    for seed in (0, 1, 2):  # the page links to them
        (tmp_path / "m" / f"seed-{seed}").mkdir(parents=True)
        (tmp_path / "m" / f"seed-{seed}" / "report.html").touch()
    found = look([write_page(summary(**methods), tmp_path), tmp_path / "watch.html"])
    assert len(found) == 8
    for one in found:
        where = Path(one["page"]).stem, one["scheme"], one["width"]
        assert [v for v in one["violations"] if v["impact"] in ("serious", "critical")] == [], where
        assert one["overflow"] <= 0, where
        assert one["others"] == [], where
