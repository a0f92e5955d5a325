"""The account of a site: what releases cost together, and what its operator is shown."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("flwr")

from promptfed.cli import main
from promptfed.deployment.site_account import RunTerms, SiteAccount, SiteRelease, spent
from promptfed.errors import DeploymentError
from promptfed.privacy.accountant import Release, epsilon

TERMS = RunTerms(terms="0" * 64, key="1" * 64, method="promptfl", rounds=5, delta=1e-3, limit=8.0)


def release(run="a", round=1, multiplier=2.0, probability=1.0, steps=1):
    return SiteRelease(run, round, f"{run}-{round}", multiplier, probability, steps)


def test_rounds_and_runs_add_up_as_releases_of_their_own():
    four = [release("a", 1, steps=2), release("a", 2, steps=2), release("b", 1, multiplier=3.0)]
    assert spent(four, 1e-5) == epsilon([Release(2.0, 1.0, 4), Release(3.0, 1.0, 1)], 1e-5)
    assert spent([], 1e-5) == 0


def test_a_round_that_is_released_again_costs_what_the_same_batches_would():
    """Two of one round may share their examples: then they are one release with half the variance."""
    again = spent([release(probability=0.3), release(probability=0.3)], 1e-3)
    assert again == pytest.approx(epsilon([Release(2.0 / 2**0.5, 0.3, 1)], 1e-3))
    assert again > epsilon([Release(2.0, 0.3, 2)], 1e-3)


def test_without_noise_nothing_is_promised_and_without_steps_nothing_is_spent():
    assert spent([release(multiplier=0.0)], 1e-5) == math.inf
    assert spent([release(multiplier=0.0, steps=0)], 1e-5) == 0


def test_an_account_is_read_as_it_was_written_by_its_owner_alone(tmp_path):
    account = SiteAccount({"a": TERMS}, (release(), release(round=2)))
    account.save(tmp_path)
    assert SiteAccount.load(tmp_path) == account
    assert (tmp_path / "releases.json").stat().st_mode & 0o777 == 0o600


def test_an_account_that_was_touched_is_refused(tmp_path):
    SiteAccount({"a": TERMS}, (release(),)).save(tmp_path)
    path = tmp_path / "releases.json"
    path.write_bytes(path.read_bytes().replace(b'"releases": [', b'"releases": [], "x": ['))
    with pytest.raises(DeploymentError, match=r"cannot use .*releases\.json: its checksum"):
        SiteAccount.load(tmp_path)


def test_an_operator_sees_what_each_run_and_all_together_cost(tmp_path, capsys):
    SiteAccount({"a": TERMS, "b": TERMS}, (release(), release(round=2), release("b"))).save(tmp_path)
    with pytest.raises(SystemExit):
        main(["site", "status", "--state-dir", str(tmp_path)])
    one, two, total = capsys.readouterr().out.splitlines()
    cost = epsilon([Release(2.0, 1.0, 2)], 1e-3)
    assert one == f"run a: promptfl, 2 of 5 rounds in 2 releases, epsilon {cost:.3g} of 8 at delta 0.001"
    assert two.startswith("run b: promptfl, 1 of 5 rounds")
    all_three = epsilon([Release(2.0, 1.0, 3)], 1e-5)
    assert total == f"all runs together: epsilon {all_three:.3g} at delta 1e-05, for one example of this site"
    with pytest.raises(SystemExit) as ended:
        main(["site", "status", "--state-dir", str(tmp_path / "nowhere")])
    assert ended.value.code == 2
    assert "keeps nothing of any run" in capsys.readouterr().err
