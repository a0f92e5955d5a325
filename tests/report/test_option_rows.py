"""The options that somebody chose come first; all are there."""

from promptfed.config import RunConfig
from promptfed.report.option_rows import option_rows
from promptfed.resolve import complete


def test_only_what_differs_from_the_defaults_of_the_task() -> None:
    config = complete(RunConfig(rounds=3, method_options={"n_ctx": 4}, task_options={"overlap": True}))
    differing, every = option_rows(config)
    assert dict(differing) == {
        "task": "clip-fewshot", "method": "promptfl", "data": "icons", "rounds": "3", "method.n_ctx": "4",
        "task.overlap": "true",
    }  # fmt: skip
    assert {"method.lr", "seed", "privacy.dp"} <= set(dict(every))


def test_defaults_of_another_task_are_not_chosen() -> None:
    differing, _ = option_rows(complete(RunConfig(task="text-classification")))
    assert set(dict(differing)) == {"task", "method", "data"}


def test_a_method_that_is_not_installed_is_compared_with_the_defaults_of_train() -> None:
    differing, _ = option_rows(RunConfig(method="of_a_stranger", rounds=2, method_options={"depth": 3}))
    assert dict(differing)["method"] == "of_a_stranger"
    assert dict(differing)["rounds"] == "2"
    assert dict(differing)["method.depth"] == "3"
