"""Jobs that wait together are answered together; a bad one costs the others nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from promptfed.serving.batching import Batcher, QueueFullError


class Work:
    """Doubles numbers, remembers its batches, and waits at the door until it is opened."""

    def __init__(self) -> None:
        self.batches: list[tuple[Any, list[Any]]] = []
        self.door = threading.Event()
        self.entered = threading.Event()

    def __call__(self, key: Any, examples: list[Any]) -> list[Any]:
        self.entered.set()
        assert self.door.wait(20)
        self.batches.append((key, examples))
        return [2 * example for example in examples]


@pytest.fixture
def work() -> Iterator[Work]:
    made = Work()
    yield made
    made.door.set()


def first_under_way(work: Work, **options: Any) -> tuple[Batcher, Any]:
    """A queue whose first job is in the model already."""
    batcher = Batcher(work, **{"max_batch": 4, "max_wait": 0.0, "max_queue": 5, **options})
    answer = batcher.submit("a", [0])
    assert work.entered.wait(20)
    return batcher, answer


def test_jobs_of_one_key_share_a_batch_as_far_as_they_fit(work: Work) -> None:
    batcher, first = first_under_way(work)
    answers = [batcher.submit(key, examples) for key, examples in (("a", [1]), ("b", [5]), ("a", [2, 3]))]
    assert batcher.waiting == 4
    work.door.set()
    assert [answer.result(20) for answer in (first, *answers)] == [[0], [2], [10], [4, 6]]
    assert work.batches == [("a", [0]), ("a", [1, 2, 3]), ("b", [5])]
    batcher.close()


def test_a_batch_waits_for_others_and_no_longer_than_it_must(work: Work) -> None:
    work.door.set()
    batcher = Batcher(work, max_batch=2, max_wait=60.0, max_queue=9)
    answers = [batcher.submit("a", [n]) for n in (1, 2)]  # full: nobody waits for a minute
    assert [answer.result(20) for answer in answers] == [[2], [4]]
    assert work.batches == [("a", [1, 2])]
    alone = batcher.submit("a", [3])
    batcher.close()  # nor when the queue closes
    assert alone.result(20) == [6]


def test_more_than_the_queue_holds_is_refused(work: Work) -> None:
    batcher, _ = first_under_way(work)
    batcher.submit("a", [1, 2, 3, 4])
    with pytest.raises(QueueFullError, match="4 examples wait already"):
        batcher.submit("a", [5, 6])
    batcher.submit("a", [5])
    work.door.set()
    batcher.close()
    with pytest.raises(QueueFullError, match="shutting down"):
        batcher.submit("a", [7])


def test_a_bad_job_costs_its_own_answer(work: Work) -> None:
    batcher, _ = first_under_way(work)
    good, bad, cancelled = batcher.submit("a", [1]), batcher.submit("a", [None]), batcher.submit("a", [9])
    assert cancelled.cancel()
    work.door.set()
    assert good.result(20) == [2]
    with pytest.raises(TypeError):
        bad.result(20)
    assert batcher.submit("a", [4]).result(20) == [8]  # the thread is alive
    batcher.close()
