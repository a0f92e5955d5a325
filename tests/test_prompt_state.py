"""PromptState is a vector space whose serialisation keeps every bit. Values are eighths, so that sums are exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from promptfed.errors import PromptFedError, RunError
from promptfed.prompt_state import PromptState

SHAPES: dict[str, tuple[int, ...]] = {"visual": (2, 1, 3), "ctx": (4, 2), "bias": (), "none": (0, 5)}
VALUES = sum(int(np.prod(shape)) for shape in SHAPES.values())
eighths = st.integers(-4096, 4096).map(lambda n: n / 8)
floats = st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100)
factors = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0])


def from_vector(vector: list[float]) -> PromptState:
    flat, tensors = torch.tensor(vector, dtype=torch.float32), {}
    for name, shape in SHAPES.items():
        size = int(np.prod(shape))
        tensors[name], flat = flat[:size].reshape(shape), flat[size:]
    return PromptState(tensors)


def to_vector(state: PromptState) -> Tensor:
    return torch.cat([state[name].flatten() for name in SHAPES])


def vectors(of: st.SearchStrategy[float] = eighths) -> st.SearchStrategy[list[float]]:
    return st.lists(of, min_size=VALUES, max_size=VALUES)


def states(of: st.SearchStrategy[float] = eighths) -> st.SearchStrategy[PromptState]:
    return vectors(of).map(from_vector)


# ------------------------------------------------------------------------------------------------ vector space


@given(states(), states(), states(), factors, factors)
def test_the_laws_of_a_vector_space(a: PromptState, b: PromptState, c: PromptState, x: float, y: float) -> None:
    zero = 0.0 * a
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a + zero == a
    assert a + (-1.0) * a == zero
    assert a - b == a + (-1.0) * b
    assert 1.0 * a == a
    assert x * (y * a) == (x * y) * a
    assert x * (a + b) == x * a + x * b
    assert (x + y) * a == x * a + y * a
    assert x * a == a * x


@given(vectors(), vectors(), factors)
def test_sum_of_vectors_is_vector_of_sums(a: list[float], b: list[float], x: float) -> None:
    whole = torch.tensor(a) + x * torch.tensor(b)
    assert torch.equal(to_vector(from_vector(a) + x * from_vector(b)), whole)


@given(states(floats), states(floats))
def test_interpolation_is_exact_at_both_ends_and_linear_between(a: PromptState, b: PromptState) -> None:
    assert a.interpolate(b, 0.0) == a
    assert a.interpolate(b, 1.0) == b
    for name, middle in a.interpolate(b, 0.25).items():
        expected = 0.75 * a[name].double() + 0.25 * b[name].double()
        size = a[name].abs().double() + b[name].abs().double()
        assert bool(((middle.double() - expected).abs() <= 1e-6 * size + 1e-37).all())


def test_norm_by_hand_and_without_overflow() -> None:
    assert PromptState({"a": torch.tensor([3.0]), "b": torch.tensor([[4.0, 12.0]])}).norm() == 13.0
    assert PromptState().norm() == 0.0
    assert PromptState({"a": torch.full((4,), 1e30)}).norm() == pytest.approx(2e30)


@given(states(), states())
def test_norm_obeys_the_triangle_inequality(a: PromptState, b: PromptState) -> None:
    assert (a + b).norm() <= a.norm() + b.norm() + 1e-9
    assert a.norm() == pytest.approx(float(np.linalg.norm(to_vector(a).double().numpy())))


def test_finiteness() -> None:
    assert PromptState({"a": torch.zeros(2)}).is_finite()
    for bad in (float("nan"), float("inf")):
        assert not PromptState({"a": torch.zeros(2), "b": torch.tensor([1.0, bad])}).is_finite()


# --------------------------------------------------------------------------------------- a value that stays


def test_float64_and_half_become_float32_on_the_cpu() -> None:
    state = PromptState({"d": torch.tensor([0.1], dtype=torch.float64), "h": torch.tensor([0.5]).half()})
    assert {t.dtype for t in state.values()} == {torch.float32}
    assert state["d"].item() == np.float32(0.1)
    assert {t.device.type for t in state.values()} == {"cpu"}


def test_later_changes_of_the_tensors_do_not_reach_in() -> None:
    outside = torch.ones(3, requires_grad=True)
    state = PromptState({"ctx": outside})
    with torch.no_grad():
        outside.mul_(5)
    assert state == PromptState({"ctx": torch.ones(3)})
    assert not state["ctx"].requires_grad


def test_there_is_no_way_to_put_a_tensor_in() -> None:
    state = PromptState({"ctx": torch.ones(3)})
    with pytest.raises(TypeError):
        state["ctx"] = torch.zeros(3)  # type: ignore[index]
    with pytest.raises(TypeError):
        hash(state)


def test_names_come_in_alphabetical_order_whatever_the_order_given() -> None:
    one = PromptState({"z": torch.ones(1), "a": torch.zeros(2)})
    other = PromptState({"a": torch.zeros(2), "z": torch.ones(1)})
    assert list(one) == list(other) == ["a", "z"]
    assert one == other


def test_equality_sees_values_shapes_names_and_kind() -> None:
    state = PromptState({"a": torch.zeros(2)})
    assert state != PromptState({"a": torch.tensor([0.0, 1e-45])})
    assert state != PromptState({"a": torch.zeros(1, 2)})
    assert state != PromptState({"b": torch.zeros(2)})
    assert state != PromptState()
    assert state != {"a": torch.zeros(2)}
    assert PromptState({"a": torch.tensor([float("nan")])}) != PromptState({"a": torch.tensor([float("nan")])})


@pytest.mark.parametrize(
    "operation",
    [lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a.interpolate(b, 0.5)],
    ids=["add", "subtract", "interpolate"],
)
def test_states_that_do_not_fit_say_why(operation: Callable[[PromptState, PromptState], PromptState]) -> None:
    a = PromptState({"ctx": torch.ones(4, 8)})
    with pytest.raises(ValueError, match=r"'ctx' is \(4, 8\) and \(1, 8\)"):
        operation(a, PromptState({"ctx": torch.ones(1, 8)}))
    with pytest.raises(ValueError, match=r"names \['ctx'\] and \['visual'\]"):
        operation(a, PromptState({"visual": torch.ones(4, 8)}))
    assert a.mismatch(PromptState({"ctx": torch.zeros(4, 8)})) is None


# ------------------------------------------------------------------------------------------------ serialisation


@given(st.dictionaries(st.text("abcxyzäé_/.0123", min_size=1, max_size=8), st.lists(floats, max_size=4), max_size=5))
def test_bytes_round_trip_keeps_every_bit(values: dict[str, list[float]]) -> None:
    state = PromptState({name: torch.tensor(list_, dtype=torch.float32) for name, list_ in values.items()})
    data = state.to_bytes()
    back = PromptState.from_bytes(data)
    assert back == state
    assert back.to_bytes() == data
    assert all(back[name].numpy().tobytes() == t.numpy().tobytes() for name, t in state.items())
    assert state.nbytes == (len(data) if values else 0)


@given(states())
def test_equal_states_have_equal_bytes_however_they_were_made(state: PromptState) -> None:
    turned = PromptState(
        {name: t.mT.contiguous().mT if t.dim() > 1 else t for name, t in reversed(list(state.items()))}
    )
    assert turned.to_bytes() == state.to_bytes()
    assert turned.sha256() == state.sha256()


def test_bytes_are_those_of_the_format() -> None:
    data = PromptState({"ctx": torch.tensor([1.0, -2.0])}).to_bytes()
    assert data[-8:] == np.array([1.0, -2.0], dtype="<f4").tobytes()
    assert b'"ctx":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}' in data


def test_save_and_load(tmp_path: Path) -> None:
    state = PromptState({"ctx": torch.arange(6.0).reshape(2, 3)})
    state.save(tmp_path / "p.safetensors")
    assert PromptState.load(tmp_path / "p.safetensors") == state


@pytest.mark.parametrize("data", [b"", b"x", b"\x00" * 8, b"\xff" * 40, b"\x80\x04\x95pickle..."])
def test_other_bytes_are_a_named_error(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a safetensors prompt"):
        PromptState.from_bytes(data)
    (tmp_path / "p.safetensors").write_bytes(data)
    with pytest.raises(PromptFedError, match=r"cannot read prompt .*p\.safetensors"):
        PromptState.load(tmp_path / "p.safetensors")


def test_every_truncation_is_noticed() -> None:
    data = PromptState({"ctx": torch.ones(2), "v": torch.zeros(3)}).to_bytes()
    for length in range(len(data)):
        with pytest.raises(RunError):
            PromptState.from_bytes(data[:length])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere\.safetensors"):
        PromptState.load(tmp_path / "nowhere.safetensors")
