import pytest

from promptfed.config import RunConfig
from promptfed.errors import ConfigError, FormatError, PromptFedError
from promptfed.readers.content import expected_content
from promptfed.report.html import write_report
from promptfed.report.summary import run_summary
from promptfed.runs.directory import RunDirectory

FORGED = {
    "metrics.json": [{"method": [1]}, {"method": 3}, {"method": {"local": "x"}}, {"method": {"base": [1]}}],
    "partition.json": [{"clients": 3}, {"clients": [3]}, {"clients": [{"name": "a", "train": ["x"]}]}],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in FORGED.items() for value in values])
def test_a_forged_file_of_a_run_costs_one_line(tmp_path, name, value):
    run = RunDirectory.create(tmp_path / "run", RunConfig(), label="")
    run.write_json(name, value)
    with pytest.raises(PromptFedError, match="do not hold what promptfed writes") as caught:
        write_report(run)
    assert "\n" not in str(caught.value)
    assert run_summary(run.path)["state"].startswith("damaged" if name == "metrics.json" else "unfinished")
    assert not (run.path / "report.html").exists()


@pytest.mark.parametrize(
    "error", [KeyError("a"), TypeError("b"), ZeroDivisionError("c"), OverflowError("d"), ValueError()]
)
def test_surprises_become_one_error_and_errors_on_purpose_pass(error):
    with (
        pytest.raises(FormatError, match=f"^its files do not hold .*{type(error).__name__}"),
        expected_content("its files"),
    ):
        raise error
    with pytest.raises(ConfigError, match="mine"), expected_content("its files"):
        raise ConfigError("mine")
