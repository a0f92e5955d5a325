"""Identities of sites on their disks, and the file of pins that operators make of them."""

from __future__ import annotations

import pytest

pytest.importorskip("cryptography")
pytest.importorskip("flwr")

from promptfed.deployment.site_identities import own_identity, pinned_identities
from promptfed.errors import DeploymentError
from promptfed.privacy.channel_keys import identity_fingerprint

ONE, OTHER = (identity_fingerprint(bytes([k] * 32)) for k in range(2))


def test_a_site_has_one_identity_which_its_owner_alone_can_read(tmp_path):
    first = own_identity(tmp_path / "state")
    assert own_identity(tmp_path / "state") == first
    assert (tmp_path / "state" / "identity").stat().st_mode & 0o777 == 0o600
    (tmp_path / "state" / "identity").write_text("12ab")
    with pytest.raises(DeploymentError, match="holds no identity of 32 bytes"):
        own_identity(tmp_path / "state")


def test_a_file_of_pins_has_a_line_for_each_site(tmp_path):
    (tmp_path / "pins").write_text(f"# of the telephone call of Monday\n\n{ONE} north\n  {OTHER}  the south\n")
    assert pinned_identities(tmp_path / "pins") == {"north": ONE, "the south": OTHER}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"{ONE}\n", "line 1 of .* is not FINGERPRINT NAME"),
        (f"{ONE} north\n{ONE[:-1]} south", "line 2"),
        (f"{ONE} north\n\n{OTHER} north", "line 3 of .* of one more site"),
        (f"north {ONE}", "line 1"),
    ],
)
def test_what_is_no_file_of_pins(tmp_path, text, why):
    (tmp_path / "pins").write_text(text)
    with pytest.raises(DeploymentError, match=why) as refusal:
        pinned_identities(tmp_path / "pins")
    assert len(str(refusal.value).splitlines()) == 1
    with pytest.raises(DeploymentError, match="cannot read"):
        pinned_identities(tmp_path / "none")
