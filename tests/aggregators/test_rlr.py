from __future__ import annotations

import torch

from promptfed.aggregators.rlr import step_signs


def test_signs_by_hand():
    # Sums of signs 3, 1, -3, 0, 2 of 3 clients; half of them is 1.5.
    changes = torch.tensor([[1.0, 1.0, -1.0, 1.0, 5.0], [2.0, -9.0, -1.0, -1.0, 1.0], [0.1, 3.0, -7.0, 0.0, 0.0]])
    assert step_signs(changes, 0.5).tolist() == [1, -1, 1, -1, 1]
    assert step_signs(changes, 0).tolist() == [1] * 5
    assert step_signs(changes, 1).tolist() == [1, -1, 1, -1, -1]


def test_the_step_is_the_mean_by_samples_with_these_signs(state, merge):
    prompts = [state(2, 2), state(2, 0), state(4, 0)]  # changes (1, 1), (1, -1), (3, -1) from (1, 1)
    found = merge("rlr", state(1, 1), prompts, [2, 1, 1], threshold=0.5)["ctx"]
    torch.testing.assert_close(found, torch.tensor([1 + 1.5, 1 - 0.0]))
    found = merge("rlr", state(1, 1), prompts, [1, 1, 2], threshold=0.5)["ctx"]
    torch.testing.assert_close(found, torch.tensor([1 + 2.0, 1 + 0.5])), "back from a mean of -0.5"


def test_a_threshold_of_zero_is_the_mean(crowd, merge):
    shared, prompts, samples = crowd
    mean = merge("mean", shared, prompts, samples)
    for name, tensor in merge("rlr", shared, prompts, samples, threshold=0).items():
        torch.testing.assert_close(tensor, mean[name])


def test_what_two_of_ten_move_alone_is_moved_back(state, merge):
    honest = [state(1.0, 0.0)] * 8
    found = merge("rlr", state(0, 0), [*honest, state(1, 4), state(1, 4)], threshold=0.4)["ctx"]
    torch.testing.assert_close(found, torch.tensor([1.0, -0.8]))


def test_a_share_of_clients_is_counted_exactly(state, merge):
    """0.07 * 100 is a little more than 7: seven more of one sign are enough."""
    changes = torch.tensor([[1.0]] * 7 + [[0.0]] * 93)
    assert step_signs(changes, 0.07).tolist() == [1]


def test_a_step_beyond_float32_is_not_taken(state, merge):
    updates = [state(0), state(0), state(-3e38)]  # changes 2e38, 2e38 and -1e38, so a mean of 1e38
    torch.testing.assert_close(merge("rlr", state(-2e38), updates)["ctx"], torch.tensor([-1e38]))
    torch.testing.assert_close(merge("rlr", state(-2e38), updates, threshold=1)["ctx"], torch.tensor([-3e38]))
    updates = [state(1e38), state(1e38), state(-3e38)]  # a mean of 5e38 / 3, and back would be -3.67e38
    assert merge("rlr", state(-2e38), updates, threshold=1) == state(-2e38)
