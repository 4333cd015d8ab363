"""Clipping: the table of its module row by row, and the bound for whatever norm there is."""

import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.privacy.clipping import Clip, ClippedSum

CPU = torch.device("cpu")
C = 0.5
Kind = Literal["flat", "automatic"]
NORMS = st.floats(0, 1e45)
"""No vector of finite float32 is longer, however many parameters it has."""


def factor(norm: float, kind: Kind, bound: float = C) -> float:
    (found,) = Clip(bound, kind).factors(torch.tensor([norm], dtype=torch.float64)).tolist()
    return float(found)


@pytest.mark.parametrize(
    ("norm", "flat", "automatic"),
    [
        pytest.param(0.0, 1.0, 50.0, id="zero"),
        pytest.param(0.1, 1.0, 0.5 / 0.11, id="short"),
        pytest.param(0.5, 1.0, 0.5 / 0.51, id="just the bound"),
        pytest.param(2.0, 0.25, 0.5 / 2.01, id="long"),
        pytest.param(1e300, 5e-301, 5e-301, id="very long"),
        pytest.param(math.inf, 0.0, 0.0, id="infinite"),
        pytest.param(math.nan, 0.0, 0.0, id="NaN"),
    ],
)
def test_each_row_of_the_table(norm: float, flat: float, automatic: float) -> None:
    assert factor(norm, "flat") == pytest.approx(flat, rel=1e-15)
    assert factor(norm, "automatic") == pytest.approx(automatic, rel=1e-15)


@given(NORMS, st.floats(1e-6, 1e6), st.sampled_from(["flat", "automatic"]))
def test_what_is_left_is_never_longer_than_the_bound(norm: float, bound: float, kind: Kind) -> None:
    assert factor(norm, kind, bound) * norm <= bound * (1 + 1e-12)


@given(st.floats(0, 1e6))
def test_automatic_clipping_keeps_less_than_the_bound_and_grows_with_the_gradient(norm: float) -> None:
    kept, longer = factor(norm, "automatic") * norm, factor(norm * 1.5 + 1e-3, "automatic") * (norm * 1.5 + 1e-3)
    assert kept < C
    assert kept < longer or longer == pytest.approx(C, rel=1e-6)


def test_flat_clipping_leaves_a_short_gradient_as_it_is_to_the_bit() -> None:
    gradient = torch.tensor([[0.1, -0.2, 0.3]])
    total = ClippedSum(3, Clip(1.0), CPU)
    total.add(gradient)
    assert torch.equal(total.values, gradient[0].double())


@pytest.mark.parametrize("kind", ["flat", "automatic"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_left_out_and_not_counted(kind: Kind, value: float) -> None:
    total = ClippedSum(2, Clip(C, kind), CPU)
    total.add(torch.tensor([[3.0, 4.0], [value, 1.0], [0.03, 0.04]]))
    other = ClippedSum(2, Clip(C, kind), CPU)
    other.add(torch.tensor([[3.0, 4.0], [0.03, 0.04]]))
    assert torch.equal(total.values, other.values)
    assert total.contributing == other.contributing == 2


def test_a_gradient_of_zeros_counts_and_adds_nothing() -> None:
    total = ClippedSum(2, Clip(C, "automatic"), CPU)
    total.add(torch.zeros(1, 2))
    assert total.contributing == 1
    assert not total.values.any()


def test_no_finite_gradient_is_so_long_that_its_norm_overflows() -> None:
    """In single precision the square of 3e38 would be infinite, and the patient would be lost."""
    largest = float(np.finfo(np.float32).max)
    total = ClippedSum(4, Clip(1.0), CPU)
    total.add(torch.full((1, 4), largest))
    assert total.contributing == 1
    np.testing.assert_allclose(total.values.numpy(), 0.5, rtol=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.floats(1e-3, 1e3), st.sampled_from(["flat", "automatic"]))
def test_sums_are_in_double_precision_and_each_addend_keeps_the_bound(
    seed: int, patients: int, scale: float, kind: Kind
) -> None:
    """Oracle: numpy in double precision, one patient after the other."""
    gradients = (np.random.default_rng(seed).standard_normal((patients, 300)) * scale).astype(np.float32)
    total, wanted = ClippedSum(300, Clip(C, kind), CPU), np.zeros(300)
    total.add(torch.from_numpy(gradients))
    for one in gradients.astype(np.float64):
        norm = np.linalg.norm(one)
        wanted += one * (C / (norm + 0.01) if kind == "automatic" else min(1.0, C / norm))
    np.testing.assert_allclose(total.values.numpy(), wanted, rtol=1e-12, atol=1e-14)
    for one in torch.from_numpy(gradients):
        alone = ClippedSum(300, Clip(C, kind), CPU)
        alone.add(one[None])
        assert float(alone.values.norm()) <= C * (1 + 1e-12)


def test_small_addends_are_not_lost_beside_large_ones() -> None:
    """A thousand patients of 1e-9 beside one of 1: single precision would lose them all."""
    total = ClippedSum(1, Clip(1.0), CPU)
    total.add(torch.tensor([[1.0]]))
    for _ in range(1000):
        total.add(torch.tensor([[1e-9]]))
    assert float(total.values[0]) - 1 == pytest.approx(1e-6, rel=1e-6)
    single = torch.tensor(1.0)
    for _ in range(1000):
        single += 1e-9
    assert float(single) == 1.0, "control"


def test_patients_may_come_at_once_or_one_after_another() -> None:
    gradients = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    together, apart = ClippedSum(40, Clip(C), CPU), ClippedSum(40, Clip(C), CPU)
    together.add(gradients)
    for one in gradients:
        apart.add(one[None])
    assert torch.equal(together.values, apart.values)
    assert together.contributing == apart.contributing == 5
