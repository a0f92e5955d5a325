"""Who holds what, as a grid: of very many, as many as can be seen."""

from typing import Any

from promptfed.report.partition_chart import MOST_CLASSES, MOST_CLIENTS, partition_chart


def table(clients: int, classes: int) -> dict[str, Any]:
    rows = [{"name": f"client {k}", "train": [k % 3] * classes} for k in range(clients)]
    return {"classes": [f"class {k}" for k in range(classes)], "clients": rows, "examples": "texts"}


def test_the_text_alternative_counts() -> None:
    chart = partition_chart(table(3, 4))
    assert chart.title == "Training texts by client and class"
    assert chart.description == (
        "Grid of 3 clients and 4 classes. A client holds 0 to 4 classes and 0 to 8 training texts: client 0 0 of 0 "
        "classes; client 1 4 of 4 classes; client 2 8 of 4 classes."
    )


def test_many_are_thinned_out_and_the_title_says_so() -> None:
    chart = partition_chart(table(10_000, 300))
    assert chart.title.endswith(f"({MOST_CLIENTS} of 10,000 clients, {MOST_CLASSES} of 300 classes)")
    assert len(chart.__html__()) < 200_000
