from __future__ import annotations

from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.prompt_state import PromptState
from promptfed.types import Broadcast, Job, failed


def test_replies_come_in_client_order_and_as_they_arrive(setup, toy_task):
    method = PromptFL(PromptFLConfig(local_epochs=2, batch_size=2), setup)
    worker, arrived = ClientWorker(method, toy_task), []
    jobs = [Job(c, Broadcast(1, method.init_shared())) for c in (2, 0, 1)]
    replies = LocalEngine(worker).run_round(jobs, lambda reply: arrived.append(reply.client))
    assert [r.client for r in replies] == arrived == [0, 1, 2]


def test_work_is_counted_for_each_client(setup, toy_task):
    method = PromptFL(PromptFLConfig(local_epochs=2, batch_size=2), setup)
    worker = ClientWorker(method, toy_task)
    [reply] = worker([Job(0, Broadcast(1, method.init_shared()))])
    assert reply.usage.image_encoder_calls == 3, "each of the three images once, in whatever number of steps"
    assert reply.usage.text_encoder_calls == 2 * 2 * 4, "two epochs of two batches, four class texts each"
    [again] = worker([Job(0, Broadcast(2, method.init_shared()))])
    assert again.usage.image_encoder_calls == 0
    assert reply.seconds > 0


def test_no_job_begins_after_a_stop_is_asked_for(setup, toy_task):
    begun = []
    engine = LocalEngine(lambda jobs: begun.extend(job.client for job in jobs) or jobs)
    jobs = [Job(c, None) for c in range(5)]
    assert len(engine.run_round(jobs, should_stop=lambda: len(begun) >= 2)) == 2
    assert begun == [0, 1]


def test_batches_hold_so_many_clients_and_replies_stay_in_order():
    seen = []
    engine = LocalEngine(lambda jobs: seen.append([job.client for job in jobs]) or list(jobs), client_batch=2)
    replies = engine.run_round([Job(c, Broadcast(1, PromptState())) for c in (4, 1, 3, 0, 2)])
    assert seen == [[0, 1], [2, 3], [4]]
    assert [reply.client for reply in replies] == [0, 1, 2, 3, 4]


def test_a_round_closes_on_time_and_those_not_begun_are_late(monkeypatch):
    now, begun = [0.0], []
    monkeypatch.setattr("promptfed.engines.local.time.monotonic", lambda: now[0])

    def worker(jobs):
        now[0] += 4.0
        begun.extend(job.client for job in jobs)
        return [failed(job, "") for job in jobs]

    jobs, heard = [Job(c, Broadcast(3, PromptState())) for c in range(6)], []
    replies = LocalEngine(worker, 2).run_round(jobs, heard.append, seconds=5.0)
    assert begun == [0, 1, 2, 3], "at 0 and at 4 seconds; at 8 it is too late"
    assert [reply.failure for reply in replies] == ["", "", "", "", "late", "late"]
    assert [reply.round for reply in replies] == [3] * 6
    assert heard == replies
