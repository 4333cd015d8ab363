"""Grey values: each fault is found, and a clean data set is silent."""

from collections.abc import Callable

import numpy as np
import pytest
from doctored import Row, clean, found, names
from scipy import ndimage

from client.data.doctor.checks import intensity
from shared.preprocessing.image import FloatArray, Modality

CHECKS = (intensity.contrast, intensity.hounsfield, intensity.saturation, intensity.inversion)
Change = Callable[[FloatArray], FloatArray]


def planted(change: Change, modality: Modality = "ct") -> tuple[list[Row], Row]:
    rows = [row.but(modality=modality) for row in clean()]
    rows[3] = rows[3].but(voxels=np.asarray(change(rows[3].voxels), np.float32))
    return rows, rows[3]


def findings(rows: list[Row]) -> dict[str, tuple[str, ...]]:
    return {code: one.cases for check in CHECKS for code, one in found(check, rows).items()}


@pytest.mark.parametrize("modality", ["ct", "mr", "us"])
def test_a_clean_data_set_is_silent(modality: Modality) -> None:
    assert findings([row.but(modality=modality) for row in clean()]) == {}


def test_a_constant_image_is_found_and_nothing_else_is_said_of_it() -> None:
    rows, odd = planted(lambda voxels: np.full_like(voxels, 0))
    assert findings(rows) == {"image-constant": names([odd])}


def test_a_mask_in_the_place_of_an_image_is_found() -> None:
    rows, odd = planted(lambda voxels: (voxels > -500) * 255.0, "mr")
    assert findings(rows)["image-two-values"] == names([odd])


def eight_bits(voxels: FloatArray) -> FloatArray:
    return np.rint((voxels.clip(-160, 240) + 160) * (255 / 400)).astype(np.float32)


FAULTS: dict[str, tuple[str, Change]] = {
    "picture": ("ct-eight-bit", eight_bits),
    "no intercept": ("ct-not-hounsfield", lambda voxels: voxels + 3000),
    "0 to 1": ("ct-not-hounsfield", lambda voxels: (voxels + 1000) / 2000),
    "z-score": ("ct-not-hounsfield", lambda voxels: (voxels - voxels.mean()) / voxels.std()),
    "padding": ("ct-range", lambda voxels: np.where(voxels < -900, -32768, voxels)),
    "slope": ("ct-range", lambda voxels: 100 * voxels),
    "window": ("ct-clipped", lambda voxels: voxels.clip(-160, 240)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_ct_that_is_not_in_hounsfield_units_is_found(fault: str) -> None:
    code, change = FAULTS[fault]
    rows, odd = planted(change)
    assert found(intensity.hounsfield, rows)[code].cases == names([odd])


@pytest.mark.parametrize("fault", FAULTS)
def test_nobody_expects_hounsfield_units_of_an_mr(fault: str) -> None:
    code, change = FAULTS[fault]
    rows, _ = planted(change, "mr")
    assert code not in found(intensity.hounsfield, rows)


def test_padding_as_scanners_write_it_is_in_range() -> None:
    rows, _ = planted(lambda voxels: np.where(voxels < -900, -3024, voxels))
    assert found(intensity.hounsfield, rows) == {}


def test_an_overexposed_image_is_found_and_a_bright_scanner_is_not() -> None:
    rows, odd = planted(lambda voxels: voxels.clip(None, 0), "mr")
    assert found(intensity.saturation, rows)["image-saturated"].cases == names([odd])
    assert found(intensity.saturation, [row.but(voxels=row.voxels.clip(None, 0)) for row in rows]) == {}


@pytest.mark.parametrize("modality", ["ct", "mr"])
@pytest.mark.parametrize("count", [1, 7])
def test_inverted_images_are_found_by_what_is_usual(modality: Modality, count: int) -> None:
    rows = [row.but(modality=modality) for row in clean()]
    for place in range(count):
        rows[3 * place] = rows[3 * place].but(voxels=-rows[3 * place].voxels)
    (finding,) = found(intensity.inversion, rows).values()
    assert finding.cases == names(rows[3 * place] for place in range(count))


def test_one_witness_is_not_enough() -> None:
    """Bright as a negative, but with the usual picture; and a negative picture, as dark as usual for one hot voxel."""
    rows, odd = planted(lambda voxels: 2000 * ((voxels - voxels.min()) / 2000) ** 0.05, "mr")
    assert found(intensity.inversion, rows) == {}
    hot = -clean()[3].voxels
    hot[0, 20, 20] = 10 * hot.max()
    rows[3] = odd.but(voxels=hot)
    assert found(intensity.inversion, rows) == {}


def test_images_that_have_little_in_common_are_inverted_where_frame_and_level_say_so() -> None:
    """Limbs at different places: thumbnails do not agree, but the centre is bright and most of the frame is black."""

    def limb(number: int) -> FloatArray:
        rng = np.random.default_rng(number)
        rows, columns = np.mgrid[:64, :64] - rng.uniform(14, 50, (2, 1, 1))
        disc = 400.0 * (rows**2 + columns**2 < 100) + 60 * (np.abs(rows - columns) < 3)
        return (ndimage.gaussian_filter(disc, 1) + rng.normal(40, 5, disc.shape))[None].astype(np.float32)

    rows = [Row(number, limb(number), modality="mr") for number in range(30)]
    assert found(intensity.inversion, rows) == {}
    rows[4] = rows[4].but(voxels=-rows[4].voxels)
    assert found(intensity.inversion, rows)["image-inverted"].cases == names([rows[4]])


def test_of_a_handful_of_images_nobody_can_tell_what_is_usual() -> None:
    rows = clean(3)
    rows[0] = rows[0].but(voxels=-rows[0].voxels)
    assert found(intensity.inversion, rows) == {}


def test_images_are_compared_with_those_of_their_modality() -> None:
    """Half of all images are bright around the centre, but all of these are X-rays."""
    inverted = [row.but(number=100 + row.number, modality="xray", voxels=-row.voxels) for row in clean()]
    assert found(intensity.inversion, [*clean(), *inverted]) == {}
