"""A setup whose model is an oracle: it has no features, and its account is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from promptfed.errors import ConfigError
from promptfed.setup import Setup


@pytest.mark.parametrize("part", ["features", "backbone"])
def test_an_oracle_is_no_dual_encoder(black_setup: Setup, part: str) -> None:
    with pytest.raises(ConfigError, match=r"black box \(an oracle\): choose a black-box method"):
        getattr(black_setup, part)


def test_what_is_asked_is_in_its_account_and_counts_in_the_next_process(
    black_setup: Setup, text_split, tmp_path: Path
) -> None:
    model, split = black_setup.model, text_split("hot: fire", "cold: ice", "cold: snow")
    model.keep_account_in(tmp_path)
    with model.account(stage="zero_shot", round=1, client=2):
        scores = model.template_scores("warm", split, black_setup.classes)
    assert scores.shape == (3, len(black_setup.classes))
    assert model.spent() == model.usage()
    assert model.usage().oracle_queries == 3
    assert black_setup.oracle.ledger.total("zero_shot") == model.spent()
    model.keep_account_in(tmp_path)  # as a later process would
    assert model.spent().oracle_queries == 3 == black_setup.oracle.budget.spent.oracle_queries
    [about] = model.describe().values()
    assert about == {"name": model.name, "fingerprint": model.fingerprint}


def test_hand_written_prompts_are_asked_about_in_one_request(black_setup: Setup, text_split, monkeypatch) -> None:
    model, split = black_setup.model, text_split("hot: fire", "cold: ice")
    expected = [model.template_scores(template, split, black_setup.classes) for template in ("warm", "cold")]
    requests = []
    ask = model.ask
    monkeypatch.setattr(model, "ask", lambda queries: requests.append(len(queries)) or ask(queries))
    assert torch.equal(model.scores_of_templates(("warm", "cold"), split, black_setup.classes), torch.stack(expected))
    assert requests == [4]
