"""A federation whose coordinator sees only sums: the same numbers, and what is refused on the way."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_hospitals import write_hospitals
from small_hospitals import run, scenario

from server.aggregation.methods import METHODS
from server.journal import Journal
from server.results import read_results, read_rounds
from shared.checkpoint import load, path_of
from shared.errors import PlanError, RunError, ScenarioError
from shared.plan import Plan
from shared.plan import load as read_plan
from simulations.progress import Silent
from simulations.run import Order
from simulations.run import run as run_scenario

BITS: dict[str, Any] = {
    "aggregation__fixed_point": {"range": 4.0, "bits": 24},
    "evaluation__release": "sum",
}
SECURE = BITS | {"secure_aggregation__enabled": True}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_hospitals(folder)
    return folder


@pytest.fixture(scope="module")
def seen(images: Path) -> Path:
    return run(images, "seen", **BITS)


@pytest.fixture(scope="module")
def masked(images: Path) -> Path:
    return run(images, "masked", **SECURE)


def weights(folder: Path) -> list[dict[str, Any]]:
    """The models of a run, in the order of rounds."""
    with Journal.open_or_create(folder / "journal.sqlite", load_plan(folder), lambda: 0.0) as journal:
        digests = journal.checkpoints()
    return [load(path_of(folder / "checkpoints", digest)).tensors for digest in digests]


def load_plan(folder: Path) -> Plan:
    return read_plan(folder / "plan.toml")


def events(folder: Path) -> list[tuple[str, str, str]]:
    with Journal.open_or_create(folder / "journal.sqlite", load_plan(folder), lambda: 0.0) as journal:
        return [(entry.row.phase, entry.row.kind, entry.row.code) for entry in journal.events()]


def test_models_and_numbers_are_those_of_a_run_whose_coordinator_sees_every_update(seen: Path, masked: Path) -> None:
    plain, hidden = weights(seen), weights(masked)
    assert len(plain) == len(hidden) == 2
    for one, other in zip(plain, hidden, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
    first, second = read_results(seen), read_results(masked)
    assert first.final["pooled"] == second.final["pooled"]
    assert [one.loss for one in read_rounds(seen / "rounds.jsonl")] == [
        one.loss for one in read_rounds(masked / "rounds.jsonl")
    ]


def test_every_question_is_followed_by_the_four_steps_of_its_sum(masked: Path) -> None:
    phases = [phase for phase, _, _ in events(masked)]
    said = [phase for phase, before in zip(phases, ["", *phases], strict=False) if phase != before]
    sums = ["dealing", "masking", "confirming", "unmasking"]
    once = ["training", *sums, "measuring", *sums]
    assert said == ["admitting", *once, *once, "testing", *sums]


def test_nothing_of_a_single_site_is_in_the_results(masked: Path) -> None:
    results = read_results(masked)
    assert results.final["sites"] == {}
    assert not any(key in json.dumps(results.final) for key in ("site_curves", "by_site"))


def test_two_workers_and_one_give_the_same_bytes(images: Path, masked: Path) -> None:
    found = scenario(images, **SECURE)
    again = run_scenario(found, Order(images / "two", images, workers=2), Silent())
    assert read_results(again).checkpoint == read_results(masked).checkpoint


def test_private_updates_are_masked_after_their_noise_and_pooled_without_it_being_seen(images: Path) -> None:
    private = {
        "privacy__unit": "patient",
        "privacy__epsilon": 6.0,
        "privacy__delta": 1e-4,
        "privacy__clip_norm": 1.0,
        "privacy__public_patients": 10,
        "evaluation__release": "dp",
        "training__patient_gradients": "loop",
    }
    found = [
        run_scenario(
            scenario(images, **(settings | private)),
            Order(images / out, images, workers=1, noise="unsafe-seeded"),
            Silent(),
        )
        for out, settings in (("private-seen", BITS), ("private-masked", SECURE))
    ]
    plain, hidden = (weights(folder) for folder in found)
    assert plain
    for one, other in zip(plain, hidden, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_threshold_above_the_number_of_sites_ends_the_run_with_nothing_unmasked(images: Path) -> None:
    with pytest.raises(RunError, match="0 sites delivered an update in round 1") as refused:
        run(images, "high", **SECURE, secure_aggregation__threshold=9)
    assert "quorum" in refused.value.sentence
    phases = {phase for phase, _, _ in events(images / "high")}
    assert phases == {"admitting", "training"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluation__release": "site"}, 'use "sum" or "dp"'),
        ({"aggregation__weights": "patients"}, 'use "equal" or "public"'),
        ({"aggregation__fixed_point": {"bits": 32}}, "can be 31 at most"),
        ({"aggregation__weights": "public", "aggregation__public_weights": {"a": 100, "b": 28}}, "can be 25 at most"),
        ({"secure_aggregation__enabled": False, "secure_aggregation__threshold": 2}, "enabled is false"),
    ],
    ids=["sites", "patients", "wide", "weights", "unused"],
)
def test_a_plan_that_no_sum_can_keep_is_refused_when_it_is_read(
    images: Path, changes: dict[str, Any], said: str
) -> None:
    if "aggregation__weights" in changes and "aggregation__public_weights" in changes:
        changes = changes | {"aggregation__fixed_point": {"bits": 26}}
    with pytest.raises(PlanError, match=said):
        scenario(images, **(SECURE | changes))


def test_an_engine_whose_sites_forget_is_refused(images: Path) -> None:
    with pytest.raises(ScenarioError, match="keep nothing between two questions"):
        run_scenario(scenario(images, **SECURE), Order(images / "ray", images, engine="ray"), Silent())


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_of_aggregation_works_on_sums(images: Path, method: str) -> None:
    """All of them need the sum alone: the models are those of a coordinator that saw each update."""
    changes = {"aggregation__method": method, "aggregation__proximal_mu": 0.1 if method == "fedprox" else 0.0}
    found = [
        weights(run(images, f"{method}-{name}", **(settings | changes)))
        for name, settings in (("seen", BITS), ("masked", SECURE))
    ]
    for one, other in zip(*found, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_own_site_steps_subgroups_and_thresholds_are_sums_too(images: Path) -> None:
    """Everything that a plan may measure under masks, number by number that of a run without them."""
    asked: dict[str, Any] = {
        "personalisation__steps": 2,
        "personalisation__learning_rate": 0.01,
        "evaluation__subgroups": {"sex": ["F", "M"]},
        "evaluation__operating_point": {"sensitivity": 0.8},
    }
    plain, hidden = (
        read_results(run(images, f"all-{name}", **(settings | asked)))
        for name, settings in (("seen", BITS), ("masked", SECURE))
    )
    assert plain.personalised
    assert {"subgroups", "operating_point", "curves"} <= plain.final.keys()
    assert (plain.final, plain.personalised) == (hidden.final, hidden.personalised)
