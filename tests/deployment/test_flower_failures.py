"""What Flower of this version does not recover from: a new version that does, or is built otherwise, fails here."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr")

from flwr.app import Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.supercore import heartbeat
from flwr.supercore.constant import TaskType
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from promptfed.deployment.flower_failures import BEAT_SECONDS, answer_for_failed_apps, steady_heartbeats


@pytest.fixture
def unchanged(monkeypatch):
    """Flower's own functions are back after the test."""
    monkeypatch.setattr(heartbeat.HeartbeatSender, "_heartbeat", heartbeat.HeartbeatSender._heartbeat)
    monkeypatch.setattr(heartbeat, "HEARTBEAT_DEFAULT_INTERVAL", heartbeat.HEARTBEAT_DEFAULT_INTERVAL)
    for name in ("finish_task", "_on_task_tokens_expired"):
        monkeypatch.setattr(InMemoryNodeState, name, getattr(InMemoryNodeState, name))
    yield
    if hasattr(InMemoryNodeState, "answers_for_failed_apps"):
        del InMemoryNodeState.answers_for_failed_apps


def test_a_heartbeat_that_fails_in_any_way_is_sent_again(unchanged):
    def broken():
        raise RuntimeError("500: database is locked")

    sender = heartbeat.HeartbeatSender(broken)
    with pytest.raises(RuntimeError):
        sender._heartbeat()
    for _ in range(2):  # twice is as once
        steady_heartbeats()
        with pytest.raises(heartbeat.HeartbeatFailure, match="database is locked"):
            sender._heartbeat()
    assert heartbeat.HEARTBEAT_DEFAULT_INTERVAL == BEAT_SECONDS
    sender.heartbeat_fn = lambda: True
    sender._heartbeat()


@pytest.fixture
def node(fake_grid):
    """A node with two functions: a message that came with its task, and what the node would send."""
    fake_grid.FakeGrid()  # names the run, as a process of Flower does
    state = InMemoryNodeState(InMemoryObjectStore())
    state.set_node_id(1)

    def come():
        message = Message(RecordDict(), 1, "query.promptfed")
        message.metadata.__dict__["_message_id"] = message.object_id
        task = state.create_task(TaskType.CLIENT_APP, run_id=message.metadata.run_id, fab_hash="x")
        state.store_message(message)
        assert state.claim_task(task)
        assert state.activate_task(task)
        return task

    return state, come, lambda: state.get_messages_legacy(is_reply=True)


def test_a_message_whose_process_failed_before_it_took_it_is_answered_with_an_error(unchanged, node):
    state, come, replies = node
    task = come()
    assert state.finish_task(task, SubStatus.FAILED, "Task failed")
    assert not replies(), "Flower's node waits without end"
    answer_for_failed_apps()
    state.msg_store.clear()
    for is_taken in (False, True):
        task = come()
        if is_taken:
            state.get_messages_legacy(is_reply=False)
        assert state.finish_task(task, SubStatus.FAILED, "Task failed")
        [reply] = replies()
        assert reply.error.code == 8
        state.msg_store.clear()


def test_a_message_of_another_process_is_left_alone(unchanged, node):
    state, come, replies = node
    answer_for_failed_apps()
    first = come()
    state.msg_store.clear()  # its answer was sent
    second = come()
    assert state.finish_task(first, SubStatus.FAILED, "Task failed")
    assert not replies(), "the second is at work"
    assert state.get_messages_legacy(is_reply=False)
    assert state.finish_task(second, SubStatus.COMPLETED, "")
    assert not replies()
