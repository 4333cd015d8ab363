"""Numbers about one image, each against a way of computing it that shares nothing with the code."""

import io
import math

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from client.data.doctor import measure as module
from client.data.doctor.measure import (
    MANY_VALUES,
    TINY_VOXELS,
    Measurement,
    area_mean,
    from_text,
    is_current,
    measure,
    measure_mask,
    to_text,
)
from shared.preprocessing.image import FloatArray, Image


def grey(values: object) -> Image:
    voxels = np.asarray(values, np.float32)
    return Image(voxels[None], (1.0,) * voxels.ndim)


def picture(number: int, edge: int = 96) -> FloatArray:
    """Clouds of several sizes, 0 to 255."""
    rng = np.random.default_rng(number)
    clouds = sum(ndimage.gaussian_filter(rng.normal(size=(edge, edge)), s) * s for s in (2, 5, 12))
    low, high = clouds.min(), clouds.max()
    return np.rint((clouds - low) / (high - low) * 255).astype(np.float32)


def thumbnail(measurement: Measurement) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.frombuffer(bytes.fromhex(measurement.thumbnail), np.uint8).astype(float)


def likeness(one: FloatArray, other: object) -> float:
    pair = thumbnail(measure(grey(one), None)), thumbnail(measure(grey(other), None))
    return float(np.corrcoef(*pair)[0, 1])


def test_statistics_are_those_of_pure_python() -> None:
    values = [[3.0, -1.0, 3.0], [0.5, 2.0, -1.0]]
    flat = [value for row in values for value in row]
    found = measure(grey(values), None)
    mean = math.fsum(flat) / 6
    assert (found.low, found.high) == (-1.0, 3.0)
    assert found.mean == pytest.approx(mean, abs=1e-12)
    assert found.deviation == pytest.approx(math.sqrt(math.fsum((v - mean) ** 2 for v in flat) / 6), abs=1e-12)
    assert found.at_low == found.at_high == pytest.approx(2 / 6)
    assert found.values == 4
    assert found.mask is None


def test_a_large_offset_costs_the_deviation_no_digits() -> None:
    values = 1e6 + np.random.default_rng(0).integers(0, 8, (300, 300))
    assert measure(grey(values), None).deviation == pytest.approx(float(np.std(values)), rel=1e-9)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image(np.random.default_rng(0).normal(size=(1, 7, 9, 5)).astype(np.float32), (1.0, 1.0, 1.0))
    whole = measure(image, None)
    monkeypatch.setattr(module, "_BLOCK", 16)
    parted = measure(image, None)
    assert parted.digest == whole.digest
    assert parted.deviation == pytest.approx(whole.deviation, rel=1e-12)


@given(st.integers(1, 400), st.sampled_from([0.0, 0.25, -1024.0]), st.sampled_from([1.0, 0.1, 300.0]))
def test_distinct_values_are_counted_up_to_what_8_bits_can_hold_and_one_more(
    count: int, offset: float, step: float
) -> None:
    values = np.resize((offset + step * np.arange(count)).astype(np.float32), 400).reshape(20, 20)
    assert measure(grey(values), None).values == min(MANY_VALUES, len({float(value) for value in values.ravel()}))


def test_few_values_among_many_voxels_are_counted_even_where_a_sample_misses_one() -> None:
    values = np.zeros((400, 400), np.float32)
    values[1, 1] = 0.5
    assert measure(grey(values), None).values == 2


def test_the_digest_is_equal_for_equal_images_and_for_no_others() -> None:
    image = picture(0)
    same = measure(grey(image), None).digest
    assert measure(grey(image.copy()), None).digest == same
    changed = image.copy()
    changed[5, 5] += 1
    reshaped = Image(image.reshape(1, 48, 192), (1.0, 1.0))
    assert len({same, measure(grey(changed), None).digest, measure(reshaped, None).digest}) == 3


def test_minus_zero_is_zero_to_the_digest() -> None:
    assert measure(grey([[-0.0, 1.0]]), None).digest == measure(grey([[0.0, 1.0]]), None).digest


def test_border_and_centre_are_the_frame_and_the_middle_half() -> None:
    values = np.full((32, 64), 5.0)
    values[2:30, 4:60] = 7.0
    values[8:24, 16:48] = 9.0
    found = measure(grey(values), None)
    assert (found.border, found.centre) == (5.0, 9.0)
    turned = measure(grey(np.stack([values, values + 2])), None)
    assert (turned.border, turned.centre) == (6.0, 10.0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 3), (1, 1, 1), (3, 1, 2)])
def test_the_smallest_images_can_be_measured(shape: tuple[int, ...]) -> None:
    found = measure(grey(np.arange(math.prod(shape)).reshape(shape)), np.ones(shape, np.uint8))
    assert all(math.isfinite(value) for value in (found.mean, found.border, found.centre))
    assert found.mask is not None
    assert found.mask.full


def test_an_area_mean_is_that_of_an_image_with_every_pixel_repeated() -> None:
    """The oracle makes cells whole: each of 5 x 7 pixels as 4 x 3 equal ones, so that 4 x 3 cells have whole edges."""
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    repeated = np.kron(values, np.ones((4, 3)))
    expected = repeated.reshape(4, 5, 3, 7).mean(axis=(1, 3))
    assert area_mean(values, (4, 3)) == pytest.approx(expected, abs=1e-6)


def test_an_area_mean_keeps_the_mean_and_can_enlarge() -> None:
    values = np.random.default_rng(0).normal(size=(3, 9, 5)).astype(np.float32)
    for shape in ((3, 9, 5), (2, 4, 4), (6, 18, 10)):
        assert float(area_mean(values, shape).mean()) == pytest.approx(float(values.mean()), abs=1e-6)
    assert area_mean(values, (6, 18, 10))[::2, ::2, ::2] == pytest.approx(values)


@pytest.mark.parametrize("number", range(4))
def test_a_thumbnail_survives_scaling_recompression_and_other_brightness(number: int) -> None:
    image = picture(number)
    file = io.BytesIO()
    shown = PIL.Image.fromarray(image.astype(np.uint8))
    shown.save(file, "JPEG", quality=30)
    assert likeness(image, shown.resize((48, 48), PIL.Image.Resampling.BICUBIC)) > 0.999
    assert likeness(image, shown.resize((163, 151), PIL.Image.Resampling.NEAREST)) > 0.998
    assert likeness(image, PIL.Image.open(file)) > 0.999
    assert likeness(image, 0.4 * image + 70) > 0.9999


def test_thumbnails_of_different_pictures_differ() -> None:
    """The control of the test before: what survives is not the same for everybody."""
    assert max(likeness(picture(0), picture(number)) for number in range(1, 20)) < 0.9


def test_a_constant_image_has_an_empty_thumbnail() -> None:
    assert measure(grey(np.full((20, 20), 7.0)), None).thumbnail == "00" * 256


def test_a_volume_has_a_thumbnail_of_four_slabs() -> None:
    volume = np.repeat(np.arange(4.0), 3)[:, None, None] * np.ones((12, 10, 10))
    slabs = thumbnail(measure(grey(volume), None)).reshape(4, 8, 8)
    assert [set(slab.ravel()) for slab in slabs] == [{0.0}, {85.0}, {170.0}, {255.0}]


def test_colours_count_as_their_mean() -> None:
    red = np.zeros((3, 20, 20), np.float32)
    red[0, :10] = 255
    found = measure(Image(red, (1.0, 1.0)), None)
    assert found.thumbnail == measure(Image(np.repeat(red.mean(axis=0)[None], 3, axis=0), (1.0, 1.0)), None).thumbnail


def test_classes_islands_and_specks_of_a_drawn_mask() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[2:6, 2:6] = 1
    mask[10:12, 10:12] = 1
    mask[15, 15] = 1
    mask[3, 3] = 3
    found = measure_mask(mask)
    assert found.classes == ((1, 15 + 4 + 1), (3, 1))
    assert found.islands == 4
    # The single voxel of class 3 is the largest of its class: small, but no slip.
    assert found.tiny_islands == 2
    assert not found.full
    assert not found.at_border


@given(st.integers(0, 2**32 - 1))
def test_islands_are_those_of_a_flood_fill(seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 3, (7, 8)).astype(np.uint8)
    sizes: dict[int, list[int]] = {1: [], 2: []}
    left = {(r, c): int(mask[r, c]) for r in range(7) for c in range(8) if mask[r, c]}
    while left:
        start, index = left.popitem()
        heap, size = [start], 1
        while heap:
            row, column = heap.pop()
            for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if left.get(near) == index:
                    del left[near]
                    heap.append(near)
                    size += 1
        sizes[index].append(size)
    found = measure_mask(mask)
    assert found.islands == sum(map(len, sizes.values()))
    tiny = [sum(size <= TINY_VOXELS for size in one) for one in sizes.values() if max(one, default=0) > TINY_VOXELS]
    assert found.tiny_islands == sum(tiny)


@pytest.mark.parametrize("edge", [(0, 5), (19, 5), (5, 0), (5, 19)])
def test_each_edge_of_the_plane_is_a_border(edge: tuple[int, int]) -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[edge] = 1
    assert measure_mask(mask).at_border


def test_the_first_slice_is_no_border_but_the_first_row_is() -> None:
    mask = np.zeros((4, 9, 9), np.uint8)
    mask[0, 4, 4] = 1
    assert not measure_mask(mask).at_border
    mask[2, 0, 4] = 1
    assert measure_mask(mask).at_border


def test_an_empty_and_a_full_mask() -> None:
    empty, full = measure_mask(np.zeros((5, 5), np.uint8)), measure_mask(np.full((5, 5), 2, np.uint8))
    assert (empty.classes, empty.islands, empty.full) == ((), 0, False)
    assert (full.classes, full.islands, full.full) == (((2, 25),), 1, True)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["masked", "bare"]))
def test_text_brings_a_measurement_back_whole(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    image = Image(rng.normal(size=(1, 6, 7)).astype(np.float32), (1.0, 1.0))
    found = measure(image, rng.integers(0, 3, (6, 7)).astype(np.uint8) if kind == "masked" else None)
    assert from_text(to_text(found)) == found


def test_what_another_version_measured_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = to_text(measure(grey(picture(0)), None))
    assert is_current(text)
    assert len(text) < 1200
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert not is_current(text)
    assert from_text(text) is None
