"""Augmentation: what moves moves together, what is drawn is drawn once, and statistics have the size they promise."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from shared.plan import Augmentation
from shared.preprocessing.augmentation import augment, random_patch
from shared.preprocessing.image import FloatArray

EVERYTHING = Augmentation(
    flip=True, rotate90=True, rotate_degrees=15, scale=0.1, brightness=0.2, contrast=0.2, gamma=0.2, noise=0.1
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(*shape: int) -> FloatArray:
    return rng(1).normal(size=shape).astype(np.float32)


def changed(voxels: FloatArray, seed: int = 0, **settings: Any) -> FloatArray:
    return augment(voxels, None, Augmentation(**settings), rng(seed))[0]


def blob(*shape: int) -> NDArray[np.uint8]:
    """A mask without any symmetry."""
    mask = np.zeros(shape, np.uint8)
    mask[(..., *(slice(n // 8, n // 2) for n in shape[-2:]))] = 1
    mask[(..., shape[-2] // 2, slice(0, shape[-1] // 4))] = 1
    return mask


# ------------------------------------------------------------------ determinism


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 24, 40), (1, 8, 16, 16)])
def test_the_same_generator_state_gives_the_same_bytes(shape: tuple[int, ...]) -> None:
    mask = blob(*shape[1:])
    first, second = (augment(picture(*shape), mask, EVERYTHING, rng(5)) for _ in range(2))
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1] is not None
    assert second[1] is not None
    assert first[1].tobytes() == second[1].tobytes()


def test_another_state_gives_another_image() -> None:
    voxels = picture(1, 16, 16)
    assert len({changed(voxels, seed, brightness=0.5).tobytes() for seed in range(20)}) == 20


def test_the_draws_do_not_depend_on_the_image() -> None:
    states = []
    for voxels in (picture(1, 16, 16), np.zeros((1, 16, 16), np.float32)):
        generator = rng(3)
        augment(voxels, None, EVERYTHING, generator)
        states.append(generator.bit_generator.state["state"])
    assert states[0] == states[1]


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 24, 40), (2, 8, 16, 12)])
@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32])
def test_shapes_and_types_stay_and_the_inputs_are_not_written_to(shape: tuple[int, ...], kind: type) -> None:
    voxels, mask = picture(*shape), blob(*shape[1:]).astype(kind)
    voxels.setflags(write=False)
    mask.setflags(write=False)
    for seed in range(8):
        new, target = augment(voxels, mask, EVERYTHING, rng(seed))
        assert target is not None
        assert (new.shape, new.dtype, new.flags.c_contiguous) == (shape, np.float32, True)
        assert (target.shape, target.dtype, target.flags.c_contiguous) == (shape[1:], kind, True)
        assert np.isfinite(new).all()
        assert set(np.unique(target)) <= {0, 1}


def test_nothing_asked_for_changes_nothing() -> None:
    voxels, mask = picture(1, 16, 16), blob(16, 16)
    new, target = augment(voxels, mask, Augmentation(), rng())
    assert np.array_equal(new, voxels)
    assert target is not None
    assert np.array_equal(target, mask)


@pytest.mark.parametrize("target", [None, np.array(2), np.array([0.0, 1.0, 1.0]), np.zeros((3, 16))])
def test_a_target_that_is_no_mask_stays_as_it_is(target: NDArray[Any] | None) -> None:
    assert augment(picture(1, 16, 16), target, EVERYTHING, rng())[1] is target


# ------------------------------------------------------------------ geometry


@given(seed=st.integers(0, 2**32), shape=st.sampled_from([(24, 24), (16, 28), (6, 20, 20), (5, 16, 24)]))
@settings(deadline=None)
def test_flips_and_quarter_turns_move_image_and_mask_together_exactly(seed: int, shape: tuple[int, ...]) -> None:
    mask = blob(*shape)
    new, target = augment(mask[None].astype(np.float32), mask, Augmentation(flip=True, rotate90=True), rng(seed))
    assert target is not None
    assert np.array_equal(new[0], target)
    assert target.sum() == mask.sum()


@given(seed=st.integers(0, 2**32), shape=st.sampled_from([(40, 40), (36, 52), (4, 36, 36)]))
@settings(deadline=None)
def test_rotation_and_scale_move_image_and_mask_together(seed: int, shape: tuple[int, ...]) -> None:
    mask = blob(*shape)
    settings = Augmentation(rotate_degrees=30, scale=0.2)
    new, target = augment(mask[None].astype(np.float32), mask, settings, rng(seed))
    assert target is not None
    differs = (new[0] > 0.5) != (target == 1)
    edges = ndimage.grey_dilation(target, size=3) != ndimage.grey_erosion(target, size=3)
    assert not (differs & ~edges).any()  # linear and nearest may differ on the outline only
    assert differs.sum() < 0.35 * edges.sum()


def outcomes(voxels: FloatArray, draws: int, **settings: Any) -> dict[bytes, int]:
    counts: dict[bytes, int] = {}
    generator = rng(11)
    for _ in range(draws):
        key = augment(voxels, None, Augmentation(**settings), generator)[0].tobytes()
        counts[key] = counts.get(key, 0) + 1
    return counts


@pytest.mark.parametrize(
    ("shape", "settings", "expected"),
    [
        ((1, 4, 4), {"flip": True}, 4),
        ((1, 3, 4, 4), {"flip": True}, 8),
        ((1, 4, 4), {"rotate90": True}, 4),
        ((1, 4, 6), {"rotate90": True}, 2),
        ((1, 4, 4), {"flip": True, "rotate90": True}, 8),
    ],
)
def test_every_flip_and_turn_comes_equally_often(
    shape: tuple[int, ...], settings: dict[str, bool], expected: int
) -> None:
    draws = 400 * expected
    counts = outcomes(picture(*shape), draws, **settings)
    assert len(counts) == expected
    # Five standard deviations of a binomial count around its mean of 400.
    assert all(abs(count - 400) < 5 * np.sqrt(400 * (1 - 1 / expected)) for count in counts.values())


class Fixed:
    """A generator whose uniform draws are decided by the test."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def uniform(self, low: float, high: float) -> float:
        value = self.values.pop(0)
        assert low <= value <= high
        return value


def moved_by(angle: float, magnification: float, voxels: FloatArray) -> FloatArray:
    settings = Augmentation(rotate_degrees=90, scale=0.5)
    return augment(voxels, None, settings, Fixed(angle, magnification))[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 21, 21), (2, 5, 21, 21)])
def test_a_rotation_by_90_degrees_is_a_quarter_turn(shape: tuple[int, ...]) -> None:
    voxels = picture(*shape)
    turned = moved_by(90.0, 1.0, voxels)
    turns = [np.abs(turned - np.rot90(voxels, quarter, axes=(-2, -1))).max() for quarter in (1, -1)]
    assert min(turns) < 1e-4


@pytest.mark.parametrize("shape", [(33, 33), (25, 41)])
@pytest.mark.parametrize(("angle", "magnification"), [(20.0, 1.0), (0.0, 1.3), (-35.0, 0.7)])
def test_rotation_and_scale_are_what_scipy_makes_of_the_same_matrix(
    shape: tuple[int, int], angle: float, magnification: float
) -> None:
    rows, columns = np.indices(shape)
    smooth = np.sin(rows / 5) + np.cos(columns / 7)
    found = moved_by(angle, magnification, smooth[None].astype(np.float32))[0]
    radians = np.deg2rad(angle)
    back = np.array([[np.cos(radians), np.sin(radians)], [-np.sin(radians), np.cos(radians)]]) / magnification
    middle = (np.array(shape) - 1) / 2
    expected = ndimage.affine_transform(smooth, back, middle - back @ middle, order=1, mode="nearest")
    assert np.abs(found - expected).max() < 1e-3


def test_the_identity_keeps_the_image() -> None:
    voxels = picture(1, 17, 24)
    assert np.abs(moved_by(0.0, 1.0, voxels) - voxels).max() < 1e-5


def test_borders_are_repeated_and_not_blackened() -> None:
    assert np.allclose(moved_by(45.0, 0.5, np.full((1, 20, 20), 7.0, np.float32)), 7.0, atol=1e-5)


# ------------------------------------------------------------------ intensity


@given(seed=st.integers(0, 2**32))
def test_brightness_adds_a_constant_in_units_of_the_deviation(seed: int) -> None:
    voxels = picture(1, 12, 12) * 50 + 300
    shift = changed(voxels, seed, brightness=0.3) - voxels
    assert np.ptp(shift) < 1e-3
    assert abs(shift.mean()) <= 0.3 * voxels.std() * 1.0001


@given(seed=st.integers(0, 2**32))
def test_contrast_keeps_the_mean_and_scales_the_deviation(seed: int) -> None:
    voxels = picture(1, 12, 12) * 5 + 30
    new = changed(voxels, seed, contrast=0.4)
    assert new.mean() == pytest.approx(voxels.mean(), rel=1e-4)
    assert 0.6 * 0.999 <= new.std() / voxels.std() <= 1.4 * 1.001


@given(seed=st.integers(0, 2**32))
def test_gamma_keeps_minimum_maximum_and_order(seed: int) -> None:
    voxels = picture(1, 12, 12) * 20
    new = changed(voxels, seed, gamma=0.5)
    assert (new.min(), new.max()) == pytest.approx((voxels.min(), voxels.max()), rel=1e-4)
    assert (np.diff(new.ravel()[np.argsort(voxels.ravel())]) >= -1e-4).all()


def test_gamma_is_a_power_of_the_normalised_image() -> None:
    voxels = np.array([[[2.0, 4.0, 10.0]]], np.float32)
    new = augment(voxels, None, Augmentation(gamma=0.5), Fixed(1.5))[0]  # type: ignore[arg-type]
    assert new[0, 0, 1] == pytest.approx(2 + 8 * 0.25**1.5)


@pytest.mark.parametrize("level", [0.05, 0.5])
def test_noise_is_gaussian_with_its_share_of_the_deviation(level: float) -> None:
    voxels = picture(1, 200, 200) * 40
    noise = (changed(voxels, noise=level) - voxels) / (level * voxels.std())
    # 40,000 draws: standard errors of mean, deviation and fourth moment are .005, .0035 and .05.
    assert abs(noise.mean()) < 0.025
    assert abs(noise.std() - 1) < 0.018
    assert abs((noise**4).mean() - 3) < 0.3


@pytest.mark.parametrize("settings", [{"brightness": 0.5}, {"contrast": 0.5}, {"gamma": 0.5}, {"noise": 0.5}])
def test_a_constant_image_stays_constant(settings: dict[str, float]) -> None:
    flat = np.full((1, 9, 9), 3.0, np.float32)
    assert np.allclose(changed(flat, **settings), 3.0)


def test_intensity_leaves_the_mask_alone() -> None:
    mask = blob(16, 16)
    settings = Augmentation(brightness=1, contrast=0.5, gamma=0.5, noise=1)
    target = augment(picture(1, 16, 16), mask, settings, rng())[1]
    assert target is not None
    assert np.array_equal(target, mask)


# ------------------------------------------------------------------ patches


@given(
    seed=st.integers(0, 2**32),
    shape=st.sampled_from([(20, 30), (9, 10, 11)]),
    fraction=st.sampled_from([0.0, 0.5, 1.0]),
    data=st.data(),
)
def test_a_patch_is_the_same_box_of_image_and_mask_without_a_copy(
    seed: int, shape: tuple[int, ...], fraction: float, data: st.DataObject
) -> None:
    patch = tuple(data.draw(st.integers(1, length)) for length in shape)
    numbered = np.arange(np.prod(shape)).reshape(shape)
    voxels, mask = numbered[None].astype(np.float32), numbered % 7
    cut, target = random_patch(voxels, mask, patch, fraction, rng(seed))
    assert cut.shape == (1, *patch)
    assert np.array_equal(cut[0] % 7, target)
    assert np.shares_memory(cut, voxels)
    assert np.shares_memory(target, mask)


def starts(mask: NDArray[Any], fraction: float, draws: int) -> NDArray[np.int64]:
    numbered = np.arange(mask.size, dtype=np.float32).reshape(1, *mask.shape)
    generator = rng(2)
    corners = [random_patch(numbered, mask, (3, 3), fraction, generator)[0][0, 0, 0] for _ in range(draws)]
    return np.array(corners, np.int64)


def test_places_are_uniform_where_no_foreground_is_asked_for() -> None:
    corners = starts(np.ones((6, 7), np.uint8), 0.0, 4000)
    counts = np.bincount(corners, minlength=42).reshape(6, 7)[:4, :5]
    assert counts.sum() == 4000
    assert np.abs(counts - 200).max() < 5 * np.sqrt(200)


@pytest.mark.parametrize(
    "marked", [[(10, 10)], [(5, 5), (20, 22)], [(r, c) for r in range(8, 20) for c in range(8, 20)]]
)
def test_patches_are_centred_on_a_uniformly_drawn_foreground_voxel(marked: list[tuple[int, int]]) -> None:
    """Rare and frequent foreground: found by search and by rejection, with one distribution."""
    mask = np.zeros((30, 30), np.uint8)
    mask[tuple(zip(*marked, strict=True))] = 2
    corners = starts(mask, 1.0, 300 * len(marked))
    counts = np.bincount(corners, minlength=900).reshape(30, 30)
    assert counts.sum() == sum(counts[row - 1, column - 1] for row, column in marked)
    assert all(abs(counts[row - 1, column - 1] - 300) < 5 * np.sqrt(300) for row, column in marked)


def test_the_share_of_foreground_patches_is_the_one_asked_for() -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[100, 100] = 1
    corners = starts(mask, 0.3, 3000)
    assert abs((corners == 99 * 200 + 99).mean() - 0.3) < 5 * np.sqrt(0.21 / 3000)


@pytest.mark.parametrize("corner", [(0, 0), (0, 9), (9, 9)])
def test_a_patch_on_the_border_stays_inside(corner: tuple[int, int]) -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[corner] = 1
    cut, target = random_patch(picture(1, 10, 10), mask, (4, 4), 1.0, rng())
    assert cut.shape == (1, 4, 4)
    assert target.sum() == 1


def test_without_foreground_a_patch_comes_from_anywhere() -> None:
    corners = starts(np.zeros((6, 7), np.uint8), 1.0, 500)
    assert len(set(corners)) == 20
