"""What is counted of explanations: shares by hand, ties, maps that say nothing, sums over sites, intervals."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ProtocolError
from shared.evaluation import saliency
from shared.evaluation.additive import GROUPS, UNIT, Statistics, collect
from shared.evaluation.intervals import with_intervals

CLASSES = ("benign", "malignant")
ROUNDING = UNIT / 2 + 1e-12


def square(corner: tuple[int, int] = (2, 3), edge: int = 2, size: int = 8) -> saliency.Mask:
    mask = np.zeros((size, size), np.uint8)
    mask[corner[0] : corner[0] + edge, corner[1] : corner[1] + edge] = 1
    return mask


def total_of(*cases: tuple[dict[int, saliency.Saliency], saliency.Mask]) -> dict[str, float]:
    observed = ((f"p{at}", saliency.observe(maps, mask, 2)) for at, (maps, mask) in enumerate(cases))
    return saliency.metrics(collect(saliency.schema(2, "by hand"), observed).total(), CLASSES)


def random_map(seed: int) -> saliency.Saliency:
    return np.random.default_rng(seed).random((8, 8)).astype(np.float32)


# --- one case --------------------------------------------------------------------------------------------------------


def test_a_map_by_hand() -> None:
    """3 of 5 parts lie on the lesion, the peak does not, and the lesion is 4 of 64 pixels."""
    found = np.zeros((8, 8), np.float32)
    found[2, 3], found[3, 4], found[7, 7] = 0.5, 1.0, 1.0 + 2**-20
    assert saliency.measured(found, square()) == {
        "saliency_inside": pytest.approx(1.5 / 2.5, abs=1e-6),
        "pointing_game": 0.0,
        "saliency_chance": 4 / 64,
    }


@given(st.integers(0, 10_000))
def test_the_share_inside_and_the_share_inside_the_complement_add_up_to_one(seed: int) -> None:
    found, mask = random_map(seed), square()
    one, other = saliency.measured(found, mask), saliency.measured(found, 1 - mask)
    assert one is not None
    assert other is not None
    for name in saliency.MOMENTS:
        assert one[name] + other[name] == pytest.approx(1)


@given(st.integers(0, 10_000), st.sampled_from([1e-6, 0.3, 7.0, 1e6]))
def test_the_scale_of_a_map_does_not_matter(seed: int, scale: float) -> None:
    found = random_map(seed)
    assert saliency.measured(np.float32(scale) * found, square()) == pytest.approx(
        saliency.measured(found, square()), rel=1e-5
    )


def test_an_even_map_reaches_chance_and_no_more() -> None:
    measured = saliency.measured(np.ones((8, 8), np.float32), square(edge=3))
    assert measured == dict.fromkeys(saliency.MOMENTS, 9 / 64)


def test_of_equal_peaks_the_share_on_the_lesion_counts() -> None:
    found = np.zeros((8, 8), np.float32)
    found[2, 3] = found[0, 0] = found[7, 0] = found[7, 7] = 1.0
    measured = saliency.measured(found, square())
    assert measured is not None
    assert measured["pointing_game"] == 1 / 4


def test_a_random_map_reaches_chance_on_average_and_one_that_knows_the_lesion_does_not() -> None:
    """The control has the same maps, made brighter on the lesion."""
    mask = square(edge=4)
    blind = total_of(*(({1: random_map(seed)}, mask) for seed in range(400)))
    seeing = total_of(*(({1: random_map(seed) + np.float32(0.5) * mask}, mask) for seed in range(400)))
    spread = math.sqrt(0.25 * 0.75 / 400)
    for name in ("saliency_inside", "pointing_game"):
        assert abs(blind[name] - blind["saliency_chance"]) < 3 * spread
        assert seeing[name] - seeing["saliency_chance"] > 3 * spread


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf], ids=str)
def test_a_map_that_says_nothing_enters_no_mean_but_is_counted(value: float) -> None:
    silent, speaking = np.full((8, 8), value, np.float32), square().astype(np.float32)
    assert saliency.measured(silent, square()) is None
    found = total_of(({1: silent}, square()), ({1: speaking}, square()), ({1: speaking}, square()))
    assert found["saliency_found"] == pytest.approx(2 / 3)
    assert found["saliency_inside"] == 1.0


def test_every_class_of_a_mask_that_is_not_background_is_lesion() -> None:
    mask = square() * np.uint8(3)
    assert saliency.measured(random_map(1), mask) == saliency.measured(random_map(1), square())


def test_volumes_are_measured_like_images() -> None:
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[:2, :2, :2] = 1
    measured = saliency.measured(mask.astype(np.float32) + 1, mask)
    assert measured == {"saliency_inside": pytest.approx(16 / 72), "pointing_game": 1.0, "saliency_chance": 8 / 64}


# --- many cases ------------------------------------------------------------------------------------------------------


def test_a_mean_is_taken_by_class_and_the_plain_name_is_the_mean_over_classes() -> None:
    cases = [({at % 2: random_map(at)}, square(edge=2 + at % 3)) for at in range(9)]
    found = total_of(*cases)
    for index, name in enumerate(CLASSES):
        single = [saliency.measured(maps[index], mask) for maps, mask in cases if index in maps]
        for metric in saliency.MOMENTS:
            by_hand = np.mean([of[metric] for of in single if of is not None])
            assert found[f"{metric}_{name}"] == pytest.approx(by_hand, abs=ROUNDING)
    assert found["pointing_game"] == pytest.approx(
        (found["pointing_game_benign"] + found["pointing_game_malignant"]) / 2
    )


def test_a_class_without_a_masked_case_is_undetermined_and_does_not_lower_the_mean() -> None:
    found = total_of(({1: square().astype(np.float32)}, square()))
    assert math.isnan(found["saliency_inside_benign"])
    assert math.isnan(found["saliency_found_benign"])
    assert found["saliency_inside"] == 1.0


def test_no_case_determines_nothing() -> None:
    assert all(math.isnan(value) for value in total_of().values())


def test_a_case_with_two_findings_counts_once_for_each() -> None:
    observed = saliency.observe({0: random_map(1), 1: random_map(2)}, square(), 2)
    assert observed[saliency.MASKED].tolist() == [1, 1]
    assert observed[saliency.FOUND].tolist() == [1, 1]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), min_size=1, max_size=20), st.integers(0, 20))
def test_sums_over_sites_are_the_sums_of_all_cases_in_one_room(cases: list[tuple[int, int]], cut: int) -> None:
    schema = saliency.schema(2, "by hand")
    observed = [
        (f"p{patient}", saliency.observe({label: random_map(at)}, square(), 2))
        for at, (patient, label) in enumerate(cases)
    ]
    one_room = collect(schema, observed)
    # Not the patients: one who is at both sites is two.
    sites = [collect(schema, part) for part in (observed[:cut], observed[cut:])]
    for name in (saliency.MASKED, saliency.FOUND, saliency.SUMS):
        assert (sites[0].counts[name] + sites[1].counts[name] == one_room.counts[name]).all()


def test_maps_of_two_methods_do_not_add_up() -> None:
    one, other = (Statistics.zero(saliency.schema(2, method)) for method in ("grad-cam", "occlusion"))
    with pytest.raises(ProtocolError, match="different definitions"):
        one + other


def test_what_leaves_is_a_few_hundred_integers_whatever_the_size_of_the_images() -> None:
    assert saliency.schema(2, "grad-cam").length == GROUPS * (2 + 2 + 2 + 2 * 3)


# --- intervals -------------------------------------------------------------------------------------------------------


def test_the_interval_holds_the_value_stays_a_proportion_and_shrinks_with_patients() -> None:
    metrics = partial(saliency.metrics, classes=CLASSES)
    widths = []
    for patients in (40, 640):
        observed = (
            (f"p{at}", saliency.observe({1: random_map(at) + np.float32(at % 2) * square()}, square(), 2))
            for at in range(patients)
        )
        statistics = collect(saliency.schema(2, "by hand"), observed)
        limits = saliency.limits(metrics(statistics.total()))
        found = with_intervals(statistics, metrics, limits)["pointing_game"]
        assert 0 <= found.low < found.value < found.high <= 1
        assert found.n_patients == patients
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 2


def test_ten_images_of_a_patient_are_not_ten_patients() -> None:
    """The control takes the same images for as many people, and is surer than it may be."""
    metrics = partial(saliency.metrics, classes=CLASSES)

    def width(images_per_patient: int) -> float:
        observed = (
            (
                f"p{at // images_per_patient}",
                saliency.observe({1: random_map(at // 10) + np.float32(at // 10 % 2) * square()}, square(), 2),
            )
            for at in range(300)
        )
        statistics = collect(saliency.schema(2, "by hand"), observed)
        found = with_intervals(statistics, metrics, saliency.limits(metrics(statistics.total())))["pointing_game"]
        return found.high - found.low

    assert width(1) < width(10) / 1.5
