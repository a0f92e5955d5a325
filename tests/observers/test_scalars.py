"""Numbers of events, by the names that trackers show."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from promptfed.observers.scalars import ScalarReader, Scalars


def read(reader: ScalarReader, happening: tuple[str, dict[str, Any]]) -> Scalars | None:
    event, fields = happening
    return reader.read({"event": event, "time": "2026-01-01T00:00:00.000+00:00", **fields})


def test_numbers_keep_their_stage_and_round_and_what_is_spent_adds_up(story: Any) -> None:
    reader = ScalarReader()
    assert read(reader, story.start) is None
    for number in (1, 2):
        client, end = (read(reader, happening) for happening in story.round(number))
        assert client is not None
        assert client.named()["promptfl/client_3/loss"] == 0.5
        assert end is not None
        assert (end.stage, end.step) == ("promptfl", number)
        assert end.time == datetime(2026, 1, 1, tzinfo=UTC).timestamp()
        assert (end.values["bytes_total"], end.values["oracle_calls"]) == (30 * number, 2 * number)
    tested = read(reader, story.tests)
    assert tested is not None
    assert tested.step == 2
    assert tested.values == {
        "test/local": 0.5, "test/base": 0.625, "client_3/test_accuracy": 0.5, "client_3/test_all_classes": 0.25,
        "test/domain/a_b": 0.125,
    }  # fmt: skip


def test_a_secure_sum_has_its_bytes_beside_those_of_the_client_s_work() -> None:
    fields = {"stage": "s", "round": 2, "client": 3, "bytes_up": 9_000, "bytes_down": 500}
    scalars = read(ScalarReader(), ("sum", fields))
    assert scalars is not None
    assert (scalars.step, scalars.values) == (2, {"client_3/sum_bytes_up": 9_000, "client_3/sum_bytes_down": 500})


def test_null_is_no_number(story: Any) -> None:
    scalars = read(ScalarReader(), ("round", {"stage": "s", "round": 1, "loss": None, "failed": 0}))
    assert scalars is not None
    assert scalars.values == {"failed": 0, "bytes_total": 0}
