"""One client's work: what an engine runs for a job, in whatever process."""

from __future__ import annotations

import time

from promptfed.methods.base import Method
from promptfed.types import FederatedTask, Job, Reply


class ClientWorker:
    """Trains any client of ``task`` with ``method``, and counts the time and the encoder calls it took."""

    def __init__(self, method: Method, task: FederatedTask) -> None:
        self.method = method
        self._data = {data.client: data for data in task.clients}

    def __call__(self, job: Job) -> Reply:
        calls = self.method.setup.backbone.calls
        images, texts, began = calls.images, calls.texts, time.perf_counter()
        update, personal = self.method.train(job.broadcast, self._data[job.client], job.personal)
        return Reply(
            client=job.client,
            round=job.broadcast.round,
            update=update,
            personal=personal,
            seconds=time.perf_counter() - began,
            image_encoder_calls=calls.images - images,
            text_encoder_calls=calls.texts - texts,
        )
