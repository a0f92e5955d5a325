"""The account of releases: it forgets none, counts none twice, and allows none too many."""

from __future__ import annotations

import pytest

from promptfed.errors import RunError
from promptfed.privacy.account import FILE, LimitReached, ReleaseAccount, grouped, read_releases
from promptfed.privacy.accountant import Release, epsilon
from promptfed.privacy.release import Spent
from promptfed.privacy.secret_key import KEY_BYTES, SecretKey

ONE, TWO = Spent(1, "aa", 2.0, 1.0), Spent(2, "bb", 2.0, 1.0)


def test_what_was_released_is_read_again(tmp_path):
    account = ReleaseAccount(tmp_path)
    account(ONE)
    account(TWO)
    account(ONE)
    assert read_releases(tmp_path) == (ONE, TWO)
    assert ReleaseAccount(tmp_path).releases == (ONE, TWO)
    assert grouped((ONE, TWO)) == {(2.0, 1.0): 2}


def test_one_too_many_is_not_recorded(tmp_path):
    account = ReleaseAccount(tmp_path, most=1)
    account(ONE)
    account(ONE)
    with pytest.raises(LimitReached, match="1 releases are all"):
        account(TWO)
    assert read_releases(tmp_path) == (ONE,)
    assert account.knows(1)
    assert not account.knows(2)


def test_a_missing_release_stops_the_run(tmp_path):
    account = ReleaseAccount(tmp_path)
    account(TWO)
    with pytest.raises(RunError, match="lacks the release of round 1"):
        account.check(2)
    account(ONE)
    account.check(2)


def test_a_changed_file_is_refused(tmp_path):
    ReleaseAccount(tmp_path)(ONE)
    path = tmp_path / FILE
    path.write_text(path.read_text().replace('"round": 1', '"round": 2'))
    with pytest.raises(RunError, match=r"releases\.json"):
        ReleaseAccount(tmp_path)


def test_releases_belong_to_one_key(tmp_path):
    key, other = SecretKey(bytes(KEY_BYTES)), SecretKey(bytes([1]) + bytes(KEY_BYTES - 1))
    account = ReleaseAccount(tmp_path)
    account.bind(other)
    account.bind(key)
    account(ONE)
    account.bind(key)
    again = ReleaseAccount(tmp_path)
    with pytest.raises(RunError, match=r"privacy\.key' is not the key of the releases in releases\.json"):
        again.bind(other)
    again.bind(key)
    again(TWO)
    ReleaseAccount(tmp_path).bind(key)


def test_releases_of_one_round_share_their_cohort():
    again = [Spent(1, "aa", 2.0, 0.1), Spent(1, "bb", 2.0, 0.1), Spent(2, "cc", 2.0, 0.1)]
    assert sorted(grouped(again).items()) == [((pytest.approx(2 / 2**0.5), 0.1), 1), ((2.0, 0.1), 1)]
    spent = [Release(*kind, count) for kind, count in grouped(again).items()]
    assert epsilon(spent, 1e-5) > epsilon([Release(2.0, 0.1, 3)], 1e-5)


def test_a_round_that_is_released_again_is_asked_about(tmp_path):
    account = ReleaseAccount(tmp_path, most=9, is_affordable=lambda releases: len(releases) < 3)
    account(ONE)
    account(TWO)
    account(Spent(3, "cc", 2.0, 1.0))
    with pytest.raises(LimitReached, match="released again"):
        account(Spent(3, "dd", 2.0, 1.0))
    assert len(read_releases(tmp_path)) == 3
