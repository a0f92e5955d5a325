from __future__ import annotations

from collections.abc import Callable

from promptfed.tasks.client_sample import with_sampled_clients
from promptfed.types import FederatedTask


def test_a_sample_is_drawn_by_the_seed_and_holds_whole_clients(build: Callable[..., FederatedTask]) -> None:
    task = build(clients=12, shots=1, data="icons:codicons,elusive", task_options={"val_shots": 1, "overlap": True})
    sample = with_sampled_clients(task, 5, 0, "validation clients")
    numbers = [data.client for data in sample.clients]
    assert len(set(numbers)) == 5
    assert numbers == sorted(numbers)
    assert numbers == [data.client for data in with_sampled_clients(task, 5, 0, "validation clients").clients]
    assert numbers != [data.client for data in with_sampled_clients(task, 5, 1, "validation clients").clients]
    assert all(sample.client(number) is task.clients[number] for number in numbers)
    assert sample.clients[1:3] == (task.clients[numbers[1]], task.clients[numbers[2]])
    assert with_sampled_clients(task, 12, 0, "validation clients") is task
