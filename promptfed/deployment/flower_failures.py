"""Failures from which Flower 1.41 does not recover by itself. pyproject.toml allows no other version.

A process tells whoever started it that it lives. If one of these heartbeats is answered by anything but success, their
thread ends, and a minute later Flower ends the run, or the message, of a process that is well. And a node whose
ClientApp fails before it has fetched its message waits for its answer without end.
"""

from __future__ import annotations

from typing import Any

BEAT_SECONDS = 15
"""What heartbeats are computed from, in place of Flower's 30 seconds: one every eight seconds or so."""


def steady_heartbeats() -> None:
    """Have this process send heartbeats more often, and go on after any failure of one."""
    from flwr.supercore import heartbeat as module

    sender, failure = getattr(module, "HeartbeatSender", None), getattr(module, "HeartbeatFailure", None)
    beat = getattr(sender, "_heartbeat", None)
    if sender is None or failure is None or beat is None or getattr(beat, "is_steady", False):
        return

    def steady(self: Any) -> None:
        try:
            beat(self)
        except failure:
            raise
        except Exception as error:
            raise failure(str(error)) from error

    steady.is_steady = True  # type: ignore[attr-defined]
    sender._heartbeat = steady
    if hasattr(module, "HEARTBEAT_DEFAULT_INTERVAL"):
        module.HEARTBEAT_DEFAULT_INTERVAL = BEAT_SECONDS


def answer_for_failed_apps() -> None:
    """Have the node in this process answer with an error for a ClientApp that failed without a word."""
    from flwr.common.constant import Status, SubStatus
    from flwr.supercore.constant import TaskType
    from flwr.supernode.nodestate import in_memory_nodestate as module

    state: Any = getattr(module, "InMemoryNodeState", None)
    error = getattr(module, "CLIENT_APP_CRASHED_ERROR", None)
    names = ("finish_task", "_on_task_tokens_expired", "_store_error_replies", "get_tasks")
    if error is None or not all(hasattr(state, name) for name in names) or hasattr(state, "answers_for_failed_apps"):
        return
    finish, expired = state.finish_task, state._on_task_tokens_expired

    def answer(node: Any, run: int) -> None:
        """Answer for the messages of a run for which no process works, or will."""
        tasks = list(node.task_store.values())  # other threads add some
        tasks = [task for task in tasks if task.run_id == run and task.type == TaskType.CLIENT_APP]
        if any(task.status.status != Status.FINISHED for task in tasks):
            return
        with node.lock_msg_store:
            for entry in node.msg_store.values():
                about = entry.message.metadata
                if about.run_id == run and not about.reply_to_message_id and not entry.is_retrieved:
                    entry.is_retrieved = True
                    node.record_message_processing_start(about.message_id)
            node._store_error_replies({run}, error)

    def finish_task(node: Any, task_id: int, sub_status: str, details: str) -> bool:
        finished = bool(finish(node, task_id, sub_status, details))
        task = node.task_store.get(task_id)
        if finished and sub_status == SubStatus.FAILED and task is not None and task.type == TaskType.CLIENT_APP:
            answer(node, task.run_id)
        return finished

    def on_task_tokens_expired(node: Any, tasks: Any) -> None:
        expired(node, tasks)
        for run in {task.run_id for task in tasks if task.type == TaskType.CLIENT_APP}:
            answer(node, run)

    state.finish_task, state._on_task_tokens_expired = finish_task, on_task_tokens_expired
    state.answers_for_failed_apps = True
