"""The page: self-contained, escaped, and there for unfinished runs too."""

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from promptfed.config import RunConfig
from promptfed.report.html import readable_bytes, write_report
from promptfed.runs.directory import RunDirectory

MakeRun = Callable[..., RunDirectory]
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Collects text, addresses and unclosed tags."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(run: RunDirectory) -> Page:
    path = write_report(run)
    assert path == run.path / "report.html"
    page = Page(path.read_text())
    assert page.open == []
    return page


def test_finished_run_shows_results_curves_bars_and_cost(make_run: MakeRun) -> None:
    page = page_of(make_run(rounds=3, clients=2))
    for text in ("my-run", "finished", "PromptFL", "70.0 ± 2.0", "harmonic mean", "n_ctx: 4", "<client> 1"):
        assert text in page.text
    assert len(page.addresses) == 3
    # 3 stages: 1 + 3 + 3 rounds, 2 clients, 1000 bytes up and 2000 down each; 120 images once for all
    cost = re.search(r"whole run\s*14\.0 kB\s*28\.0 kB\s*7\.0 s\s*120\s*216", page.text)
    assert cost is not None


def test_nothing_outside_is_loaded_and_nothing_unescaped(make_run: MakeRun) -> None:
    run = make_run()
    page = page_of(run)
    assert all(address.startswith("data:image/") for address in page.addresses)
    source = (run.path / "report.html").read_text()
    assert "http" not in re.sub(r'src="data:[^"]*"', "", source)
    assert "<script" not in source
    for markup in ("<b>photo", "<client>", "<photos>"):
        assert markup not in source
        assert markup in page.text


@pytest.mark.parametrize("rounds", [0, 2])
def test_unfinished_run_has_a_page_too(make_run: MakeRun, rounds: int) -> None:
    page = page_of(make_run(rounds=rounds, finished=False))
    assert "unfinished" in page.text
    assert f"Last saved round: {rounds} of 3" in page.text
    assert "No figures yet" in page.text


def test_lost_updates_are_counted_by_reason(make_run: MakeRun) -> None:
    run = make_run(rounds=2, clients=2)
    assert "went on without them" not in page_of(run).text
    for client, failure in enumerate(("dropped out", "late", "dropped out", "refused: <b>names</b>", "error: loss")):
        run.events.write("client", stage="promptfl", round=3, client=client, failure=failure, loss=float("nan"))
    run.events.write("round", stage="promptfl", round=3, loss=float("nan"), val_accuracy=0.5, clients=5, failed=5)
    page = page_of(run)
    assert re.search(r"PromptFL\s*5 of 9\s*dropped out 2, error 1, late 1, refused 1", page.text)
    assert "<b>names" not in (run.path / "report.html").read_text()


def test_run_without_any_event(tmp_path: object, make_run: MakeRun) -> None:
    run = make_run(rounds=0, finished=False)
    run.events.path.unlink()
    page = page_of(run)
    assert "No round has finished yet." in page.text
    assert page.addresses == []


def test_partition_is_drawn_when_known(make_run: MakeRun) -> None:
    run = make_run(rounds=1, finished=False)
    without = len(page_of(run).addresses)
    clients = [{"client": c, "name": f"client {c}", "train": [4, c], "val": [1, 1], "test": [2, 0]} for c in range(3)]
    run.write_json("partition.json", {"classes": ["cat", "dog"], "clients": clients})
    page = page_of(run)
    assert len(page.addresses) == without + 1
    assert "3 clients, 2 classes" in page.text


def test_same_run_same_page(make_run: MakeRun) -> None:
    run = make_run()
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_all_options_are_listed(make_run: MakeRun) -> None:
    page = page_of(make_run(finished=False, rounds=0))
    assert all(option in page.text for option in RunConfig.model_fields)


def test_bytes_are_readable() -> None:
    assert [readable_bytes(n) for n in (0, 999, 1536, 2_500_000, 10**13)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 MB",
        "10.0 TB",
    ]


def evaluated(run: RunDirectory, scores: list[tuple[float | None, float, int]]) -> RunDirectory:
    """``run`` with another last evaluation: of each client (local, all classes, test items)."""
    rows = [
        {"client": k, "name": f"site {k}", "accuracy": own, "all_classes": everywhere, "items": items}
        for k, (own, everywhere, items) in enumerate(scores)
    ]
    run.events.write(
        "evaluation", stage="promptfl", name="PromptFL", local_mean=None, local_std=None, base=0.4, new=None, hm=None,
        local=rows, seconds=0.5, image_encoder_calls=0, text_encoder_calls=20,
    )  # fmt: skip
    return run


@pytest.mark.parametrize("alone", [(0,), (1,), (0, 2), (0, 1, 2)])
def test_clients_with_one_class_are_marked_in_the_table_of_clients(make_run: MakeRun, alone: tuple[int, ...]) -> None:
    scores = [(None if k in alone else 0.75, 0.5, 40) for k in range(3)]
    run = evaluated(make_run(clients=3), scores)
    page_of(run)
    source = (run.path / "report.html").read_text()
    for k in range(3):
        [row] = re.findall(rf"<tr[^>]*>\s*<th>site {k}</th>(.*?)</tr>", source, re.DOTALL)
        cells = re.findall(r"<td[^>]*>([^<]*)</td>", row)
        assert cells[0] == "40"
        own, everywhere = cells[-2:]
        assert own == "one class" if k in alone else own.startswith("75.0 [")
        assert everywhere.startswith("50.0 [")


def test_notes_and_classes_held_out_stand_on_the_page(make_run: MakeRun, metrics: dict[str, object]) -> None:
    run = make_run()
    notes = [
        "2 of 3 clients hold one class each (<a>, b): with nothing to choose between, they are left out of local",
        "few test items, so the figures are rough (fewer than 50): local 12",
        "zero-shot is near chance on validation data",
    ]
    metrics |= {"notes": notes, "new_classes": ["koi <x>", "lynx"]}
    run.write_metrics(metrics)
    page = page_of(run)
    for line in notes:
        assert f"note: {line}" in page.text
    assert "koi <x>, lynx" in page.text
    for markup in ("<a>, b", "<x>, lynx"):
        assert markup not in (run.path / "report.html").read_text()
