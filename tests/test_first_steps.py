"""The notebook of a newcomer's first steps runs from top to bottom, and shows what it promises."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from promptfed.config import RunConfig

NOTEBOOK = Path(__file__).parent.parent / "examples" / "first_steps.ipynb"


def test_no_output_is_stored() -> None:
    """Outputs would go stale, and could name folders of the machine that made them."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in cells)


def test_the_defaults_that_it_and_the_researchers_page_name_are_those_of_a_run() -> None:
    fields = RunConfig.model_fields
    rounds, shots = fields["rounds"].default, fields["shots"].default
    texts = "".join("".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"])
    assert f"by default there are {rounds} rounds with {shots} shots" in texts
    page = (NOTEBOOK.parents[1] / "docs" / "guides" / "researcher.md").read_text(encoding="utf-8")
    assert f"`--rounds`, `--clients` and `--shots` ({rounds}, 8 and {shots} by default)" in page


@pytest.mark.slow
def test_it_runs_and_shows_bar_table_curves_and_answers(tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    shown = {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}

    [train] = [outputs for source, outputs in shown.items() if "pf.train(" in source]
    bar = "".join(_text(output) for output in [*train, *_widget_outputs(notebook)])
    bar = re.sub(r"\x1b\[[\d;]*m", "", bar)
    assert re.search(r"PromptFL +━+ .*round 3/3", bar), bar
    [run] = shown["run"]
    assert "<th scope='col'>base</th>" in run["data"]["text/html"]
    assert run["data"]["text/html"].count("<img alt=") == 2
    [words] = shown["prompt.nearest_words(count=3)"]
    assert words["data"]["text/html"].count("<tr>") == 17
    [answer] = [outputs[0]["data"]["text/plain"] for source, outputs in shown.items() if "loaded.predict" in source]
    assert {"heart", "bicycle", "umbrella"} == set(re.findall(r"'(\w+)'", answer))
    assert (tmp_path / "runs" / "first" / "personalized" / "curve.json").is_file()
    assert not [output for outputs in shown.values() for output in outputs if output.get("name") == "stderr"]


def _text(output: Any) -> str:
    """What an output shows, as plain text."""
    data = output.get("data", {})
    return str(output.get("text") or data.get("text/plain") or re.sub("<.*?>", "", data.get("text/html", "")))


def _widget_outputs(notebook: Any) -> list[Any]:
    """What was shown inside of the notebook's output widgets, in which rich draws its bars."""
    widgets = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    return [output for widget in widgets.get("state", {}).values() for output in widget["state"].get("outputs", [])]
