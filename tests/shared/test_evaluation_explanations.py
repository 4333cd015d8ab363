"""Where a model looks: what is summed, what is withheld by whom, and what a coordinator refuses."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from tiny_federation import tiny_plan

from shared.errors import PlanError, ProtocolError
from shared.evaluation import saliency
from shared.evaluation.additive import Observation, Schema, Statistics
from shared.evaluation.explanations import (
    ARMS,
    SUPPRESSED,
    WITHHOLDING,
    Explained,
    Explaining,
    Leaving,
    collect,
    explaining,
    explanations_block,
    observation,
)
from shared.evaluation.subgroups import Layout
from shared.preprocessing.image import Case

MASK = np.zeros((4, 4), np.uint8)
MASK[:2, :2] = 1
Seen = tuple[Case, int, Observation]


def asked(release: str = "sum", floor: int = 3, **changes: Any) -> Explaining:
    found = explaining(
        tiny_plan(evaluation__release=release, evaluation__floor=floor, evaluation__explain="occlusion", **changes)
    )
    assert found is not None
    return found


def seen(patient: int, index: int, model: float, control: float = 0.25, number: int = 0) -> Seen:
    """One image: shares ``model`` and ``control`` of the two maps lie in the lesion, spread evenly inside and out."""
    case = Case(f"c{patient}-{number}", f"p{patient}", np.zeros((1, 4, 4), np.float32), MASK, index, (1.0, 1.0))
    maps = {"model": model, "control": control}
    counted = {
        arm: saliency.observe({0: np.where(MASK, maps[arm] / 4, (1 - maps[arm]) / 12).astype(np.float32)}, MASK, 1)
        for arm in ARMS
    }
    return case, index, observation(counted)


def many(benign: int, malignant: int, start: int = 0) -> list[Seen]:
    rng = np.random.default_rng(start)
    labels = [0] * benign + [1] * malignant
    return [seen(start + at, label, float(rng.uniform(0.3, 0.9))) for at, label in enumerate(labels)]


def block_of(asked: Explaining, *sites: Iterable[Seen]) -> dict[str, Any]:
    sent = [collect(asked, site) for site in sites]
    pooled = sum(sent[1:], start=sent[0])
    by_site = {f"s{at}": of for at, of in enumerate(sent)} if asked.release == "site" else {}
    return explanations_block(Explained(asked, pooled, by_site))


def shares(images: Iterable[Seen]) -> list[float]:
    """Oracle: the sums of the observations, each on its own."""
    return [float(counted[f"model/{saliency.SUMS}"][0, 0]) * 2.0**-20 for _, _, counted in images]


# --- sums ------------------------------------------------------------------------------------------------------------


def test_means_are_over_images_and_by_class_over_those_of_the_class() -> None:
    images = many(7, 9)
    block = block_of(asked(), images)
    assert block["model"]["saliency_inside"]["value"] == pytest.approx(np.mean(shares(images)), abs=1e-9)
    assert block["classes"]["dark"]["model"]["saliency_inside"]["value"] == pytest.approx(np.mean(shares(images[:7])))
    assert block["classes"]["bright"]["model"]["saliency_inside"]["value"] == pytest.approx(np.mean(shares(images[7:])))
    assert block["control"]["saliency_inside"]["value"] == pytest.approx(0.25, abs=1e-6)
    assert block["model"]["saliency_chance"]["value"] == 0.25
    assert (block["cases"], block["patients"]) == (16, 16)
    assert [block["classes"][name]["cases"] for name in ("dark", "bright")] == [7, 9]


def test_two_sites_give_what_one_room_gives() -> None:
    here, there = many(5, 6), many(8, 4, start=100)
    assert block_of(asked(), here, there) == block_of(asked(), [*there, *here])


def test_several_images_of_a_patient_are_one_patient() -> None:
    images = [seen(patient, 0, 0.6, number=number) for patient in range(6) for number in range(3)]
    block = block_of(asked(), images)
    assert (block["cases"], block["patients"]) == (18, 6)
    assert block["model"]["saliency_inside"]["n_patients"] == 6


def test_the_difference_is_paired_and_holds_nothing_where_both_look_alike() -> None:
    rng = np.random.default_rng(2)
    values = rng.uniform(0.2, 0.9, 40)
    better = block_of(asked(), [seen(at, at % 2, float(v), float(v) / 2) for at, v in enumerate(values)])
    alike = block_of(
        asked(), [seen(at, at % 2, float(v), float(w)) for at, (v, w) in enumerate(rng.uniform(0.2, 0.9, (40, 2)))]
    )
    assert better["difference"]["saliency_inside"]["value"] == pytest.approx(values.mean() / 2, abs=1e-6)
    assert better["difference"]["saliency_inside"]["low"] > 0
    assert alike["difference"]["saliency_inside"]["low"] < 0 < alike["difference"]["saliency_inside"]["high"]


def test_no_image_is_no_number_and_not_suppressed() -> None:
    block = block_of(asked(), [])
    assert block["cases"] == 0
    assert block["model"]["saliency_inside"]["value"] is None


# --- the floor -------------------------------------------------------------------------------------------------------


def said(block: dict[str, Any]) -> set[object]:
    return {of for part in (*ARMS, "difference") for of in block[part].values()} | {block["cases"], block["patients"]}


@pytest.mark.parametrize(("patients", "told"), [(1, False), (4, False), (5, True)])
def test_a_sum_of_too_few_patients_is_suppressed(patients: int, told: bool) -> None:  # noqa: FBT001
    block = block_of(asked(floor=5), many(patients, 0))
    assert (SUPPRESSED in (block["cases"], block["patients"])) == (not told)
    if not told:
        assert said(block) == {SUPPRESSED}


def test_a_small_class_is_suppressed_and_the_other_with_it_so_that_it_cannot_be_worked_out() -> None:
    block = block_of(asked(floor=5), many(2, 20))
    assert said(block["classes"]["dark"]) == said(block["classes"]["bright"]) == {SUPPRESSED}
    assert block["cases"] == 22


def test_classes_of_enough_patients_are_told() -> None:
    block = block_of(asked(floor=5), many(5, 20))
    assert [block["classes"][name]["patients"] for name in ("dark", "bright")] == [5, 20]


def test_under_site_a_site_of_too_few_patients_sends_zeros_and_that_it_did() -> None:
    one = asked("site", floor=5)
    few = collect(one, many(2, 2))
    assert set(np.flatnonzero(few.flat())) <= set(np.flatnonzero(collect(one, many(1, 2)).flat())), "no count remains"
    for name in ("patients", "cases", *(f"{arm}/{part}" for arm in ARMS for part in ("masked", "found", "sums"))):
        assert not few.counts[name].any()
        assert not few.counts[f"class/{name}"].any()
    block = block_of(one, many(2, 2), many(6, 7, start=50))
    assert block["missing_sites"] == 1
    assert said(block["sites"]["s0"]) == {SUPPRESSED}
    assert block["cases"] == block["sites"]["s1"]["cases"] == 13


def test_under_sum_the_same_site_counts_in_the_sum_and_no_site_is_told() -> None:
    block = block_of(asked(floor=5), many(2, 2), many(6, 7, start=50))
    assert block["cases"] == 17
    assert "sites" not in block
    assert "missing_sites" not in block


def test_where_every_site_withholds_nothing_is_told_of_all() -> None:
    block = block_of(asked("site", floor=5), many(2, 2), many(1, 3, start=50))
    assert said(block) == {SUPPRESSED}
    assert block["missing_sites"] == 2


def test_a_class_may_be_named_like_a_level_that_every_column_has() -> None:
    block = block_of(asked(data__classes=["other", "unknown"]), many(5, 6))
    assert {name: of["cases"] for name, of in block["classes"].items()} == {"other": 5, "unknown": 6}


# --- in one reply ----------------------------------------------------------------------------------------------------


MEASURED = Layout(Schema("measured-1", (("hits", (3,)),)), "site")


def counts_of(one: Explaining, images: Iterable[Seen]) -> Any:
    return np.concatenate([Statistics.zero(MEASURED.schema).flat(), collect(one, images).flat()])


def test_a_reply_without_explanations_is_the_vector_and_definition_that_it_always_was() -> None:
    plain = Leaving(MEASURED)
    assert (plain.digest(), plain.length) == (MEASURED.schema.digest(), MEASURED.schema.length)
    measured, looked = plain.parts(np.arange(plain.length))
    assert looked is None
    np.testing.assert_array_equal(measured.flat(), np.arange(plain.length))


def test_a_reply_is_taken_apart_as_it_was_put_together() -> None:
    one = asked("site")
    both = Leaving(MEASURED, one)
    counts = np.arange(both.length)
    measured, looked = both.parts(counts)
    assert looked is not None
    np.testing.assert_array_equal(np.concatenate([measured.flat(), looked.flat()]), counts)
    with pytest.raises(ProtocolError):
        both.parts(counts[:-1])


def test_what_changes_a_number_changes_the_definition() -> None:
    variants: list[dict[str, Any]] = [
        {}, {"evaluation__explain_lesion": 2}, {"data__classes": ["a", "b", "c"]},
    ]  # fmt: skip
    digests = {Leaving(MEASURED, asked(**changes)).digest() for changes in variants}
    cam = explaining(tiny_plan(evaluation__explain="grad-cam"))
    assert len(digests | {Leaving(MEASURED, cam).digest(), Leaving(MEASURED).digest()}) == len(variants) + 2


def test_a_coordinator_refuses_what_a_site_should_have_withheld() -> None:
    """A site of another version that keeps no floor; the control is what an honest site sends of the same images."""
    honest, careless = asked("site", floor=5), asked("site", floor=3)
    both = Leaving(MEASURED, honest)
    both.require_told(counts_of(honest, many(2, 2)))
    both.require_told(counts_of(honest, many(2, 9)))
    for images in (many(4, 0), many(3, 9)):
        with pytest.raises(ProtocolError, match="must withhold"):
            both.require_told(counts_of(careless, images))


def test_a_site_that_hides_a_class_but_tells_of_few_patients_is_refused_by_name() -> None:
    one = asked("site", floor=5)
    looked = collect(one, many(2, 2))
    looked.counts["patients"][0], looked.counts[WITHHOLDING][0] = 4, 0
    counts = np.concatenate([Statistics.zero(MEASURED.schema).flat(), looked.flat()])
    with pytest.raises(ProtocolError, match="fewer than 5 patients") as caught:
        Leaving(MEASURED, one).require_told(counts)
    assert caught.value.code == "explained-floor"


def test_the_vector_is_small_beside_what_a_site_may_send_a_round() -> None:
    assert 8 * asked(data__classes=list("abcdefgh")).layout.schema.length < 40_000


def test_a_plan_asks_for_nothing_by_default_and_not_where_statistics_have_noise() -> None:
    assert explaining(tiny_plan()) is None
    private = {"unit": "patient", "epsilon": 8.0, "delta": 1e-4, "clip_norm": 1.0, "public_patients": 20}
    changes = {f"privacy__{key}": value for key, value in private.items()}
    with pytest.raises(PlanError, match="exact, without noise"):
        tiny_plan(evaluation__release="dp", evaluation__explain="occlusion", **changes)
    assert explaining(tiny_plan(evaluation__release="dp", **changes)) is None
