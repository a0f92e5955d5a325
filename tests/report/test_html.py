"""The page: self-contained, escaped, and there for unfinished runs too."""

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from promptfed.config import RunConfig
from promptfed.errors import FormatError
from promptfed.report.html import readable_bytes, write_report
from promptfed.runs.directory import RunDirectory

MakeRun = Callable[..., RunDirectory]
VOID = {"meta", "img", "br", "link", "path", "rect", "line", "circle", "polygon"}


class Page(HTMLParser):
    """Collects text, addresses and unclosed tags."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.charts = 0
        self.ids: list[str] = []
        self.feed(source)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.charts += tag == "svg"

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(run: RunDirectory) -> Page:
    path = write_report(run)
    assert path == run.path / "report.html"
    page = Page(path.read_text())
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    assert {address for address in page.addresses if address.startswith("#")} <= {f"#{name}" for name in page.ids}
    return page


def test_finished_run_shows_results_curves_bars_and_cost(make_run: MakeRun) -> None:
    page = page_of(make_run(rounds=3, clients=2))
    for text in ("my-run", "finished", "PromptFL", "70.0 ± 2.0", "harmonic mean", "method.n_ctx", "<client> 1"):
        assert text in page.text
    assert page.charts == 4  # loss, validation and training accuracy by round, accuracy by client
    # 3 stages: 1 + 3 + 3 rounds, 2 clients, 1000 bytes up and 2000 down each; 120 images once for all
    cost = re.search(r"whole run\s*14\.0 kB\s*28\.0 kB\s*7\.0 s\s*120\s*216", page.text)
    assert cost is not None


def test_nothing_outside_is_loaded_and_nothing_unescaped(make_run: MakeRun) -> None:
    run = make_run()
    page = page_of(run)
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    source = (run.path / "report.html").read_text()
    assert "http" not in source
    assert "@import" not in source
    assert "url(" not in source
    assert "<script" not in source
    for markup in ("<b>photo", "<client>", "<photos>"):
        assert markup not in source
        assert markup in page.text


@pytest.mark.parametrize("rounds", [0, 2])
def test_unfinished_run_has_a_page_too(make_run: MakeRun, rounds: int) -> None:
    page = page_of(make_run(rounds=rounds, finished=False))
    assert "unfinished" in page.text
    assert f"{rounds} of 3 rounds are saved" in page.text
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
    assert page.charts == 0


def test_partition_is_drawn_when_known(make_run: MakeRun) -> None:
    run = make_run(rounds=1, finished=False)
    without = page_of(run).charts
    clients = [{"client": c, "name": f"client {c}", "train": [4, c], "val": [1, 1], "test": [2, 0]} for c in range(3)]
    run.write_json("partition.json", {"classes": ["cat", "dog"], "clients": clients})
    page = page_of(run)
    assert page.charts == without + 1
    assert "Grid of 3 clients and 2 classes. A client holds 1 to 2 classes and 4 to 6 training images" in page.text


def test_same_run_same_page(make_run: MakeRun) -> None:
    run = make_run()
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_all_options_are_listed(make_run: MakeRun) -> None:
    page = page_of(make_run(finished=False, rounds=0))
    sections = {name for name in RunConfig.model_fields if name.endswith("_options")}
    assert all(option in page.text for option in set(RunConfig.model_fields) - sections - {"plugins", "objects"})


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
        [row] = re.findall(rf'<tr[^>]*>\s*<th scope="row">site {k}</th>(.*?)</tr>', source, re.DOTALL)
        cells = re.findall(r"<td[^>]*>([^<]*)</td>", row)
        assert cells[2] == "40"
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
        assert f"{line[0].upper()}{line[1:]}." in page.text
    assert "koi <x>, lynx" in page.text
    for markup in ("<a>, b", "<x>, lynx"):
        assert markup not in (run.path / "report.html").read_text()


def test_headings_of_tables_have_a_scope(make_run: MakeRun) -> None:
    run = make_run()
    write_report(run)
    source = (run.path / "report.html").read_text()
    assert "<th>" not in source
    assert re.findall(r"<th scope=\"(col|row)\"", source)
    assert source.count("<table") == source.count("<thead")


def details(truth: int = 0, image: str = "data:image/png;base64,AAAA") -> dict[str, object]:
    return {
        "items": 10,
        "counts": [[0, 0, 4], [0, 1, 3], [0, -1, 1], [1, 1, 2]],
        "samples": [
            {"truth": truth, "prediction": 1, "confidence": 0.75, "of_truth": 0.25, "name": "<a>", "image": image},
            {"truth": 1, "prediction": 1, "confidence": 0.5, "of_truth": 0.5, "name": "b", "text": "a <i>text</i>"},
            {"truth": 1, "prediction": -1, "confidence": 0, "of_truth": 0.3, "name": "b", "text": "silence"},
        ],
        "words": {"trains": "a text", "texts": [
            {"whose": "shared", "before": "Say.", "after": "Say <it>.", "is_zero_shot": False}]},
    }  # fmt: skip


def with_classes(run: RunDirectory) -> RunDirectory:
    run.write_json("partition.json", {"classes": ["cat <c>", "dog"], "clients": []})
    return run


def test_classes_samples_and_the_prompt_are_those_of_details(make_run: MakeRun) -> None:
    run = with_classes(make_run())
    run.write_json("details.json", details())
    page = page_of(run)
    assert "cat <c>, taken for dog: 3 of 8" in page.text
    assert "6 of 10 test examples are on the diagonal" in page.text
    assert re.search(r"cat <c>\s*8\s*50.0 \[21.5, 78.5\]\s*dog 3, no answer 1", page.text)
    assert "dog 75.0\xa0%" in page.text
    assert "is cat <c>, given 25.0\xa0%" in page.text
    assert "a <i>text</i>" in page.text
    assert re.search(r"Before\s*Say\.\s*After\s*Say <it>\.", page.text)
    assert "data:image/png;base64,AAAA" in page.addresses
    source = (run.path / "report.html").read_text()
    assert not [markup for markup in ("<a>", "<i>", "<it>", "<c>") if markup in source]


def test_samples_can_be_left_out(make_run: MakeRun) -> None:
    run = with_classes(make_run())
    run.write_json("details.json", details())
    text = write_report(run, with_samples=False).read_text()
    assert "data:image" not in text
    assert "text&lt;/i&gt;" not in text
    assert "taken for dog" in text


@pytest.mark.parametrize(
    "image",
    ["https://elsewhere/x.png", "javascript:alert(1)", "data:text/html;base64,AAAA", 'data:image/png;base64,"x'],
)
def test_a_picture_from_elsewhere_is_not_shown(make_run: MakeRun, image: str) -> None:
    run = with_classes(make_run())
    run.write_json("details.json", details(image=image))
    assert [address for address in page_of(run).addresses if not address.startswith("#")] == []


def test_details_that_are_forged_are_refused_in_a_line(make_run: MakeRun) -> None:
    run = with_classes(make_run())
    run.write_json("details.json", details(truth=7))
    with pytest.raises(FormatError, match="do not hold what promptfed writes"):
        write_report(run)


def test_a_run_of_an_earlier_version_says_what_it_lacks(make_run: MakeRun) -> None:
    assert "This run kept nothing to show here" in page_of(make_run()).text
