from __future__ import annotations

import io
import json
from collections.abc import Callable

import matplotlib
from PIL import Image

from promptfed.report.partition_plot import plot_partition
from promptfed.runs.partition_file import partition_table
from promptfed.types import FederatedTask


def test_table_counts_what_each_client_holds(build: Callable[..., FederatedTask]) -> None:
    task = build(clients=2)
    table = partition_table(task)
    assert json.loads(json.dumps(table)) == table
    assert table["classes"] == list(task.base_classes)
    assert [row["client"] for row in table["clients"]] == [0, 1]
    assert table["clients"][0]["train"] == [8] * 12 + [0] * 12
    assert table["clients"][1]["val"] == [0] * 12 + [4] * 12
    assert table["clients"][1]["test"] == [0] * 12 + [24] * 12


def test_plot_shows_every_client_and_touches_no_global_backend(build: Callable[..., FederatedTask]) -> None:
    backend = matplotlib.get_backend()
    for clients in (2, 24):
        table = partition_table(build(clients=clients))
        figure = plot_partition(table)
        shown = figure.axes[0].images[0].get_array()
        assert shown is not None
        assert shown.tolist() == [row["train"] for row in table["clients"]]
        written = io.BytesIO()
        figure.savefig(written, format="png", dpi=50)
        assert Image.open(written).size[0] > 300
    assert matplotlib.get_backend() == backend
