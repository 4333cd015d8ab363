"""Made-up lesions show what their findings say, and nothing but the findings tells benign from malignant."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter

from simulations.pretraining.example import Example
from simulations.pretraining.lesions import FINDINGS, lesion

NUMBER = 160


@cache
def examples() -> tuple[Example, ...]:
    """A few, drawn once."""
    return tuple(lesion(11, index) for index in range(NUMBER))


def shows(example: Example, name: str) -> bool:
    """Whether ``name`` is among its findings."""
    return bool(example.findings[FINDINGS.index(name)])


def roundness(mask: np.ndarray) -> float:
    """4 pi area / perimeter^2, the perimeter counted in changes between neighbours: higher is smoother."""
    padded = np.pad(mask.astype(int), 1)
    around = np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded, axis=1)).sum()
    return float(4 * np.pi * mask.sum() / around**2)


def mean_of(measure: Callable[[Example], float], name: str) -> tuple[float, float]:
    """Mean of ``measure`` over examples with and without a finding."""
    values = np.array([measure(example) for example in examples()])
    having = np.array([shows(example, name) for example in examples()])
    return float(np.nanmean(values[having])), float(np.nanmean(values[~having]))


def grey(example: Example) -> np.ndarray:
    """Grey values (H, W)."""
    return np.asarray(example.image.voxels[0])


def box(example: Example) -> tuple[int, int, int, int]:
    """First and last row and column of the lesion."""
    rows, columns = (np.flatnonzero(example.mask.any(axis=axis)) for axis in (1, 0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def behind_against_beside(example: Example) -> float:
    """Grey below the lesion minus grey beside that, at the same depth."""
    _, last, left, right = box(example)
    image, width = grey(example), right - left + 1
    rows = slice(last + 3, last + 18)
    inner = image[rows, left + width // 4 : right - width // 4 + 1]
    outer = [image[rows, max(0, left - 14) : max(0, left - 2)], image[rows, right + 3 : right + 15]]
    beside = np.concatenate([part.ravel() for part in outer])
    return float(inner.mean() - beside.mean()) if inner.size and beside.size else float("nan")


def test_half_are_malignant_and_the_first_finding_says_so() -> None:
    assert [shows(example, "malignant") for example in examples()] == [index % 2 == 1 for index in range(NUMBER)]
    assert all(len(example.findings) == len(FINDINGS) for example in examples())


@pytest.mark.parametrize("name", ["irregular", "spiculated", "shadowing", "haloed", "indistinct", "large"])
def test_suspicious_findings_are_more_frequent_in_malignant_lesions_but_in_benign_ones_too(name: str) -> None:
    ill = np.mean([shows(example, name) for example in examples()[1::2]])
    well = np.mean([shows(example, name) for example in examples()[0::2]])
    assert ill > well
    assert ill < 1


@pytest.mark.parametrize("name", ["anechoic", "encapsulated", "enhancing"])
def test_harmless_findings_are_more_frequent_in_benign_lesions(name: str) -> None:
    assert np.mean([shows(example, name) for example in examples()[0::2]]) > np.mean(
        [shows(example, name) for example in examples()[1::2]]
    )


def test_irregular_outlines_are_less_round() -> None:
    having, lacking = mean_of(lambda example: roundness(example.mask), "irregular")
    assert having < lacking - 0.03


def test_tall_lesions_are_taller_than_wide_more_often() -> None:
    def ratio(example: Example) -> float:
        top, bottom, left, right = box(example)
        return (bottom - top + 1) / (right - left + 1)

    having, lacking = mean_of(ratio, "tall")
    assert having > lacking + 0.2


def test_shadows_are_darker_than_what_is_beside_them_and_enhancement_brighter() -> None:
    shadowed, _ = mean_of(behind_against_beside, "shadowing")
    enhanced, _ = mean_of(behind_against_beside, "enhancing")
    assert shadowed < -10
    assert enhanced > 5


def test_cysts_are_darker_inside_than_other_lesions() -> None:
    def inside(example: Example) -> float:
        image, within = grey(example), example.mask > 0
        return float(np.median(image[within]) - np.median(image[~within]))

    having, lacking = mean_of(inside, "anechoic")
    assert having < lacking - 8


def test_every_lesion_lies_within_the_image_and_takes_up_a_part_of_it() -> None:
    shares = np.array([example.mask.mean() for example in examples()])
    assert shares.min() > 0.001
    assert shares.max() < 0.7
    assert all(example.mask.shape == example.image.shape for example in examples())


def test_images_are_what_an_eight_bit_file_holds() -> None:
    for example in examples()[:20]:
        values = example.image.voxels
        assert values.dtype == np.float32
        assert (values == np.rint(values)).all()
        assert values.min() >= 0
        assert values.max() <= 255
        assert example.image.modality == "us"


def test_the_same_seed_and_index_give_the_same_bytes_and_others_do_not() -> None:
    again = lesion(11, 3)
    assert again.image.voxels.tobytes() == examples()[3].image.voxels.tobytes()
    assert again.mask.tobytes() == examples()[3].mask.tobytes()
    assert again.findings == examples()[3].findings
    assert lesion(12, 3).image.voxels.tobytes() != again.image.voxels.tobytes()


def test_scanner_and_place_say_nothing_of_the_diagnosis() -> None:
    """A rank test over many drawn sizes and shapes of images: the shape is the scanner's, never the lesion's."""
    ratios = np.array([example.image.shape[0] / example.image.shape[1] for example in examples()])
    ill = ratios[1::2].mean() - ratios[0::2].mean()
    assert abs(ill) < 4 * ratios.std() / np.sqrt(NUMBER / 4)


def test_small_lesions_and_large_ones_are_told_apart_by_their_masks() -> None:
    def width(example: Example) -> float:
        _, _, left, right = box(example)
        return float(right - left)

    having, lacking = mean_of(width, "large")
    assert having > 1.3 * lacking


def test_a_halo_is_brighter_than_the_tissue_beyond_it() -> None:
    def rim(example: Example) -> float:
        near = binary_dilation(example.mask, iterations=6) & (example.mask == 0)
        far = binary_dilation(example.mask, iterations=16) & ~binary_dilation(example.mask, iterations=10)
        return float(grey(example)[near].mean() - grey(example)[far].mean())

    having, lacking = mean_of(rim, "haloed")
    assert having > lacking + 4


def test_sharp_outlines_are_steeper_than_indistinct_ones() -> None:
    def steepness(example: Example) -> float:
        smooth = gaussian_filter(grey(example), 1.5)
        outside = binary_dilation(example.mask, iterations=3) & (example.mask == 0)
        inside = (example.mask > 0) & ~binary_erosion(example.mask, iterations=3)
        return float((smooth[outside].mean() - smooth[inside].mean()) / (smooth.std() + 1e-6))

    having, lacking = mean_of(steepness, "indistinct")
    assert having < lacking


def test_most_lesions_are_darker_than_what_surrounds_them() -> None:
    darker = [
        grey(example)[example.mask > 0].mean() < grey(example)[binary_dilation(example.mask, iterations=12)].mean()
        for example in examples()
    ]
    assert np.mean(darker) > 0.85


def test_no_finding_alone_gives_the_diagnosis_away() -> None:
    """Guessing by any one of them is right in fewer than nine of ten."""
    ill = np.array([shows(example, "malignant") for example in examples()])
    for name in FINDINGS[1:]:
        having = np.array([shows(example, name) for example in examples()])
        assert max(np.mean(having == ill), np.mean(having != ill)) < 0.9
