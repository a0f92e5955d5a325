"""An engine: clients in this process, the last one first."""

from promptfed.engines.base import never
from promptfed.engines.local import LocalEngine
from promptfed.engines.registry import ENGINES


@ENGINES.register("backwards")
class Backwards(LocalEngine):
    """The local engine, from the last client to the first."""

    def run_round(self, jobs, on_reply=None, should_stop=never, seconds=None):
        replies = []
        for job in sorted(jobs, key=lambda job: job.client, reverse=True):
            replies += super().run_round([job], on_reply, should_stop, seconds)
        return replies[::-1]
