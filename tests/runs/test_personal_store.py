from __future__ import annotations

import pytest
import torch

from promptfed.errors import RunError
from promptfed.prompt_state import PromptState
from promptfed.runs.checkpoint import load_checkpoint, save_checkpoint
from promptfed.runs.personal_store import PersonalPrompts, PersonalStore, StoredPersonal, on_disk, update_personal
from promptfed.types import NO_PROMPT, FederationState


def prompt(value):
    return PromptState({"ctx": torch.full((2, 3), float(value))})


@pytest.fixture
def store(tmp_path):
    return PersonalStore(tmp_path / "checkpoints" / "personal")


@pytest.fixture
def stored(store):
    return StoredPersonal.begin(store, {0: prompt(0), 1: prompt(10), 2: NO_PROMPT}, 0)


def test_it_reads_what_was_written_and_holds_nothing(stored, store):
    assert dict(stored) == {0: prompt(0), 1: prompt(10), 2: NO_PROMPT}
    assert store.rounds(2) == [], "an empty prompt needs no file"
    with pytest.raises(KeyError):
        stored[7]
    (store.folder / "client-00001" / "round-0000.safetensors").unlink()
    with pytest.raises(RunError, match="client-00001"):
        stored[1]


def test_an_earlier_value_still_reads_what_it_did(stored):
    later = update_personal(stored, {1: prompt(11)}, 1)
    assert (stored[1], later[1], later[0]) == (prompt(10), prompt(11), prompt(0))


def test_a_plain_mapping_stays_one():
    assert update_personal({0: prompt(0), 1: prompt(1)}, {1: prompt(2)}, 5) == {0: prompt(0), 1: prompt(2)}


def test_a_checkpoint_names_versions_and_comes_back_as_the_same_value(stored, tmp_path):
    folder = tmp_path / "checkpoints"
    save_checkpoint(folder, FederationState(0, prompt(5), personal=stored), events_bytes=0)
    state = load_checkpoint(folder).state
    assert isinstance(state.personal, StoredPersonal)
    assert dict(state.personal) == dict(stored)
    assert (folder / "round-0000" / "state.safetensors").stat().st_size < 200, "the shared prompt alone"


@pytest.mark.parametrize("rest", [1, 2, 4])
def test_every_kept_checkpoint_finds_its_versions_and_older_ones_are_forgotten(stored, store, tmp_path, rest):
    """Client 0 works in every round, client 1 in each ``rest``-th."""
    folder, states = tmp_path / "checkpoints", {}
    state = FederationState(0, prompt(5), personal=stored)
    for round in range(1, 13):
        changed = {0: prompt(round)} | ({1: prompt(10 + round)} if round % rest == 0 else {})
        state = FederationState(round, prompt(5), personal=update_personal(state.personal, changed, round))
        states[round] = {0: prompt(round), 1: prompt(10 + round - round % rest), 2: NO_PROMPT}
        save_checkpoint(folder, state, events_bytes=0)
        newest = sorted(folder.glob("round-*"))
        for kept in newest:
            about_round = int(kept.name.removeprefix("round-"))
            for later in newest:
                if later > kept:
                    later.rename(folder / f"aside-{later.name}")
            assert dict(load_checkpoint(folder)[0].personal) == states[about_round]
            for aside in folder.glob("aside-*"):
                aside.rename(folder / aside.name.removeprefix("aside-"))
    assert all(len(store.rounds(client)) <= 4 for client in (0, 1))


@pytest.mark.parametrize("stored", [False, True])
def test_of_ten_thousand_clients_only_those_that_trained_are_held(tmp_path, stored):
    everyone = PersonalPrompts(range(10_000), lambda client: prompt(client))
    if stored:
        everyone = on_disk(everyone, tmp_path / "checkpoints" / "personal", 0)
    later = update_personal(everyone, {7: prompt(0.5), 9_999: prompt(1.5)}, 1)
    assert (len(later), list(later.changed)) == (10_000, [7, 9_999])
    assert (later[7], later[8], everyone[7]) == (prompt(0.5), prompt(8), prompt(7)), "an earlier value stays as it was"
    with pytest.raises(KeyError):
        later[10_000]
    folder = save_checkpoint(tmp_path / "checkpoints", FederationState(1, prompt(5), personal=later), events_bytes=0)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3000, "nothing of those that never took part"
    assert dict(load_checkpoint(folder.parent).state.personal) == {7: prompt(0.5), 9_999: prompt(1.5)}


def test_an_empty_prompt_is_a_change_only_where_a_client_starts_with_something():
    nothing = PersonalPrompts([0, 2, 5], lambda client: NO_PROMPT)
    assert update_personal(nothing, {2: NO_PROMPT}, 1) is nothing
    something = update_personal(PersonalPrompts([0, 2, 5], prompt), {2: NO_PROMPT}, 1)
    assert dict(something) == {0: prompt(0), 2: NO_PROMPT, 5: prompt(5)}
