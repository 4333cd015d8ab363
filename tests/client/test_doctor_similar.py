"""Look-alikes: every pair is found, copies are told from people with the same anatomy."""

import io
import itertools
from collections.abc import Callable
from functools import cache

import numpy as np
import PIL.Image
import pytest
from scipy import ndimage

from client.data.doctor import similar
from client.data.doctor.measure import measure
from client.data.doctor.similar import ALIKE, LookAlikes, detail_shape, details, look_alikes, one_picture
from shared.preprocessing.image import FloatArray, Image

Bytes = np.ndarray[tuple[int, int], np.dtype[np.uint8]]


def thumbnails(count: int, spread: float, seed: int = 0) -> Bytes:
    """Variations of one picture, the more alike the smaller ``spread``."""
    rng = np.random.default_rng(seed)
    common = ndimage.gaussian_filter(rng.normal(size=(16, 16)), 2)
    own = ndimage.gaussian_filter(rng.normal(size=(count, 16, 16)), (0, 1.5, 1.5))
    mixed = common / common.std() + spread * own / own.std()
    low, high = mixed.min(axis=(1, 2), keepdims=True), mixed.max(axis=(1, 2), keepdims=True)
    return np.rint((mixed - low) / (high - low) * 255).astype(np.uint8).reshape(count, 256)


def pairs_by_hand(shown: Bytes, groups: np.ndarray[tuple[int], np.dtype[np.int32]]) -> set[tuple[int, int]]:
    table = np.corrcoef(shown.astype(float))
    return {
        (one, other)
        for one, other in itertools.combinations(range(len(shown)), 2)
        if groups[one] != groups[other] and table[one, other] >= ALIKE
    }


@pytest.mark.parametrize(("spread", "block"), [(1.0, 2048), (0.2, 17), (0.12, 2048)])
def test_every_pair_is_found_and_no_other(spread: float, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar, "_BLOCK", block)
    shown, groups = thumbnails(300, spread), np.arange(300, dtype=np.int32) // 3
    shown[200:210] = np.clip(shown[:10].astype(int) + 1, 0, 255)
    found = look_alikes(shown, groups, limit=10**6)
    expected = pairs_by_hand(shown, groups)
    assert len(expected) >= 10
    assert {(int(one), int(other)) for one, other in found.pairs} == expected
    assert not found.more
    assert np.all(np.diff(found.apart) >= 0)


def test_pairs_of_one_group_are_no_pairs() -> None:
    shown = np.repeat(thumbnails(1, 1.0), 5, axis=0)
    assert len(look_alikes(shown, np.zeros(5, np.int32)).pairs) == 0
    assert len(look_alikes(shown, np.arange(5, dtype=np.int32)).pairs) == 10


def test_beyond_the_limit_the_closest_are_kept_and_it_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar, "_BLOCK", 32)
    shown, groups = thumbnails(200, 0.15), np.arange(200, dtype=np.int32)
    everything, few = look_alikes(shown, groups, limit=10**6), look_alikes(shown, groups, limit=40)
    assert len(everything.pairs) > 400
    assert few.more
    assert few.reach == few.apart[-1] < 1 - ALIKE
    assert few.pairs.tolist() == everything.pairs[:40].tolist()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_images_are_no_trouble(count: int) -> None:
    found = look_alikes(thumbnails(3, 1.0)[:count], np.arange(count, dtype=np.int32))
    assert found.pairs.shape == (0, 2)


def test_images_without_contrast_resemble_nothing() -> None:
    shown = np.zeros((4, 256), np.uint8)
    shown[2:] = 99
    assert len(look_alikes(shown, np.arange(4, dtype=np.int32)).pairs) == 0


# --- details ---------------------------------------------------------------------------------------------------------


@cache
def anatomy(person: int, edge: int = 96) -> FloatArray:
    """One organ in one place for everybody, with a texture and speckle of each person's own; 0 to 255."""
    rng = np.random.default_rng(person)
    rows, columns = np.mgrid[:edge, :edge] / edge - 0.5
    shared = 120.0 * ((rows / 0.35) ** 2 + (columns / 0.4) ** 2 < 1)
    own = ndimage.gaussian_filter(rng.normal(size=(edge, edge)), 1.5) * 45 + rng.normal(0, 3, (edge, edge))
    return np.clip(shared + own + 60, 0, 255).astype(np.float32)


def jpeg(values: FloatArray) -> FloatArray:
    file = io.BytesIO()
    PIL.Image.fromarray(values.astype(np.uint8)).save(file, "JPEG", quality=40)
    return np.asarray(PIL.Image.open(file), np.float32)


def halved(values: FloatArray) -> FloatArray:
    shown = PIL.Image.fromarray(values)
    return np.asarray(shown.resize((shown.width // 2, shown.height // 2), PIL.Image.Resampling.BICUBIC), np.float32)


COPIES: dict[str, Callable[[FloatArray], FloatArray]] = {
    "halved": halved,
    "jpeg": jpeg,
    "brighter": lambda values: np.clip(1.15 * values + 8, 0, 255),
    "gamma": lambda values: 255 * (values / 255) ** 0.8,
    "all": lambda values: jpeg(np.clip(1.1 * halved(values) + 5, 0, 255)),
}


def judged(images: list[FloatArray]) -> tuple[LookAlikes, set[tuple[int, int]]]:
    """All pairs that look alike, and those taken for one picture; each image is of its own patient."""
    made = [Image(np.ascontiguousarray(values[None], np.float32), (1.0,) * values.ndim) for values in images]
    shown = np.stack([np.frombuffer(bytes.fromhex(measure(one, None).thumbnail), np.uint8) for one in made])
    found = look_alikes(shown, np.arange(len(made), dtype=np.int32))
    likeness = np.zeros(len(found.pairs))
    for place, (one, other) in enumerate(found.pairs):
        shape = detail_shape(made[one].shape, made[other].shape)
        likeness[place] = details(made[one], shape) @ details(made[other], shape)
    kept = found.pairs[one_picture(found, likeness)]
    return found, {(int(one), int(other)) for one, other in kept}


def test_people_of_the_same_anatomy_look_alike_and_are_not_one_picture() -> None:
    found, same = judged([anatomy(person) for person in range(40)])
    assert len(found.pairs) > 100
    assert same == set()


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_is_found_among_people_of_the_same_anatomy(change: str) -> None:
    images = [anatomy(person) for person in range(40)]
    _, same = judged([*images, *(COPIES[change](image) for image in images[:5])])
    assert same == {(number, 40 + number) for number in range(5)}


def test_three_copies_of_one_picture_are_three_pairs() -> None:
    images = [anatomy(person) for person in range(40)]
    _, same = judged([*images, jpeg(images[0]), halved(images[0])])
    assert same == {(0, 40), (0, 41), (40, 41)}


def test_a_copy_of_a_volume_is_found() -> None:
    rng = np.random.default_rng(0)
    shared = ndimage.gaussian_filter(rng.normal(size=(16, 48, 48)), 6)
    own = ndimage.gaussian_filter(rng.normal(size=(12, 16, 48, 48)), (0, 1.5, 1.5, 1.5))
    volumes = list(shared / shared.std() + 0.2 * own / own.std())
    smaller = volumes[3].reshape(16, 24, 2, 24, 2).mean(axis=(2, 4))
    found, same = judged([*volumes, 2 * smaller + 7])
    assert len(found.pairs) > 1
    assert same == {(3, 12)}


def test_details_do_not_depend_on_brightness_and_contrast() -> None:
    image = anatomy(0)
    one, other = (details(Image(values[None], (1.0, 1.0)), (64, 64)) for values in (image, 3 * image - 500))
    assert float(one @ one) == pytest.approx(1, abs=1e-5)
    assert float(one @ other) == pytest.approx(1, abs=1e-4)


def test_a_flat_image_has_no_details() -> None:
    flat = details(Image(np.full((1, 64, 64), 7.0, np.float32), (1.0, 1.0)), (64, 64))
    assert abs(float(flat @ details(Image(anatomy(0)[None], (1.0, 1.0)), (64, 64)))) < 0.1


def test_no_image_is_enlarged_to_compare_it() -> None:
    assert detail_shape((300, 60), (200, 500)) == (128, 60)
    assert detail_shape((5, 300, 20), (40, 500, 500)) == (5, 64, 20)


def rivalled(apart: list[float], images: int = 100) -> list[bool]:
    """Image 0 with images 1, 2, …, all with equal likeness of details."""
    pairs = np.array([[0, other] for other in range(1, len(apart) + 1)])
    found = LookAlikes(pairs, np.array(apart), 1 - ALIKE, images)
    return one_picture(found, np.full(len(apart), 0.9)).tolist()


def test_a_pair_must_be_much_closer_than_the_third_nearest_other() -> None:
    assert rivalled([0.001]) == [True]
    assert rivalled([0.001, 0.012, 0.012, 0.012]) == [True, False, False, False]
    assert rivalled([0.001, 0.001, 0.001, 0.012]) == [True, True, True, False]
    assert rivalled([0.001, 0.002, 0.002, 0.003]) == [False] * 4


def test_among_few_images_or_many_look_alikes_only_close_copies_are_believed() -> None:
    assert rivalled([0.004], images=100) == [True]
    assert rivalled([0.004], images=10) == [False]
    assert rivalled([0.001], images=10) == [True]


def test_pairs_without_common_details_are_not_one_picture() -> None:
    found = LookAlikes(np.array([[0, 1]]), np.array([1e-6]), 1 - ALIKE, 100)
    assert one_picture(found, np.array([0.4])).tolist() == [False]
    assert one_picture(found, np.array([0.6])).tolist() == [True]
