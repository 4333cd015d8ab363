"""The plan's preprocessing: each step against values that can be written down or computed another way."""

from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from shared.errors import CaseError
from shared.plan import Plan, from_document
from shared.plan_preprocessing import Preprocessing
from shared.preprocessing.image import FloatArray, Image, MaskArray
from shared.preprocessing.intensity import background, normalise
from shared.preprocessing.pipeline import coloured, prepare
from shared.preprocessing.spatial import (
    bounding_box,
    centred,
    content_shape,
    foreground_box,
    lesion_box,
    resample,
    resample_mask,
)

RNG = np.random.default_rng(7)
RAW = {"kind": "window", "low": -1e6, "high": 1e6}
"""A window so wide that values come out in proportion: v / 1e6."""


def plan(size: tuple[int, ...], **preprocessing: Any) -> Plan:
    return from_document(
        {
            "plan": {"name": "test", "task": "segmentation", "rounds": 1},
            "data": {"modality": "ct", "classes": ["background", "organ"]},
            "preprocessing": {"size": list(size), **preprocessing},
            "model": {"name": "unet"},
            "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.1},
            "privacy": {"unit": "none"},
        }
    )


def settings_of(size: tuple[int, ...], **preprocessing: Any) -> Preprocessing:
    return plan(size, **preprocessing).preprocessing


def photograph(voxels: FloatArray, spacing_mm: tuple[float, ...] | None = None) -> Image:
    """An image around (*spatial) or (C, *spatial) values."""
    return Image(np.ascontiguousarray(voxels, np.float32), spacing_mm or (1.0,) * (voxels.ndim - 1))


def refusal(image: Image, mask: MaskArray | None, wanted: Plan) -> CaseError:
    with pytest.raises(CaseError) as caught:
        prepare(image, mask, wanted)
    return caught.value


# ------------------------------------------------------------------ colour


def test_grey_is_the_luma_of_itu_r_601() -> None:
    rgb = np.array([[[[255.0]]], [[[0.0]]], [[[100.0]]]], np.float32)[:, 0]
    assert coloured(rgb, "grey")[0, 0, 0] == pytest.approx(0.299 * 255 + 0.114 * 100)


def test_green_is_the_second_channel() -> None:
    rgb = RNG.random((3, 4, 5)).astype(np.float32)
    assert np.array_equal(coloured(rgb, "green"), rgb[1:2])


@pytest.mark.parametrize(("colour", "channels"), [("grey", 1), ("green", 1), ("rgb", 3)])
def test_a_grey_image_is_its_own_green_and_its_own_colours(colour: Any, channels: int) -> None:
    grey = RNG.random((1, 4, 5)).astype(np.float32)
    assert np.array_equal(coloured(grey, colour), np.repeat(grey, channels, axis=0))


@pytest.mark.parametrize("colour", ["grey", "green", "rgb"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_number_of_channels_is_the_plans(colour: str, channels: int) -> None:
    wanted = plan((8, 8), colour=colour)
    prepared = prepare(photograph(RNG.random((channels, 8, 8))), None, wanted)
    assert prepared.voxels.shape == (wanted.input_channels, 8, 8)


# ------------------------------------------------------------------ cropping


@given(st.data())
def test_the_bounding_box_holds_every_true_voxel_and_touches_one_on_each_side(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)))
    bits = data.draw(st.lists(st.booleans(), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    inside = np.array(bits).reshape(shape)
    box = bounding_box(inside)
    assert inside[box].sum() == inside.sum()
    if inside.any():
        kept = inside[box]
        assert all(kept.take([0, -1], axis=axis).any(axis=tuple({0, 1, 2} - {axis})).all() for axis in range(3))
    else:
        assert inside[box].shape == shape


def test_foreground_is_what_exceeds_the_threshold_of_the_range_in_any_channel() -> None:
    voxels = np.full((3, 10, 12), 50.0, np.float32)
    voxels[0, 0, 0] = 59.0  # 9 % of the range: not foreground
    voxels[2, 4:7, 3:9] = 150.0
    voxels[1, 8, 5] = 61.0  # 11 %
    assert foreground_box(voxels, 0.1) == (slice(4, 9), slice(3, 9))


def test_a_constant_image_has_no_foreground_and_is_kept_whole() -> None:
    assert np.ones((1, 4, 4))[(slice(None), *foreground_box(np.ones((1, 4, 4), np.float32), 0.1))].shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("spacing", "box"),
    [
        ((1.0, 1.0), (slice(5, 17), slice(6, 22))),  # longest side 12: two voxels everywhere
        ((4.0, 1.0), (slice(5, 17), slice(0, 28))),  # 32 mm: 8 mm are two rows, but eight columns
    ],
)
def test_a_lesion_box_grows_by_a_share_of_its_longest_side_in_mm(
    spacing: tuple[float, float], box: tuple[slice, ...]
) -> None:
    mask = np.zeros((40, 30), np.uint8)
    mask[7:15, 8:20] = 3
    grown = lesion_box(mask, 0.25 if spacing[0] > 1 else 1 / 6, spacing)
    assert grown == box


def test_a_lesion_box_stays_within_the_image() -> None:
    mask = np.zeros((6, 6), np.uint8)
    mask[0:4, 3:6] = 1
    assert lesion_box(mask, 5.0, (1.0, 1.0)) == (slice(0, 6), slice(0, 6))


def test_a_lesion_crop_needs_a_mask_with_a_lesion() -> None:
    wanted = plan((4, 4), crop={"kind": "lesion"})
    image = photograph(RNG.random((1, 6, 6)))
    assert refusal(image, None, wanted).code == "mask-needed"
    assert refusal(image, np.zeros((6, 6), np.uint8), wanted).code == "mask-empty"


def test_image_and_mask_are_cropped_alike() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[4:12, 6:14] = 1
    image = photograph(mask[None] * 100.0)
    prepared = prepare(image, mask, plan((12, 12), crop={"kind": "lesion", "margin": 0.25}, intensity=RAW))
    assert prepared.mask is not None
    assert np.array_equal(prepared.voxels[0] > 0, prepared.mask == 1)
    assert prepared.mask[2:10, 2:10].all()


# ------------------------------------------------------------------ resampling


@pytest.mark.parametrize(("shape", "new"), [((40, 30), (17, 9)), ((12, 10), (31, 25)), ((20, 30, 24), (7, 9, 31))])
def test_resampling_keeps_a_slope_where_it_is(shape: tuple[int, ...], new: tuple[int, ...]) -> None:
    """The value of a voxel is its centre's place in the original; after resampling it must be the new centre's."""
    places = np.stack(np.indices(shape)).astype(np.float32) + 0.5
    expected = [(np.indices(new)[axis] + 0.5) * shape[axis] / new[axis] for axis in range(len(shape))]
    inner = tuple(slice(2, -2) for _ in shape)  # borders are held, so the filter is one-sided there
    found = resample(places, new)
    assert all(np.abs(found[axis][inner] - expected[axis][inner]).max() < 0.05 for axis in range(len(shape)))


@pytest.mark.parametrize("new", [(5, 9), (13, 4), (50, 60), (20, 30)])
def test_resampling_is_pillows_triangle_filter(new: tuple[int, int]) -> None:
    values = RNG.random((1, 20, 30)).astype(np.float32)
    reference = PIL.Image.fromarray(values[0]).resize(new[::-1], PIL.Image.Resampling.BILINEAR)
    assert np.abs(resample(values, new)[0] - np.asarray(reference)).max() < 1e-4


def test_shrinking_a_volume_averages_depth_too() -> None:
    checkers = np.indices((32, 32, 32)).sum(axis=0)[None] % 2
    shrunk = resample(checkers.astype(np.float32), (8, 8, 8))
    assert np.abs(shrunk - 0.5).max() < 0.01  # without a filter these would be 0, 1/2 or 1


def test_a_shape_that_stays_keeps_every_bit() -> None:
    values = RNG.random((2, 9, 8)).astype(np.float32)
    assert resample(values, (9, 8)) is values


@given(old=st.integers(1, 40), new=st.integers(1, 40))
def test_a_mask_takes_the_voxel_whose_centre_is_nearest(old: int, new: int) -> None:
    mask = np.arange(old, dtype=np.uint8).reshape(old, 1)
    found = resample_mask(mask, (new, 1))[:, 0]
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    assert np.all(np.abs(found - centres) <= 0.5 + 1e-9)


@given(shape=st.tuples(st.integers(8, 30), st.integers(8, 30)), new=st.tuples(st.integers(6, 40), st.integers(6, 40)))
@settings(deadline=None)
def test_image_and_mask_stay_together(shape: tuple[int, int], new: tuple[int, int]) -> None:
    mask = np.zeros(shape, np.uint8)
    mask[2:6, 3:7] = 1
    image = resample(mask[None].astype(np.float32), new)[0]
    nearest = resample_mask(mask, new)
    assume(nearest.any())  # a small mask may lie between the voxels of a coarse grid
    for axis in range(2):
        pixel = max(1.0, new[axis] / shape[axis])
        weights = np.indices(new)[axis]
        assert abs((image * weights).sum() / image.sum() - weights[nearest == 1].mean()) < 0.75 * pixel


@pytest.mark.parametrize(
    ("preprocessing", "shape", "spacing", "content"),
    [
        ({}, (30, 20), (1.0, 1.0), (30, 20)),
        ({"spacing_mm": [2.0, 0.5]}, (30, 20), (1.0, 1.0), (15, 40)),
        ({"fit": "stretch"}, (30, 20), (1.0, 1.0), (16, 16)),
        ({"fit": "letterbox"}, (30, 20), (1.0, 1.0), (16, 11)),
        ({"fit": "letterbox"}, (4, 2), (1.0, 1.0), (16, 8)),
        ({"fit": "letterbox", "spacing_mm": [1.0, 1.0]}, (30, 20), (1.0, 3.0), (8, 16)),
        ({"fit": "letterbox"}, (1000, 1), (1.0, 1.0), (16, 1)),
        ({"spacing_mm": [50.0, 50.0]}, (30, 20), (1.0, 1.0), (1, 1)),
    ],
)
def test_content_has_the_shape_that_spacing_and_fit_ask_for(
    preprocessing: dict[str, Any], shape: tuple[int, int], spacing: tuple[float, float], content: tuple[int, int]
) -> None:
    assert content_shape(shape, spacing, settings_of((16, 16), **preprocessing)) == content


@pytest.mark.parametrize("fit", ["crop-pad", "letterbox", "stretch"])
def test_spacing_times_voxels_stays_the_physical_extent(fit: str) -> None:
    image = photograph(RNG.random((1, 30, 20)), (0.7, 1.3))
    wanted = settings_of((16, 16), fit=fit, spacing_mm=[1.0, 1.0])
    prepared = prepare(image, None, plan((16, 16), fit=fit, spacing_mm=[1.0, 1.0]))
    content = content_shape((30, 20), image.spacing_mm, wanted)
    assert [mm * n for mm, n in zip(prepared.spacing_mm, content, strict=True)] == pytest.approx([21.0, 26.0])


def test_native_spacing_is_handed_on() -> None:
    prepared = prepare(photograph(RNG.random((1, 5, 6, 7)), (3.0, 0.5, 0.6)), None, plan((4, 8, 8)))
    assert prepared.spacing_mm == (3.0, 0.5, 0.6)


# ------------------------------------------------------------------ fitting


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=3))
def test_cropping_and_padding_is_centred_within_half_a_voxel(pairs: list[tuple[int, int]]) -> None:
    shape, size = zip(*pairs, strict=True)
    box, pads = centred(shape, size)
    for have, want, side, (before, after) in zip(shape, size, box, pads, strict=True):
        kept = side.stop - side.start
        assert before + kept + after == want
        assert kept == min(have, want)
        assert 0 <= (have - kept) - 2 * side.start <= 1
        assert 0 <= after - before <= 1


def test_crop_pad_keeps_the_middle_and_pads_with_the_minimum() -> None:
    values = np.arange(12.0).reshape(1, 2, 6)
    mask = np.ones((2, 6), np.uint8)
    prepared = prepare(photograph(values), mask, plan((4, 4), intensity=RAW))
    assert np.rint(prepared.voxels[0] * 1e6).tolist() == [[1] * 4, [1, 2, 3, 4], [7, 8, 9, 10], [1] * 4]
    assert prepared.mask is not None
    assert prepared.mask.tolist() == [[0] * 4, [1] * 4, [1] * 4, [0] * 4]


def test_statistics_do_not_see_the_padding() -> None:
    values = RNG.normal(40, 9, (1, 10, 10)).astype(np.float32)
    alone = prepare(photograph(values), None, plan((10, 10))).voxels[0]
    padded = prepare(photograph(values), None, plan((30, 30))).voxels[0]
    assert np.array_equal(padded[10:20, 10:20], alone)
    assert (padded[:10] == alone.min()).all()


# ------------------------------------------------------------------ intensity


def test_zscore_has_mean_0_and_deviation_1_in_each_channel() -> None:
    voxels = RNG.normal(500, 60, (3, 40, 40)).astype(np.float32) * np.array([1, 5, 0.1], np.float32)[:, None, None]
    found = normalise(voxels, settings_of((4, 4)).intensity)
    assert found.mean(axis=(1, 2)) == pytest.approx(np.zeros(3), abs=1e-5)
    assert found.std(axis=(1, 2)) == pytest.approx(np.ones(3), abs=1e-5)


def test_zscore_survives_a_large_offset() -> None:
    small = RNG.normal(0, 1, (1, 50, 50))
    voxels = (small + 1e6).astype(np.float32)
    expected = (voxels.astype(np.float64) - voxels.mean(dtype=np.float64)) / voxels.astype(np.float64).std()
    assert np.abs(normalise(voxels, settings_of((4, 4)).intensity) - expected).max() < 1e-5


def test_a_window_maps_its_ends_to_minus_1_and_1_and_clips() -> None:
    voxels = np.array([[[-1000, -160, 40, 240, 3000]]], np.float32)
    window = settings_of((4, 4), intensity={"kind": "window", "low": -160, "high": 240}).intensity
    assert normalise(voxels, window).tolist() == [[[-1, -1, 0, 1, 1]]]


def test_percentiles_are_the_channels_own() -> None:
    ramp = np.arange(101, dtype=np.float32)
    voxels = np.stack([ramp, ramp * 10 + 7])[:, None]
    percentile = settings_of((4, 4), intensity={"kind": "percentile", "low": 10, "high": 90}).intensity
    expected = np.clip((ramp - 10) / 40 - 1, -1, 1)
    assert np.abs(normalise(voxels, percentile)[:, 0] - expected).max() < 1e-6


def test_local_contrast_is_the_gaussian_weighted_score_of_each_pixel() -> None:
    sigma = 1.5
    bowl = np.arange(21) ** 2  # so that the middle's neighbourhood differs from the image's mean
    voxels = (RNG.normal(100, 20, (1, 21, 21)) + bowl).astype(np.float32)
    found = normalise(voxels, settings_of((4, 4), intensity={"kind": "local-contrast", "sigma_px": sigma}).intensity)
    impulse = np.zeros((21, 21))
    impulse[10, 10] = 1
    weights = ndimage.gaussian_filter(impulse, sigma)  # symmetric: the weights of the middle pixel's neighbours
    mean = (weights * voxels[0]).sum()
    deviation = np.sqrt((weights * (voxels[0] - mean) ** 2).sum())
    expected = (voxels[0, 10, 10] - mean) / (deviation + 0.02 * voxels.std())
    assert found[0, 10, 10] == pytest.approx(expected, abs=1e-4)


def test_local_contrast_leaves_flat_areas_at_0() -> None:
    voxels = np.zeros((1, 64, 64), np.float32)
    voxels[0, :8, :8] = RNG.normal(1000, 100, (8, 8))
    found = normalise(voxels, settings_of((4, 4), intensity={"kind": "local-contrast", "sigma_px": 2.0}).intensity)
    assert np.abs(found[0, 40:, 40:]).max() < 1e-6


KINDS: list[dict[str, Any]] = [
    {"kind": "zscore-per-image"},
    {"kind": "percentile"},
    {"kind": "local-contrast", "sigma_px": 2.0},
]


@pytest.mark.parametrize("intensity", KINDS)
@pytest.mark.parametrize("value", [0.0, 0.1, -1e30])
def test_a_constant_image_becomes_zeros(intensity: dict[str, Any], value: float) -> None:
    prepared = prepare(photograph(np.full((1, 5, 5), value)), None, plan((8, 8), intensity=intensity))
    assert not prepared.voxels.any()


def test_percentiles_that_coincide_become_zeros() -> None:
    voxels = np.zeros((1, 40, 40), np.float32)
    voxels[0, 0, 0] = 9
    assert not normalise(voxels, settings_of((4, 4), intensity={"kind": "percentile"}).intensity).any()


@pytest.mark.parametrize("intensity", [*KINDS, {"kind": "window", "low": 0, "high": 1}])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e37])
def test_nothing_finite_becomes_anything_else(intensity: dict[str, Any], scale: float) -> None:
    voxels = (RNG.random((3, 9, 9)) * scale).astype(np.float32)
    prepared = prepare(photograph(voxels), None, plan((12, 12), colour="rgb", intensity=intensity))
    assert np.isfinite(prepared.voxels).all()


def test_padding_is_the_minimum_but_0_under_local_contrast() -> None:
    voxels = RNG.normal(size=(2, 5, 5)).astype(np.float32)
    assert background(voxels, settings_of((4, 4)).intensity) == [float(channel.min()) for channel in voxels]
    local = settings_of((4, 4), intensity={"kind": "local-contrast", "sigma_px": 2.0}).intensity
    assert background(voxels, local) == [0.0, 0.0]


# ------------------------------------------------------------------ the whole


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("fit", ["crop-pad", "letterbox", "stretch"])
@pytest.mark.parametrize("crop", [{"kind": "none"}, {"kind": "foreground"}, {"kind": "lesion"}])
def test_every_combination_gives_the_plans_shape_twice_the_same(
    dimensions: int, fit: str, crop: dict[str, Any]
) -> None:
    shape, size = (9, 31, 22)[-dimensions:], (6, 16, 24)[-dimensions:]
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(2, 7) for _ in shape)] = 2
    image = photograph(RNG.random((3, *shape)), (2.0, 0.8, 0.9)[-dimensions:])
    wanted = plan(size, fit=fit, crop=crop, colour="rgb", spacing_mm=[1.0] * dimensions)
    first, second = prepare(image, mask, wanted), prepare(image, mask, wanted)
    assert first.voxels.shape == (3, *size)
    assert first.voxels.dtype == np.float32
    assert first.voxels.flags.c_contiguous
    assert first.voxels.tobytes() == second.voxels.tobytes()
    assert first.mask is not None
    assert first.mask.shape == size
    assert set(np.unique(first.mask)) <= {0, 2}
    assert 2 in first.mask


def test_what_was_given_is_not_written_to() -> None:
    values, mask = RNG.random((1, 8, 8)).astype(np.float32), np.ones((8, 8), np.uint8)
    values.setflags(write=False)
    mask.setflags(write=False)
    prepared = prepare(Image(values, (1.0, 1.0)), mask, plan((8, 8), intensity=RAW))
    assert not np.shares_memory(prepared.voxels, values)


def test_an_image_without_a_mask_stays_without() -> None:
    assert prepare(photograph(RNG.random((1, 8, 8))), None, plan((8, 8))).mask is None


@pytest.mark.parametrize(("shape", "size"), [((1, 4, 8, 8), (8, 8)), ((1, 8, 8), (4, 8, 8))])
def test_a_plan_of_other_dimensions_is_refused_naming_both(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    error = refusal(photograph(RNG.random(shape)), None, plan(size))
    assert error.code == "dimensions"
    assert "2-D" in error.sentence
    assert "3-D" in error.sentence


def test_a_spacing_in_mm_needs_an_image_that_knows_its_own() -> None:
    unknown = Image(np.zeros((1, 8, 8), np.float32), (1.0, 1.0), spacing_known=False)
    assert refusal(unknown, None, plan((8, 8), spacing_mm=[1.0, 1.0])).code == "spacing-unknown"


def test_a_spacing_that_would_fill_the_memory_is_refused() -> None:
    image = photograph(RNG.random((1, 8, 8, 8)), (5.0, 5.0, 5.0))
    assert refusal(image, None, plan((8, 8, 8), spacing_mm=[0.01] * 3)).code == "image-too-large"


def test_a_mask_of_another_shape_is_refused() -> None:
    assert refusal(photograph(RNG.random((1, 8, 8))), np.zeros((8, 9), np.uint8), plan((8, 8))).code == "mask-shape"
