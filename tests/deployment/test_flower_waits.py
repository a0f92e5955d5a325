"""What Flower of this version waits for, and by what: a new version that waits otherwise fails here."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("flwr")

from flwr.supercore.inflatable import inflatable_utils
from flwr.supernode import start_client_internal

from promptfed.deployment.flower_waits import look_every, shorten_waits_for_parts


def test_parts_of_a_message_are_asked_for_again_soon(monkeypatch):
    functions = (inflatable_utils.pull_objects, inflatable_utils.pull_and_inflate_object_from_tree)
    for function in functions:
        assert function.__kwdefaults__["initial_backoff"] >= 1
        monkeypatch.setitem(function.__kwdefaults__, "initial_backoff", function.__kwdefaults__["initial_backoff"])
    shorten_waits_for_parts()
    assert {function.__kwdefaults__["initial_backoff"] for function in functions} == {0.1}


def test_a_node_sleeps_for_less(monkeypatch):
    waits = []
    monkeypatch.setattr(start_client_internal, "time", start_client_internal.time)
    look_every(0.5)
    monkeypatch.setattr(time, "sleep", waits.append)
    start_client_internal.time.sleep(3)
    start_client_internal.time.sleep(0.5)
    assert waits == [0.5, 0.1]
    assert start_client_internal.time.monotonic() > 0
