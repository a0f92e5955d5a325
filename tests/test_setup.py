"""A setup: the frozen model and the agreement; what only one kind of model has is refused for another in one line."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from promptfed.agreement import Agreement
from promptfed.errors import ConfigError
from promptfed.setup import Setup


def test_the_agreement_is_read_through_the_setup(setup: Setup) -> None:
    agreed = setup.agreement
    assert (setup.classes, setup.templates, setup.domains) == (agreed.classes, agreed.templates, agreed.domains)
    assert (setup.rounds, setup.seed, agreed.clients) == (3, 0, len(setup.domains))
    assert setup.features.backbone is setup.backbone


def test_other_values_of_the_agreement_leave_the_model_and_the_old_setup_alone(setup: Setup) -> None:
    other = setup.agreeing(seed=5, classes=("one", "two"))
    assert (other.seed, other.classes, other.rounds) == (5, ("one", "two"), setup.rounds)
    assert other.model is setup.model
    assert setup.seed == 0


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"clases": ("a",)}, {"seed": "x"}])
def test_a_wrong_value_is_refused(setup: Setup, wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        setup.agreeing(**wrong)


def test_an_agreement_cannot_be_changed() -> None:
    agreed = Agreement(classes=("a", "b"), rounds=1, seed=0)
    with pytest.raises(ValidationError):
        agreed.seed = 1  # type: ignore[misc]


def test_a_dual_encoder_is_no_oracle(setup: Setup) -> None:
    with pytest.raises(ConfigError, match="asks a black box: use --task"):
        _ = setup.oracle
    assert setup.model.spent() is None
    assert setup.model.form is None
    assert setup.model.unanswered() == {}
    with setup.model.account(stage="promptfl", round=1, client=0):
        pass
