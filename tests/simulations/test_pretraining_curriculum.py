"""What is learnt from made-up images, and what a lesson keeps of a plan."""

from typing import Any

import pytest

from shared.errors import PlanError
from shared.plan import Plan, from_document
from simulations.pretraining.curriculum import CURRICULA, curriculum_for, lesson
from simulations.pretraining.lesions import FINDINGS, lesion
from simulations.scenario import load

PRIVATE = {
    "unit": "patient",
    "epsilon": 8.0,
    "delta": 1e-4,
    "clip_norm": 1.0,
    "public_patients": 10,
    "covers": "training",
}


def plan_for(model: dict[str, Any], **sections: dict[str, Any]) -> Plan:
    return from_document(
        {
            "plan": {"name": "tiny", "task": "classification", "rounds": 2, "seed": 1},
            "data": {"modality": "us", "classes": ["benign", "malignant"], **sections.pop("data", {})},
            "preprocessing": {"size": [32, 32], "fit": "stretch", "crop": {"kind": "lesion"}},
            "model": {"norm": "group", **model},
            "training": {"steps": 1, "patients_per_step": 2, "learning_rate": 1e-3, **sections.pop("training", {})},
            "privacy": {"unit": "none"},
            **sections,
        }
    )


def test_what_no_generator_makes_is_refused_with_what_there_is() -> None:
    plan = plan_for({"name": "cnn"}, data={"modality": "ct", "classes": ["well", "ill"]})
    with pytest.raises(PlanError, match="nothing is made up for classification of ct images") as caught:
        curriculum_for(plan)
    assert "classification of us" in caught.value.hint


def test_a_plan_with_other_classes_is_refused_rather_than_taught_the_wrong_ones() -> None:
    plan = plan_for({"name": "cnn"}, data={"classes": ["malignant", "benign"]})
    with pytest.raises(PlanError, match=r"data\.classes says malignant, benign"):
        curriculum_for(plan)


def test_a_lesson_has_nothing_private_and_keeps_what_decides_the_network_and_its_input() -> None:
    plan = plan_for({"name": "cnn", "channels": [4, 8], "freeze": ["stages"]}, privacy=PRIVATE)
    taught = lesson(plan, curriculum_for(plan), 3, 50)
    assert taught.privacy.unit == "none"
    assert taught.model.freeze == ()
    assert taught.model.channels == plan.model.channels
    assert taught.preprocessing == plan.preprocessing
    assert taught.training.steps == 50
    assert taught.data.classes == FINDINGS


def test_a_lesson_is_not_masked_though_the_plan_is_and_can_be_written_and_read_again() -> None:
    """It has one site, which makes its images itself."""
    sums = {"enabled": True, "threshold": 3}
    plan = plan_for(
        {"name": "cnn", "channels": [4, 8]},
        secure_aggregation=sums,
        evaluation={"release": "sum"},
        aggregation={"weights": "equal", "fixed_point": {"bits": 24}},
    )
    taught = lesson(plan, curriculum_for(plan), 3, 50)
    assert plan.secure_aggregation.enabled
    assert not taught.secure_aggregation.enabled
    assert from_document(taught.model_dump(mode="json", exclude_none=True)) == taught


def test_every_curriculum_gives_images_of_its_modality() -> None:
    for (task, modality), curriculum in CURRICULA.items():
        example = curriculum.generate(0, 0)
        assert example.image.modality == modality
        assert bool(example.findings) == (task == "classification")
        assert len(example.findings) == len(curriculum.findings)
    assert lesion(0, 1).findings[0] == 1


def test_several_findings_at_once_are_no_diagnosis_and_are_refused() -> None:
    plan = plan_for({"name": "cnn"}, data={"labels": "multilabel"})
    with pytest.raises(PlanError, match="made-up images show benign or malignant"):
        curriculum_for(plan)


@pytest.mark.parametrize("name", ["breast-private", "breast-shared-noise", "breast-whole-private", "retina-private"])
def test_every_private_scenario_on_real_images_has_something_to_learn_from(name: str) -> None:
    plan = load(name).plan
    taught = lesson(plan, curriculum_for(plan), 0, 10)
    assert plan.model.pretrained is not None
    assert taught.model.pretrained is None
    assert taught.preprocessing.size == plan.preprocessing.size


def test_a_lesson_changes_tones_at_least_as_much_as_the_plan_does() -> None:
    mild = plan_for({"name": "cnn"})
    bold = plan_for({"name": "cnn"}, training={"augmentation": {"gamma": 0.6, "flip": True}})
    assert lesson(mild, curriculum_for(mild), 0, 1).training.augmentation.gamma == 0.3
    taught = lesson(bold, curriculum_for(bold), 0, 1).training.augmentation
    assert taught.gamma == 0.6
    assert taught.flip


def test_a_lesson_is_a_plan_that_can_be_written_and_read_again() -> None:
    plan = plan_for({"name": "cnn", "channels": [4, 8]}, privacy=PRIVATE)
    taught = lesson(plan, curriculum_for(plan), 3, 50)
    assert from_document(taught.model_dump(mode="json", exclude_none=True)) == taught


def test_the_seed_of_a_lesson_is_that_of_the_order_and_not_the_plans() -> None:
    plan = plan_for({"name": "cnn"})
    assert lesson(plan, curriculum_for(plan), 41, 1).plan.seed == 41
