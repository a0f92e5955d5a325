"""Answer the messages of a node's operator's words: the site is built with the first one, and kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from promptfed.deployment import codec, messages
from promptfed.deployment.site import Site, SiteOptions
from promptfed.errors import PromptFedError

from flwr.common.serde import recorddict_from_proto, recorddict_to_proto  # isort: skip
from flwr.proto.recorddict_pb2 import RecordDict as Wire  # isort: skip


class SiteAnswers:
    """The site of one node.

    An error in its options or data becomes an answer of one line, and the next message tries again.
    """

    def __init__(self, node_config: Mapping[str, Any]) -> None:
        self.node_config = node_config
        self._site: Site | None = None

    def answer(self, content: Any, began: float | None = None) -> Any:
        """Answer a packed question.

        Args:
            content: The records of the question.
            began: When the work on it began, in seconds of ``time.monotonic``; None stands for now.
        """
        try:
            if self._site is None:
                self._site = Site(SiteOptions.of(self.node_config))
            return self._site.answer(content, began)
        except PromptFedError as error:
            print(f"error: {error}", flush=True)
            return codec.pack(messages.problem(str(error)))

    def answer_bytes(self, question: bytes, began: float | None = None) -> bytes:
        """Answer a question that Flower has serialised."""
        answer = self.answer(recorddict_from_proto(Wire.FromString(question)), began)
        return bytes(recorddict_to_proto(answer).SerializeToString())
