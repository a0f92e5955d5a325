from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from promptfed.blackbox.search.policy_gradient import PolicyGradient, gradient, project_rows, uniform_table
from promptfed.errors import ConfigError
from promptfed.seeding import numpy_stream

TABLE = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
LOSSES = {prompt: (prompt[0] - 1.3) ** 2 * (1 + prompt[1]) + 0.4 * prompt[1] for prompt in product(range(3), repeat=2)}


def chance(prompt, table=TABLE):
    return float(np.prod([table[i, token] for i, token in enumerate(prompt)]))


def hamming(target):
    return lambda tokens: float(sum(a != b for a, b in zip(tokens, target, strict=True)))


def learn(searcher, objective, count):
    for _ in range(count):
        prompts = searcher.ask()
        searcher.tell(prompts, [objective(tokens) for tokens in prompts])
    return searcher


def expected(variant, samples=2):
    """The mean of the estimate over all ways to draw ``samples`` prompts, each weighted by its chance."""
    total = np.zeros_like(TABLE)
    for draw in product(LOSSES, repeat=samples):
        p = np.prod([chance(prompt) for prompt in draw])
        total += p * gradient(TABLE, np.array(draw), np.array([LOSSES[prompt] for prompt in draw]), variant)
    return total


@pytest.mark.parametrize("samples", [2, 3])
def test_the_expected_gradient_is_the_gradient_of_the_expected_loss(samples):
    """As far as it matters on the simplex: minus the mean loss in every entry, which the projection takes out."""
    analytic = np.zeros_like(TABLE)  # d/dP[i, j] of sum over prompts of P(prompt) loss(prompt)
    for prompt, loss in LOSSES.items():
        for i, token in enumerate(prompt):
            analytic[i, token] += loss * chance(prompt) / TABLE[i, token]
    mean = sum(chance(prompt) * loss for prompt, loss in LOSSES.items())
    assert expected("zero", samples) == pytest.approx(analytic - mean)

    step, nudge = np.zeros_like(TABLE), 1e-6  # and by differences along directions that keep the rows' sums
    for i in range(2):
        for j in range(2):
            tilted = TABLE.copy()
            tilted[i, j] += nudge
            tilted[i, j + 1] -= nudge
            shifted = sum(chance(prompt, tilted) * loss for prompt, loss in LOSSES.items())
            step[i, j] = (shifted - mean) / nudge
            assert expected("zero")[i, j] - expected("zero")[i, j + 1] == pytest.approx(step[i, j], rel=1e-4)


@pytest.mark.parametrize("variant", ["bdpl", "zero", "normalized"])
def test_the_variants_as_the_public_codes_write_them(variant, stream):
    """+1/P for the drawn token and the variant's value for the others: the same numbers as by one factor."""
    draws, losses = stream.integers(3, size=(5, 2)), stream.normal(size=5)
    other = {"bdpl": -1 / TABLE, "zero": 0 * TABLE, "normalized": -1 / (3 * TABLE)}[variant]
    literal = np.zeros_like(TABLE)
    for draw, loss in zip(draws, losses, strict=True):
        derivative = other.copy()
        derivative[[0, 1], draw] = 1 / TABLE[[0, 1], draw]
        literal += (loss - losses.mean()) / 4 * derivative
    assert gradient(TABLE, draws, losses, variant) == pytest.approx(literal)


def test_the_variants_differ_by_a_factor_alone(stream):
    draws, losses = stream.integers(3, size=(5, 2)), stream.normal(size=5)
    zero = gradient(TABLE, draws, losses, "zero")
    assert gradient(TABLE, draws, losses, "bdpl") == pytest.approx(2 * zero)
    assert gradient(TABLE, draws, losses, "normalized") == pytest.approx(4 / 3 * zero)


@pytest.mark.parametrize("floor", [0.0, 0.05, 0.25])
def test_the_projection_is_the_nearest_point_of_the_simplex(floor, stream):
    rows = stream.normal(scale=1.5, size=(12, 4))
    projected = project_rows(rows, floor)
    assert projected.sum(axis=1) == pytest.approx(np.ones(12), abs=1e-14)
    assert (projected >= floor).all()
    for row, found in zip(rows, projected, strict=True):
        solved = minimize(
            lambda p, row=row: ((p - row) ** 2).sum(),
            np.full(4, 0.25),
            jac=lambda p, row=row: 2 * (p - row),
            bounds=[(floor, 1)] * 4,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones(4)},
            options={"ftol": 1e-14},
        )
        assert found == pytest.approx(solved.x, abs=1e-6)


def test_the_projection_by_hand_and_at_the_edges():
    assert project_rows(np.array([[2.0, 0.0]])).tolist() == [[1.0, 0.0]]
    assert project_rows(np.array([[0.6, 0.8]])) == pytest.approx(np.array([[0.4, 0.6]]))
    assert project_rows(np.array([[5.0, 5.0, 5.0, -9.0]])) == pytest.approx(np.array([[1 / 3, 1 / 3, 1 / 3, 0]]))
    assert project_rows(np.array([[9.0, -9.0]]), 0.5).tolist() == [[0.5, 0.5]]
    assert project_rows(np.array([[3.0]])).tolist() == [[1.0]]
    assert project_rows(np.array([[1e12, 1e12 - 0.5]])) == pytest.approx(np.array([[0.75, 0.25]]), abs=1e-12)
    assert project_rows(TABLE) == pytest.approx(TABLE, abs=1e-15)


def test_draws_follow_the_table(stream):
    table = np.array([[0.0, 0.7, 0.3, 0.0], [0.25, 0.25, 0.25, 0.25]])
    prompts = np.array(PolicyGradient(table, stream).ask(20000))
    frequencies = [np.bincount(column, minlength=4) / 20000 for column in prompts.T]
    assert np.abs(np.array(frequencies) - table).max() < 0.015
    assert frequencies[0][0] == frequencies[0][3] == 0.0  # never one whose probability is 0


def test_candidates_are_tuples_of_plain_integers(stream):
    prompts = PolicyGradient(uniform_table(3, 5), stream, samples=7).ask()
    assert len(prompts) == 7
    assert all(type(prompt) is tuple and len(prompt) == 3 and type(prompt[0]) is int for prompt in prompts)


def test_equal_streams_search_the_same_and_others_do_not():
    one, same, other = (PolicyGradient(uniform_table(4, 6), numpy_stream(seed, "table")) for seed in (1, 1, 2))
    for searcher in (one, same, other):
        learn(searcher, sum, 3)
    assert np.array_equal(one.table, same.table)
    assert not np.array_equal(one.table, other.table)


@pytest.mark.parametrize(("step", "lr"), [("sgd", 0.02), ("adamw", 0.01)])
@pytest.mark.parametrize("variant", ["bdpl", "zero", "normalized"])
def test_it_finds_the_hidden_prompt(step, lr, variant):
    target = (3, 0, 7, 7, 1, 4)
    stream = numpy_stream(3, "table")
    searcher = PolicyGradient(uniform_table(6, 8), stream, lr=lr, step=step, variant=variant, floor=1e-3)
    learn(searcher, hamming(target), 200)
    assert searcher.best() == target
    assert searcher.table.sum(axis=1) == pytest.approx(np.ones(6))
    assert (searcher.table >= 1e-3).all()


def test_one_plain_step_by_hand(stream):
    searcher = PolicyGradient(TABLE, stream, lr=0.1, step="sgd", variant="zero", clip=100.0)
    searcher.tell([(0, 1), (2, 1)], [1.0, 3.0])
    # losses minus their mean: -1 and +1, over I - 1 = 1
    first = np.array([0.5 + 0.1 / 0.5, 0.3, 0.2 - 0.1 / 0.2])  # 0.7, 0.3, -0.3: onto the simplex
    assert searcher.table[0] == pytest.approx([0.7, 0.3, 0.0])
    assert first == pytest.approx([0.7, 0.3, -0.3])
    assert searcher.table[1] == pytest.approx(TABLE[1])  # the same token in both draws


def test_the_adamw_step_is_torchs(stream):
    searcher = PolicyGradient(TABLE, stream, lr=0.01, step="adamw", weight_decay=0.1, clip=3.0, variant="zero")
    parameter = torch.tensor(TABLE, requires_grad=True)
    optimizer = torch.optim.AdamW([parameter], lr=0.01, weight_decay=0.1)
    for _ in range(5):
        prompts = searcher.ask(4)
        losses = np.array([LOSSES[prompt] for prompt in prompts])
        parameter.grad = torch.tensor(gradient(searcher.table, np.array(prompts), losses, "zero"))
        torch.nn.utils.clip_grad_norm_([parameter], 3.0)
        optimizer.step()
        parameter.data = torch.tensor(project_rows(parameter.detach().numpy()))
        searcher.tell(prompts, losses.tolist())
        assert searcher.table == pytest.approx(parameter.detach().numpy(), abs=1e-6)


def test_the_norm_of_the_gradient_is_clipped(stream):
    table = uniform_table(2, 4)
    searcher = PolicyGradient(table, stream, lr=1e-3, step="sgd", clip=3.0)
    searcher.tell([(0, 1), (2, 3)], [0.0, 1e9])
    assert np.linalg.norm(searcher.table - table) == pytest.approx(3e-3)  # symmetric: the projection changes nothing


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_avoided(bad, stream):
    searcher = PolicyGradient(uniform_table(1, 3), stream, lr=0.02, step="sgd", samples=6)
    learn(searcher, lambda tokens: bad if tokens[0] == 1 else 0.1 * tokens[0], 100)
    assert np.isfinite(searcher.table).all()
    assert searcher.best() == (0,)
    assert searcher.table[0, 0] > 0.8 > 0.1 > searcher.table[0, 1]


def test_flat_fitness_and_no_fitness_at_all_move_nothing(stream):
    for value in (0.5, float("nan")):
        searcher = PolicyGradient(TABLE, stream)
        learn(searcher, lambda tokens, value=value: value, 3)
        assert searcher.table == pytest.approx(TABLE, abs=1e-15)


def test_it_goes_on_from_its_arrays_with_the_same_bits():
    searcher = learn(PolicyGradient(uniform_table(3, 5), numpy_stream(1, "a"), lr=0.01), sum, 4)
    arrays = searcher.arrays()
    resumed = PolicyGradient(arrays["table"], numpy_stream(1, "b"), lr=0.01, resume=arrays)
    searcher.stream = numpy_stream(1, "b")
    learn(searcher, sum, 4)
    learn(resumed, sum, 4)
    assert all(np.array_equal(value, resumed.arrays()[name]) for name, value in searcher.arrays().items())


def test_a_mean_of_float32_tables_is_taken_as_a_table(stream):
    mean = (TABLE.astype(np.float32) * np.float32(0.3) + TABLE[:, ::-1].astype(np.float32) * np.float32(0.7)).copy()
    searcher = PolicyGradient(mean, stream)
    assert searcher.table.sum(axis=1) == pytest.approx(np.ones(2), abs=1e-14)


def test_a_table_of_certainties_is_a_reason_to_stop(stream):
    searcher = PolicyGradient(np.array([[1.0, 0.0], [0.5, 0.5]]), stream)
    assert searcher.stop() == {}
    assert searcher.best() == (0, 0)
    assert PolicyGradient(np.array([[1.0, 0.0], [0.0, 1.0]]), stream).stop() == {"certain": 1.0}


def test_what_makes_no_sense_is_refused(stream):
    with pytest.raises(ConfigError, match="Did you mean 'normalized'"):
        PolicyGradient(TABLE, stream, variant="normalised")
    with pytest.raises(ConfigError, match="Known: adamw, sgd"):
        PolicyGradient(TABLE, stream, step="adam")
    with pytest.raises(ConfigError, match="probabilities"):
        PolicyGradient(TABLE * 2, stream)
    with pytest.raises(ConfigError, match="samples must be 2"):
        PolicyGradient(TABLE, stream, samples=1)
    with pytest.raises(ConfigError, match="at most 1 / candidates"):
        PolicyGradient(TABLE, stream, floor=0.4)
    searcher = PolicyGradient(np.array([[1.0, 0.0]]), stream)
    for told in ([(0,)], [(0, 0), (0, 0)], [(0,), (2,)], [(0,), (-1,)]):
        with pytest.raises(ValueError, match="tell takes 2"):
            searcher.tell(told, [0.0] * len(told))
    with pytest.raises(ValueError, match="cannot have been drawn"):
        searcher.tell([(0,), (1,)], [0.0, 1.0])
