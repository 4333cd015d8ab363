"""What counts and what does not: admission, updates and measurements, with a code and no change for everything else."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tiny_federation import tiny_plan

from client.workbench import Workbench
from server.intake import Admission, Intake, Measurements, NoisedMeasurements, Updates, judge, measurements
from shared import models
from shared.errors import PlanError, ProtocolError, UpdateRejected
from shared.evaluation.additive import Statistics, collect
from shared.evaluation.estimates import Noised
from shared.evaluation.explanations import Leaving, explaining, observation
from shared.evaluation.explanations import collect as collect_explained
from shared.evaluation.private_classification import observe_exclusive
from shared.evaluation.saliency import observe
from shared.evaluation.subgroups import Layout, layout, told_by_site
from shared.evaluation.subgroups import collect as collect_by_level
from shared.fixed_point import resolution
from shared.messages import Measured, Refusal, Reply, Update, Welcome
from shared.plan import from_document
from shared.preprocessing.image import Case
from shared.privacy.noise import UnsafeSeededNoise
from shared.privacy.statistics import noised
from shared.privacy.terms import statistics_terms
from shared.tasks.task import private_measures

PLAN = tiny_plan()
BENCH = Workbench.for_plan(PLAN)
FINGERPRINT = BENCH.fingerprint()
SCHEMA = BENCH.parameters.digest()
LENGTH = BENCH.parameters.length
REFUSAL = Refusal("disk", "the disk of this site is broken", "replace it")


def update(value: int = 3, **changes: Any) -> Update:
    usual = Update(np.full(LENGTH, value, np.int32), 32, 1, SCHEMA, 2**20, 4, 2, seconds=0.5)
    return dataclasses.replace(usual, **changes)


def measured(right: int, wrong: int, who: str = "p") -> Measured:
    observed = []
    for number in range(right + wrong):
        label = number % 2
        sure = label if number < right else 1 - label
        case = Case(f"{who}{number}", f"{who}{number}", np.zeros((1, 8, 8), np.float32), None, label, (1.0, 1.0))
        observed.append((case.patient, BENCH.task.observe(np.array([1 - sure, sure], np.float32), case)))
    return Measured(collect(BENCH.task.schema, observed).flat(), BENCH.task.schema.digest())


def updates(**weights: int) -> Updates:
    return Updates(SCHEMA, LENGTH, PLAN.aggregation.fixed_point, weights or {"aachen": 1, "bergen": 1})


def refused(intake: Intake, reply: Reply, site: str = "aachen") -> str:
    with pytest.raises((ProtocolError, UpdateRejected)) as rejected:
        intake.take(site, reply)
    return rejected.value.code


def test_a_site_with_our_fingerprint_joins_with_the_weight_it_announces() -> None:
    admission = Admission(FINGERPRINT)
    admission.take("aachen", Welcome(FINGERPRINT, 7))
    assert admission.weights == {"aachen": 7}


def test_a_site_that_computes_with_other_versions_stays_outside_with_a_readable_difference() -> None:
    other = tuple(sorted({**dict(FINGERPRINT), "monai": "0.9", "statistics": "f" * 64}.items()))
    admission = Admission(FINGERPRINT)
    with pytest.raises(ProtocolError, match=r"the site differs in 2 entries: monai: .* here, 0\.9 there; statistics: "):
        admission.take("aachen", Welcome(other, 7))
    assert admission.weights == {}


def test_a_site_with_another_processor_joins_although_its_last_digits_differ() -> None:
    logits = "phantom.network.pattern.logits"
    kind, _, said = dict(FINGERPRINT)[logits].partition(":")
    other = ",".join(f"{float(value) * (1 + 1e-5)!r}" for value in said.split(","))
    admission = Admission(FINGERPRINT)
    admission.take("aachen", Welcome(tuple(sorted({**dict(FINGERPRINT), logits: f"{kind}:{other}"}.items())), 1))
    assert admission.weights == {"aachen": 1}


def test_a_site_that_trains_in_bfloat16_joins_a_coordinator_that_has_no_such_device() -> None:
    half = Workbench.for_plan(tiny_plan(training__precision="bfloat16")).fingerprint()
    assert [value for _, value in half if value.startswith("bfloat16:")]
    admission = Admission(FINGERPRINT)
    admission.take("aachen", Welcome(half, 1))
    assert admission.weights == {"aachen": 1}


def test_a_site_whose_network_normalises_otherwise_stays_outside_and_the_sentence_says_where_to_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build = models.build

    def other(*arguments: Any) -> torch.nn.Module:
        network = build(*arguments)
        for module in network.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.eps = 0.1
        return network

    monkeypatch.setattr(models, "build", other)
    found = Workbench.for_plan(PLAN).fingerprint()
    admission = Admission(FINGERPRINT)
    with pytest.raises(ProtocolError) as refusal:
        admission.take("aachen", Welcome(found, 1))
    assert "phantom.network.pattern.logits: " in refusal.value.sentence
    assert "another layer, normalisation or loss" in refusal.value.sentence
    assert admission.weights == {}


def test_of_many_differences_the_first_are_told_and_the_rest_is_counted() -> None:
    other = tuple((name, "0.1" if name == "torch" else "x") for name, _ in FINGERPRINT)
    with pytest.raises(ProtocolError) as refusal:
        Admission(FINGERPRINT).take("aachen", Welcome(other, 1))
    told = refusal.value.sentence
    assert told.startswith(f"the site differs in {len(FINGERPRINT)} entries: consilium: ")
    assert told.endswith(f"; and {len(FINGERPRINT) - 8} more")
    assert "torch: " in told, "versions are among those told"
    assert len(told) < 2000


@pytest.mark.parametrize("weight", [0, -3])
def test_nobody_joins_without_weight(weight: int) -> None:
    admission = Admission(FINGERPRINT)
    assert refused(admission, Welcome(FINGERPRINT, weight)) == "weight"
    assert admission.weights == {}


def test_updates_add_up_by_weight() -> None:
    intake = updates(aachen=1, bergen=3)
    intake.take("aachen", update(2))
    intake.take("bergen", update(6, weight=3))
    total = intake.total()
    np.testing.assert_array_equal(total.values, np.full(LENGTH, 2 + 3 * 6))
    expected = np.full(LENGTH, 5 * resolution(PLAN.aggregation.fixed_point), np.float32)
    np.testing.assert_array_equal(total.mean(PLAN.aggregation.fixed_point), expected)
    assert (total.weight, total.steps, total.saturated) == (4, 8, 4)
    assert intake.training_s == 1.0


@pytest.mark.parametrize(
    ("site", "changes", "code"),
    [
        ("aachen", {"weight": 2}, "update-weight"),
        ("aachen", {"weight": 0}, "update-weight"),
        ("dublin", {}, "update-weight"),
        ("aachen", {"schema": "0" * 64}, "update-schema"),
        ("aachen", {"values": np.zeros(LENGTH - 1, np.int32)}, "update-length"),
        ("aachen", {"bits": 16}, "update-schema"),
    ],
)
def test_an_update_that_is_not_what_was_agreed_leaves_the_sum_as_it_was(
    site: str, changes: dict[str, Any], code: str
) -> None:
    intake = updates()
    intake.take("bergen", update(5))
    found = refused(intake, update(**changes), site)
    assert found == code
    np.testing.assert_array_equal(intake.total().values, np.full(LENGTH, 5))
    assert intake.training_s == 0.5, "the rejected update's seconds do not count either"


def test_measurements_of_sites_add_up_to_the_metric_of_all_cases() -> None:
    intake = Measurements(Layout(BENCH.task.schema, "site"))
    intake.take("aachen", measured(3, 1, "a"))
    intake.take("bergen", measured(2, 4, "b"))
    block: Any = intake.result().block(BENCH.task)
    assert block["pooled"]["accuracy"]["value"] == 5 / 10
    assert block["sites"]["aachen"]["accuracy"]["value"] == 3 / 4
    assert block["macro"]["accuracy"] == pytest.approx((3 / 4 + 2 / 6) / 2)
    assert block["worst"]["accuracy"]["site"] == "bergen"


@pytest.mark.parametrize("release", ["sum", "dp"])
def test_where_only_sums_are_released_no_site_s_statistics_are_kept(release: str) -> None:
    intake = Measurements(Layout(BENCH.task.schema, release))
    intake.take("aachen", measured(3, 1))
    assert intake.result().sites == {}
    assert intake.result().pooled.total()["cases"] == 4


def test_measurements_of_nobody_are_zero() -> None:
    result = Measurements(Layout(BENCH.task.schema, "site")).result()
    assert not result.pooled.flat().any()
    assert result.sites == {}


def test_statistics_of_another_definition_do_not_count() -> None:
    intake = Measurements(Layout(BENCH.task.schema, "site"))
    foreign = dataclasses.replace(measured(3, 1), schema="0" * 64)
    assert refused(intake, foreign) == "statistics-schema"
    assert intake.result().sites == {}
    np.testing.assert_array_equal(intake.result().pooled.flat(), Statistics.zero(BENCH.task.schema).flat())


BY_SEX = (("sex", ("F", "M", "other", "unknown")),)


def measured_by_sex(leaving: Layout, patients: dict[str, int], who: str = "p", *, honest: bool = True) -> Measured:
    """So many patients of each sex, all classified right."""
    observed = []
    for sex, count in patients.items():
        for number in range(count):
            name, label = f"{who}{sex}{number}", number % 2
            said = (("sex", sex),)
            case = Case(name, name, np.zeros((1, 8, 8), np.float32), None, label, (1.0, 1.0), said)
            observed.append((case, BENCH.task.observe(np.array([1 - label, label], np.float32), case)))
    counted = collect_by_level(leaving, observed)
    return Measured((told_by_site(leaving, counted) if honest else counted).flat(), leaving.schema.digest())


def test_a_site_that_tells_a_subgroup_below_the_floor_does_not_count_and_changes_nothing() -> None:
    leaving = Layout(BENCH.task.schema, "site", BY_SEX)
    intake = Measurements(leaving)
    intake.take("aachen", measured_by_sex(leaving, {"F": 8, "M": 6}))
    before = intake.result()
    careless = measured_by_sex(leaving, {"F": 8, "M": 2}, honest=False)
    assert refused(intake, careless, "bergen") == "subgroup-floor"
    after = intake.result()
    assert after.sent is not None
    assert before.sent is not None
    np.testing.assert_array_equal(after.sent.pooled.flat(), before.sent.pooled.flat())
    assert set(after.sites) == {"aachen"}
    intake.take("bergen", measured_by_sex(leaving, {"F": 8, "M": 2}, "q"))
    assert set(intake.result().sites) == {"aachen", "bergen"}


def test_under_sum_a_subgroup_small_at_each_site_counts_in_the_sum() -> None:
    leaving = Layout(BENCH.task.schema, "sum", BY_SEX)
    intake = Measurements(leaving)
    for site in ("aachen", "bergen"):
        intake.take(site, measured_by_sex(leaving, {"F": 8, "M": 3}, site))
    found: Any = intake.result().final(BENCH.task)["subgroups"]
    assert found["sex"]["M"]["accuracy"]["n_patients"] == 6
    assert "sites" not in found["sex"]


def test_subgroups_are_of_the_final_model_alone() -> None:
    """Of another model, measured at other sites, the difference would be a site's."""
    leaving = Layout(BENCH.task.schema, "sum", BY_SEX)
    intake = Measurements(leaving)
    intake.take("aachen", measured_by_sex(leaving, {"F": 8, "M": 6}))
    assert "subgroups" not in intake.result().block(BENCH.task)
    added = intake.result().final(BENCH.task).keys() - intake.result().block(BENCH.task).keys()
    assert added == {"subgroups", "curves"}


EXPLAINING = tiny_plan(evaluation__explain="occlusion", evaluation__floor=5)


def explained(patients: int, floor: int = 5, who: str = "p") -> Measured:
    """Statistics of no case, and of ``patients`` explained images: what a site that keeps ``floor`` sends of them."""
    asked = explaining(tiny_plan(evaluation__explain="occlusion", evaluation__floor=floor))
    assert asked is not None
    mask, images = np.eye(8, dtype=np.uint8), []
    for number in range(patients):
        case = Case(f"{who}{number}", f"{who}{number}", np.zeros((1, 8, 8), np.float32), mask, 1, (1.0, 1.0))
        one = observe({0: mask.astype(np.float32)}, mask, 1)
        images.append((case, 1, observation({"model": one, "control": one})))
    sent = Leaving(layout(BENCH.task.schema, EXPLAINING, "test", BENCH.task.by_level), asked)
    counts = np.concatenate([Statistics.zero(BENCH.task.schema).flat(), collect_explained(asked, images).flat()])
    return Measured(counts, sent.digest())


def test_explanations_come_with_the_final_model_and_with_no_other() -> None:
    final, *others = (measurements(BENCH.task, EXPLAINING, kind) for kind in ("final", "test", "validation"))
    final.take("aachen", explained(7))
    block: Any = final.result().final(BENCH.task)
    assert block["explanations"]["cases"] == 7
    assert "explanations" not in final.result().block(BENCH.task)
    for intake in others:
        assert refused(intake, explained(7)) == "statistics-schema"
    assert refused(final, measured(3, 1)) == "statistics-schema"


def test_a_site_that_explains_too_few_patients_aloud_does_not_count_and_changes_nothing() -> None:
    """Control: the same images from a site that keeps the floor."""
    intake = measurements(BENCH.task, EXPLAINING, "final")
    intake.take("aachen", explained(7))
    before: Any = intake.result().final(BENCH.task)["explanations"]
    assert refused(intake, explained(4, floor=3, who="q"), "bergen") in {"subgroup-floor", "explained-floor"}
    assert intake.result().final(BENCH.task)["explanations"] == before
    intake.take("bergen", explained(4, who="q"))
    after: Any = intake.result().final(BENCH.task)["explanations"]
    assert (after["cases"], after["missing_sites"], after["sites"]["bergen"]["cases"]) == (7, 1, "suppressed")


def test_a_plan_without_subgroups_has_no_such_part() -> None:
    intake = Measurements(Layout(BENCH.task.schema))
    intake.take("aachen", measured(3, 1))
    final = intake.result().final(BENCH.task)
    assert {name: part for name, part in final.items() if name != "curves"} == intake.result().block(BENCH.task)


def intakes() -> dict[str, Intake]:
    return {
        "admission": Admission(FINGERPRINT),
        "updates": updates(),
        "measurements": Measurements(Layout(BENCH.task.schema)),
    }


ANSWERS: dict[str, Reply] = {
    "admission": Welcome(FINGERPRINT, 1),
    "updates": update(),
    "measurements": measured(1, 1),
}


@pytest.mark.parametrize("phase", sorted(ANSWERS))
def test_the_answer_to_the_question_counts(phase: str) -> None:
    assert judge(intakes()[phase], "aachen", ANSWERS[phase]) == ("", "")


@pytest.mark.parametrize("phase", sorted(ANSWERS))
@pytest.mark.parametrize("answered", sorted(ANSWERS))
def test_an_answer_to_another_question_never_counts(phase: str, answered: str) -> None:
    if phase != answered:
        code, sentence = judge(intakes()[phase], "aachen", ANSWERS[answered])
        assert code == "kind"
        assert sentence.startswith("expected ")


@pytest.mark.parametrize("phase", sorted(ANSWERS))
def test_a_refusal_never_counts_and_keeps_the_site_s_own_code_and_words(phase: str) -> None:
    assert judge(intakes()[phase], "aachen", REFUSAL) == ("disk", "the disk of this site is broken")


def test_a_defect_of_ours_is_not_taken_for_a_bad_reply() -> None:
    class Broken:
        def take(self, site: str, reply: Reply) -> None:  # noqa: ARG002
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        judge(Broken(), "aachen", REFUSAL)


# --- statistics with noise -------------------------------------------------------------------------------------------


PRIVATE = private_measures(BENCH.task).schema


def noisy(right: int, seed: int, multiplier: float = 0.5) -> Measured:
    """Patients who are all classified right, or all wrong, with noise."""
    sure = [np.array([1 - number % 2, number % 2], np.float32) for number in range(abs(right))]
    observed = [
        (f"{seed}-{number}", observe_exclusive(scores, number % 2 if right > 0 else 1 - number % 2))
        for number, scores in enumerate(sure)
    ]
    counts = noised(PRIVATE.collect(observed), PRIVATE.sensitivity, multiplier, UnsafeSeededNoise(seed))
    return Measured(counts, PRIVATE.digest())


def test_statistics_with_noise_add_up_to_estimates_that_state_their_errors() -> None:
    intake = NoisedMeasurements(PRIVATE, 0.5)
    intake.take("aachen", noisy(300, 1))
    intake.take("bergen", noisy(-100, 2))
    block: Any = intake.result().block(BENCH.task)
    found = block["pooled"]["accuracy"]
    assert found["value"] == pytest.approx(300 / 400, abs=4 * found["error"]["noise"])
    assert found["low"] < 0.75 < found["high"]
    assert found["n_patients"] == pytest.approx(400, abs=20)
    assert (block["sites"], block["macro"], block["worst"]) == ({}, {}, {})


def test_the_noise_of_a_sum_grows_with_the_number_of_sites_that_answered() -> None:
    intake = NoisedMeasurements(PRIVATE, 0.5)
    stds = []
    for number, site in enumerate(("aachen", "bergen", "coimbra", "dublin")):
        intake.take(site, noisy(10, number))
        pooled = intake.result().pooled
        assert isinstance(pooled, Noised)
        stds.append(pooled.noise_std)
    assert stds == pytest.approx([0.5 * PRIVATE.sensitivity * np.sqrt(sites) for sites in (1, 2, 3, 4)])


def test_nothing_of_a_single_site_is_kept_where_statistics_have_noise() -> None:
    intake = NoisedMeasurements(PRIVATE, 0.5)
    intake.take("aachen", noisy(10, 1))
    assert intake.result().sites == {}


@pytest.mark.parametrize(
    "wrong",
    [measured(3, 1), REFUSAL, Measured(np.zeros(3, np.int64), PRIVATE.digest())],
    ids=["exact", "none", "short"],
)
def test_an_answer_that_is_not_of_the_noisy_definition_adds_neither_patients_nor_noise(wrong: Reply) -> None:
    intake = NoisedMeasurements(PRIVATE, 0.5)
    intake.take("aachen", noisy(10, 1))
    refused(intake, wrong, "bergen")
    pooled = intake.result().pooled
    np.testing.assert_array_equal(pooled.counts, noisy(10, 1).counts)
    assert isinstance(pooled, Noised)
    assert pooled.noise_std == 0.5 * PRIVATE.sensitivity


PRIVATE_PLAN = from_document(
    {
        **PLAN.model_dump(mode="json", exclude_none=True),
        "privacy": {"unit": "patient", "epsilon": 4.0, "delta": 1e-4, "clip_norm": 1.0, "public_patients": 12},
        "evaluation": {"every": 1, "release": "dp"},
    }
)


def test_what_counts_depends_on_what_the_plan_releases() -> None:
    exact, private = (measurements(BENCH.task, plan, "test") for plan in (PLAN, PRIVATE_PLAN))
    assert isinstance(exact, Measurements)
    assert isinstance(private, NoisedMeasurements)
    private.take("aachen", noisy(10, 1))
    assert private.result().pooled.noise_std == statistics_terms(PRIVATE_PLAN, "test").noise_multiplier


def test_every_round_of_validation_has_more_noise_than_the_one_test() -> None:
    stds = []
    for split in ("validation", "test"):
        intake = measurements(BENCH.task, PRIVATE_PLAN, split)  # type: ignore[arg-type]
        intake.take("aachen", noisy(10, 1))
        stds.append(intake.result().pooled.noise_std)
    assert stds[0] > 1.3 * stds[1]


def test_a_task_without_bounded_statistics_cannot_be_measured_with_noise() -> None:
    with pytest.raises(PlanError, match="needs statistics with a bound, and the task classification has none"):
        measurements(dataclasses.replace(BENCH.task, private=None), PRIVATE_PLAN, "test")
