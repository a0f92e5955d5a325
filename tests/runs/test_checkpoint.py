"""Checkpoints: bit-exact, whole or not at all, and honest about damage."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfed.errors import RunError
from promptfed.files.sealed_json import opened_json, sealed_json
from promptfed.prompt_state import PromptState
from promptfed.runs.checkpoint import load_checkpoint, newest_round, save_checkpoint
from promptfed.runs.personal_store import PersonalStore, StoredPersonal
from promptfed.types import NO_PROMPT, FederationState, Reply, Update
from promptfed.usage import Usage

NAMES = st.text(st.sampled_from('ab/._ é"0'), min_size=1, max_size=6)


@st.composite
def prompts(draw: st.DrawFn) -> PromptState:
    """Any names in any order, any shapes (also empty ones), any bit patterns (also NaN and -0.0)."""
    tensors = {}
    for name in draw(st.lists(NAMES, unique=True, max_size=3)):
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        bits = draw(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=math.prod(shape), max_size=math.prod(shape)))
        tensors[name] = torch.tensor(bits, dtype=torch.int32).view(torch.float32).reshape(shape)
    return PromptState(tensors)


@st.composite
def replies(draw: st.DrawFn, client: int) -> Reply:
    number = st.floats()  # NaN and infinities too: a bad round must still be savable
    update = Update(client, draw(prompts()), draw(st.integers(0, 10**9)), draw(number), draw(number))
    calls = st.integers(0, 10**9)
    return Reply(
        client,
        draw(st.integers(1, 99)),
        update,
        draw(prompts()),
        draw(number),
        Usage(draw(calls), draw(calls), usd=0.25),
    )


@st.composite
def states(draw: st.DrawFn) -> FederationState:
    clients = draw(st.lists(st.integers(0, 50), unique=True, max_size=3))
    personal = {client: draw(prompts()) for client in clients}
    pending = tuple(draw(replies(client)) for client in sorted(clients[:2]))
    return FederationState(draw(st.integers(0, 12000)), draw(prompts()), draw(prompts()), personal, pending)


def bits(prompt: PromptState) -> list[tuple[str, tuple[int, ...], bytes]]:
    return [(name, tuple(t.shape), t.contiguous().numpy().tobytes()) for name, t in prompt.items()]


def fingerprint(state: FederationState) -> object:
    """Everything in a state, in a form in which NaN equals itself and order counts."""
    return (
        state.round,
        bits(state.shared),
        bits(state.server),
        [(client, bits(prompt)) for client, prompt in state.personal.items()],
        [
            (
                *(r.client, r.round, r.usage, repr(r.seconds), bits(r.personal)),
                *(r.update.client, r.update.samples, repr(r.update.loss), repr(r.update.accuracy)),
                bits(r.update.shared),
            )
            for r in state.pending
        ],
    )


def simple(round: int, value: float = 0.0) -> FederationState:
    return FederationState(round, PromptState({"ctx": torch.full((2, 3), value)}))


@settings(max_examples=60, deadline=None)
@given(state=states(), events_bytes=st.integers(0, 2**40))
def test_round_trip_is_bit_exact(state: FederationState, events_bytes: int) -> None:
    with TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), state, events_bytes=events_bytes)
        found = load_checkpoint(Path(folder))
    assert found is not None
    assert fingerprint(found[0]) == fingerprint(state)
    assert found[1] == events_bytes


def test_a_checkpoint_is_two_files_a_stranger_can_read(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, simple(7), events_bytes=123)
    assert folder == tmp_path / "round-0007"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.json", "state.safetensors"]
    about = json.loads((folder / "checkpoint.json").read_text())
    assert (about["round"], about["events_bytes"], about["shared"]) == (7, 123, ["ctx"])


def test_keeps_the_newest_and_counts_rounds_as_numbers(tmp_path: Path) -> None:
    for round in (9998, 9999, 10000, 10001):
        save_checkpoint(tmp_path, simple(round), events_bytes=round, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-10000", "round-10001"]
    assert newest_round(tmp_path) == 10001


def test_same_round_is_replaced(tmp_path: Path) -> None:
    """An interrupted round 7 is saved as round 6 with pending replies, over the plain round 6."""
    reply = Reply(
        3, 7, Update(3, PromptState({"ctx": torch.ones(2, 3)}), 8, 0.5, 0.25), PromptState(), 1.5, Usage(8, 2)
    )
    save_checkpoint(tmp_path, simple(6), events_bytes=60)
    save_checkpoint(tmp_path, FederationState(6, simple(6).shared, pending=(reply,)), events_bytes=65)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[1] == 65
    assert [r.client for r in found[0].pending] == [3]
    assert [path.name for path in tmp_path.iterdir()] == ["round-0006"]


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "never made") is None
    assert newest_round(tmp_path / "never made") == 0


def test_loading_changes_nothing_on_disk(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, simple(1), events_bytes=0)
    (tmp_path / ".draft-round-0002").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    assert load_checkpoint(tmp_path) is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def flip(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["state.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("position", [0, 40, 90, -3])
def test_of_a_damaged_checkpoint_it_is_said_and_the_one_before_is_taken(
    tmp_path: Path, file: str, position: int
) -> None:
    save_checkpoint(tmp_path, simple(1, 1.0), events_bytes=10)
    newest = save_checkpoint(tmp_path, simple(2, 2.0), events_bytes=20)
    flip(newest / file, position)
    lines: list[str] = []
    found = load_checkpoint(tmp_path, lines.append)
    assert found is not None
    assert (found.state.round, found.events_bytes) == (1, 10)
    assert len(lines) == 1
    assert str(newest / file) in lines[0]
    assert "going on from round 1" in lines[0]
    with pytest.raises(RunError, match="damaged"):
        load_checkpoint(tmp_path, fall_back=False)
    save_checkpoint(tmp_path, simple(2, 2.0), events_bytes=20)
    again = load_checkpoint(tmp_path, lines.append)
    assert again is not None
    assert again.state.shared == simple(2, 2.0).shared
    assert len(lines) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-0001", "round-0002"]


@pytest.mark.parametrize(
    ("field", "value"), [("round", 1), ("events_bytes", 21), ("events_sha256", "00"), ("loss", 0.25)]
)
def test_every_number_of_the_description_is_covered(tmp_path: Path, field: str, value: object) -> None:
    """The file stays proper JSON, so only its checksum can tell."""
    reply = Reply(0, 3, Update(0, simple(2).shared, 8, 0.5, 0.5), PromptState(), 1.0)
    save_checkpoint(tmp_path, simple(1), events_bytes=10)
    newest = save_checkpoint(tmp_path, replace(simple(2), pending=(reply,)), events_bytes=20, events_sha256="ff")
    path = newest / "checkpoint.json"
    about = json.loads(path.read_text())
    (about["pending"][0] if field == "loss" else about)[field] = value
    path.write_text(json.dumps(about))
    lines: list[str] = []
    found = load_checkpoint(tmp_path, lines.append)
    assert found is not None
    assert found.state.round == 1
    assert "checksum" in lines[0]


def test_a_checkpoint_in_the_folder_of_another_round_is_not_taken_for_it(tmp_path: Path) -> None:
    newest = save_checkpoint(tmp_path, simple(4), events_bytes=0)
    newest.rename(tmp_path / "round-0005")
    with pytest.raises(RunError, match="of round 4, its folder of round 5"):
        load_checkpoint(tmp_path)


def test_every_bit_of_a_checkpoint_is_covered(tmp_path: Path) -> None:
    """A flip is found, or the file still says the same (a blank turned into another kind of blank)."""
    save_checkpoint(tmp_path, simple(1, 1.0), events_bytes=10)
    newest = save_checkpoint(tmp_path, simple(2, 2.0), events_bytes=20, events_sha256="ab" * 32)
    whole = load_checkpoint(tmp_path)
    assert whole is not None
    lines: list[str] = []
    for file in ("checkpoint.json", "state.safetensors"):
        content = (newest / file).read_bytes()
        for place in range(0, 8 * len(content), 7):
            changed = bytearray(content)
            changed[place // 8] ^= 1 << place % 8
            (newest / file).write_bytes(changed)
            found = load_checkpoint(tmp_path, lines.append)
            assert found is not None
            assert found.state.round == 1 or (found.state.shared, *found[1:]) == (whole.state.shared, *whole[1:])
        (newest / file).write_bytes(content)
    assert len(lines) > 400


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"round": 2}', '{"round": 2, "round": 2}', "[" * 5000])
def test_a_damaged_description_without_another_checkpoint_is_an_error(tmp_path: Path, text: str) -> None:
    folder = save_checkpoint(tmp_path, simple(2), events_bytes=0)
    (folder / "checkpoint.json").write_text(text)
    with pytest.raises(RunError, match=r"checkpoint.json is damaged.*no whole one is left"):
        load_checkpoint(tmp_path)


def test_a_missing_file_is_damage(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, simple(2), events_bytes=0)
    (folder / "state.safetensors").unlink()
    with pytest.raises(RunError, match=r"lacks .*state.safetensors"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("written", [1, 2, 3, 99])
def test_checkpoints_of_other_versions_are_refused_in_one_line(tmp_path: Path, written: int) -> None:
    save_checkpoint(tmp_path, simple(1), events_bytes=0)
    folder = save_checkpoint(tmp_path, simple(2), events_bytes=0)
    about = json.loads((folder / "checkpoint.json").read_text())
    (folder / "checkpoint.json").write_text(json.dumps({**about, "format": written}))
    with pytest.raises(RunError, match=f"format {written}.*version of promptfed"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(("written", "is_stored"), [(4, False), (5, True)])
def test_formats_that_name_every_client_are_read(tmp_path: Path, written: int, is_stored: bool) -> None:
    personal = {0: simple(1).shared, 1: NO_PROMPT}
    if is_stored:
        personal = StoredPersonal.begin(PersonalStore(tmp_path / "checkpoints" / "personal"), personal, 2)
    folder = save_checkpoint(tmp_path / "checkpoints", replace(simple(2), personal=personal), events_bytes=0)
    about = opened_json((folder / "checkpoint.json").read_bytes())
    (folder / "checkpoint.json").write_bytes(sealed_json({**about, "format": written}))
    assert dict(load_checkpoint(folder.parent).state.personal) == {0: simple(1).shared, 1: NO_PROMPT}


def test_a_disk_that_refuses_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="cannot write checkpoint"):
        save_checkpoint(tmp_path / "file", simple(1), events_bytes=0)


# ---------------------------------------------------------------------------------------------- kill -9

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed writers are forked")


def killed_writers(kind: str, folder: Path) -> list[dict[str, object]]:
    program = Path(__file__).with_name("kill_writer.py")
    command = [sys.executable, "-P", str(program), kind, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@needs_fork
def test_death_before_any_file_operation_leaves_a_good_checkpoint(tmp_path: Path) -> None:
    lines = killed_writers("events", tmp_path)
    assert len(lines) > 15
    assert [line["survived"] for line in lines] == [False] * (len(lines) - 1) + [True]
    allowed = [
        {"round": 3, "values": [3.0], "events_bytes": 30},
        {"round": 3, "values": [3.0625], "events_bytes": 31},
        {"round": 4, "values": [4.0], "events_bytes": 40},
    ]
    order = [allowed.index(line["loaded"]) for line in lines]
    assert order == sorted(order), "later deaths must not load older states"
    assert set(order) == {0, 1, 2}
    for line in lines:
        assert line["after"] == {"round": 5, "values": [5.0], "events_bytes": 50}
        assert all(name.startswith("round-") for name in line["names"])
        assert len(line["names"]) == 3


@pytest.mark.slow
@needs_fork
def test_kill_at_random_moments_loses_no_finished_save(tmp_path: Path) -> None:
    lines = killed_writers("random", tmp_path)
    assert len(lines) == 6
    for line in lines:
        found = line["loaded"]
        assert found["round"] >= line["told"]
        assert found["values"] in ([found["round"]], [found["round"] + 1 / 16])
        assert found["events_bytes"] == found["round"]


def test_one_prompt_in_two_places_is_saved_twice(tmp_path: Path) -> None:
    """Who dropped out of the round under way has the same personal prompt in its reply and in the state."""
    mine = PromptState({"ctx": torch.arange(6.0).reshape(2, 3)})
    reply = Reply(0, 2, Update(0, mine, 0, math.nan, math.nan), mine, 0.0, failure="dropped out")
    save_checkpoint(tmp_path, FederationState(1, mine, mine, {0: mine}, (reply,)), events_bytes=0)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    state = loaded[0]
    found = (state.shared, state.server, state.personal[0], state.pending[0].personal, state.pending[0].update.shared)
    assert all(prompt == mine for prompt in found)
    assert state.pending[0].failure == "dropped out"
