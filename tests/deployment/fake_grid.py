"""A grid without a network: nodes are functions in this process, and everything is serialised on its way.

Loaded by path (see ``fake_grid`` in tests/conftest.py), as several folders of tests use it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Wire
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from promptfed.deployment.parcels import unwrapped, wrapped


def sent(content: RecordDict) -> RecordDict:
    """What arrives: the bytes of Flower's own serialisation, read again."""
    return recorddict_from_proto(Wire.FromString(recorddict_to_proto(content).SerializeToString()))


class FakeGrid(Grid):
    """``nodes``: node number -> what answers a message there; a node that raises gives an Error reply.

    ``threaded``: each message is answered in a thread of its own, which may hang.
    """

    def __init__(self, threaded: bool = False) -> None:
        self.threaded = threaded
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1  # as in the server's process
        self.nodes: dict[int, Callable[[RecordDict], RecordDict]] = {}
        self.lost: set[int] = set()
        """Nodes that are listed and never reply."""
        self.loses: Callable[[Message], bool] = lambda message: False
        """Whether the answer to this message gets lost on its way."""
        self.seen: list[Message] = []
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...

    def create_message(self, *args: Any, **named: Any) -> Message:
        raise AssertionError("questions are pushed and answers pulled")

    def send_and_receive(self, *args: Any, **named: Any) -> Any:
        raise AssertionError("questions are pushed and answers pulled")

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def push_messages(self, messages: Any) -> list[str]:
        identities = []
        for message in messages:
            identity = f"message {len(self.seen)}"
            message.metadata.__dict__["_message_id"] = identity
            message.content = unwrapped(sent(message.content))
            self.seen.append(message)
            identities.append(identity)
            node = message.metadata.dst_node_id
            if node in self.lost:
                continue
            if self.threaded:
                threading.Thread(target=self._answer, args=(identity, message), daemon=True).start()
            else:
                self._answer(identity, message)
        return identities

    def _answer(self, identity: str, message: Message) -> None:
        try:
            answer = self.nodes[message.metadata.dst_node_id](sent(message.content))
            reply = Message(sent(wrapped(answer)), reply_to=message)
        except Exception as error:
            reply = Message(Error(2, f"Traceback ...\n{type(error).__name__}: {error}"), reply_to=message)
        if not self.loses(message):
            self._replies[identity] = reply

    def pull_messages(self, identities: Any) -> list[Message]:
        found = [i for i in identities if i in self._replies]
        return [self._replies.pop(i) for i in found[-1:]]  # one at a time, and not in the order of the questions
