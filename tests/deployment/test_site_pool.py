"""The sites as the server sees them: a greeting that gets no answer, or fails."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("flwr")

from promptfed.deployment import site_pool
from promptfed.deployment.site_pool import ATTEMPTS, SitePool


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_pool, "GREET_AGAIN", 0.05)


def greetings(grid: Any, since: int) -> list[int]:
    return [message.metadata.dst_node_id for message in grid.seen[since:]]


@pytest.mark.usefixtures("soon")
def test_a_site_whose_answer_was_lost_on_its_way_is_greeted_again(simulate: Any) -> None:
    simulation = simulate()
    grid, said, since = simulation.grid, [], len(simulation.grid.seen)
    grid.lost.add(200)

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("2 of 3"):
            grid.lost.clear()

    pool = SitePool(grid, simulation.sites.hello, poll=0.01, say=say)
    pool.gather(3, 60)
    assert sorted(pool.connected.values()) == [100, 200, 300]
    assert [line.partition(":")[0] for line in said] == ["2 of 3 sites are here", "3 of 3 sites are here"]
    asked = greetings(grid, since)
    assert (asked.count(100), asked.count(300)) == (1, 1)
    assert asked.count(200) >= 2


@pytest.mark.usefixtures("soon")
def test_two_answers_of_one_site_are_one_site(simulate: Any) -> None:
    simulation = simulate()
    grid, held = simulation.grid, {}
    pull = grid.pull_messages

    def slowly(identities: Any) -> Any:
        """Hold back what node 200 answers until it was greeted twice; then both answers come at once."""
        held.update({reply.metadata.reply_to_message_id: reply for reply in pull(identities)})
        of_200 = [name for name, reply in held.items() if reply.metadata.src_node_id == 200]
        ready = [name for name in held if name not in of_200 or len(of_200) >= 2]
        return [held.pop(name) for name in ready]

    grid.pull_messages = slowly
    said: list[str] = []
    pool = SitePool(grid, simulation.sites.hello, poll=0.01, say=said.append)
    pool.gather(3, 60)
    assert sorted(pool.connected.values()) == [100, 200, 300]
    assert not any("two nodes" in line for line in said)
    assert not pool._greeting


@pytest.mark.parametrize("failures", [ATTEMPTS - 1, ATTEMPTS])
def test_a_node_whose_process_fails_at_the_greeting_is_greeted_three_times(simulate: Any, failures: int) -> None:
    simulation = simulate()
    grid, since, left = simulation.grid, len(simulation.grid.seen), [failures]
    answer = grid.nodes[200]

    def fails(content: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("no memory")
        return answer(content)

    grid.nodes[200] = fails
    said: list[str] = []
    pool = SitePool(grid, simulation.sites.hello, poll=0.01, say=said.append)
    is_out = failures == ATTEMPTS
    pool.gather(2 if is_out else 3, 60)
    while is_out and not pool.problems:
        pool.gather(2, 60)
    assert greetings(grid, since).count(200) == ATTEMPTS
    assert (200 in pool.connected.values()) is not is_out
    assert list(pool.problems) == [200] * is_out
    assert ("node 200 is left out: RuntimeError: no memory" in said) is is_out
    if is_out:  # another process at the same place, as the server sees it after a reconnection
        del grid.nodes[200]
        pool.wait_for(2, 60)
        grid.nodes[200] = fails
        pool.wait_for(3, 60)
        assert 200 in pool.connected.values()
