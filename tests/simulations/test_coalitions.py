"""Coalitions: a federation of their members and nobody else, measured on everybody, worth what the metric says."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from masked_federation import masked_plan
from tiny_federation import SITES, MemoryFleet, coordinate, tiny_data, tiny_plan

from client.site import Site
from shared.evaluation.additive import CASES, PATIENTS, Statistics
from shared.plan import Plan
from simulations import coalitions
from simulations.coalitions import (
    Budget,
    Contributions,
    contribution_block,
    contributions,
    federate,
    shortened,
    train_coalition,
    worth,
)
from simulations.progress import Silent
from simulations.workers import Pool, Sites, SiteSpec

SPECS = tuple(SiteSpec(name, Path("nowhere"), "", Path("nowhere")) for name in SITES)
PLAN = shortened(tiny_plan(), 2)


def memory_sites(folder: Path, plan: Plan = PLAN) -> Sites:
    sites = Sites(plan, folder)
    sites._sites.update({name: Site(name, tiny_data(name), sites.workbench) for name in SITES})
    return sites


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Contributions:
    sites = memory_sites(tmp_path_factory.mktemp("sites"))
    return contributions(Pool(sites, 1), SPECS, sites.workbench.initial_weights(), Budget(rounds=2), Silent())


def document(found: Contributions, folder: Path) -> dict[str, Any]:
    return contribution_block(found, memory_sites(folder).workbench.task)


def test_a_coalition_of_all_is_the_federation_to_the_bit(tmp_path: Path) -> None:
    """Oracle: the coordinator over a fleet of all three, with the same plan."""
    sites = memory_sites(tmp_path)
    whole = coordinate(PLAN, MemoryFleet(PLAN), tmp_path / "run")
    np.testing.assert_array_equal(federate(sites, SPECS, sites.workbench.initial_weights()), whole.weights)


def test_a_coalition_trains_without_the_sites_that_are_not_in_it(tmp_path: Path) -> None:
    sites = memory_sites(tmp_path)
    initial = sites.workbench.initial_weights()
    both = federate(sites, SPECS[:2], initial)
    del sites._sites["coimbra"]
    np.testing.assert_array_equal(federate(sites, SPECS[:2], initial), both)
    whole = memory_sites(tmp_path / "other")
    assert not np.array_equal(federate(whole, SPECS, initial), both)


def test_a_coalition_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalitions.tempfile, "tempdir", str(tmp_path))
    sites = memory_sites(tmp_path / "sites")
    federate(sites, SPECS[:1], sites.workbench.initial_weights())
    assert list(tmp_path.iterdir()) == []


def test_every_coalition_is_measured_on_the_test_patients_of_all_sites(found: Contributions) -> None:
    assert len(found.measured) == 8
    for statistics in found.measured.values():
        assert set(statistics) == set(SITES)
        assert [int(cell.total()[CASES]) for cell in statistics.values()] == [8, 8, 8]


def test_nobody_is_worth_what_the_initial_weights_are_worth(found: Contributions, tmp_path: Path) -> None:
    sites = memory_sites(tmp_path)
    untrained = train_coalition(sites, (), SPECS, sites.workbench.initial_weights())
    for site, cell in found.measured[frozenset()].items():
        assert (cell.flat() == untrained[site].flat()).all()


def test_worth_is_the_headline_metric_and_then_without_each_group_of_patients(
    found: Contributions, tmp_path: Path
) -> None:
    task = memory_sites(tmp_path).workbench.task
    measured = found.measured[frozenset(SITES)]
    pooled = sum(measured.values(), Statistics.zero(task.schema))
    values = worth(task, measured)
    assert values[0] == task.metrics(pooled.total())[task.headline]
    groups = [group for group in range(20) if pooled.counts[CASES][group]]
    assert len(values) == 1 + len(groups)
    assert values[1] == task.metrics(pooled.without_group(groups[0]))[task.headline]


def test_values_add_up_to_what_the_federation_is_worth_beyond_its_start(found: Contributions, tmp_path: Path) -> None:
    said = document(found, tmp_path)["contribution"]
    total = sum(of["shapley"]["value"] for of in said["sites"].values())
    assert total == pytest.approx(said["worth"]["all"] - said["worth"]["none"])


def test_the_document_says_how_values_were_found(found: Contributions, tmp_path: Path) -> None:
    said = document(found, tmp_path)["contribution"]
    assert (said["method"], said["permutations"], said["coalitions"], said["rounds"]) == ("exact", None, 8, 2)
    assert said["metric"] == "auroc"
    assert set(said["sites"]) == set(SITES)


def test_intervals_hold_the_value_and_are_as_wide_as_both_errors_together(found: Contributions, tmp_path: Path) -> None:
    for of in document(found, tmp_path)["contribution"]["sites"].values():
        for one in of.values():
            assert one["low"] <= one["value"] <= one["high"]
            assert one["high"] - one["value"] == pytest.approx(one["value"] - one["low"])
            assert one["se_orders"] == 0.0
            assert one["se_patients"] >= 0.0


def test_leave_one_out_is_all_minus_the_federation_without_the_site(found: Contributions, tmp_path: Path) -> None:
    """By hand from the models that are shown beside it in the cross-site matrix."""
    task, said = memory_sites(tmp_path).workbench.task, document(found, tmp_path)
    for site in SITES:
        without = found.measured[frozenset(SITES) - {site}]
        pooled = sum(without.values(), Statistics.zero(task.schema))
        by_hand = said["contribution"]["worth"]["all"] - task.metrics(pooled.total())["auroc"]
        assert said["contribution"]["sites"][site]["leave_one_out"]["value"] == pytest.approx(by_hand)
        row = said["cross_site_without"][site]
        assert set(row) == set(SITES)
        assert row["bergen"]["auroc"]["n_patients"] == int(without["bergen"].total()[PATIENTS])


def test_beyond_four_sites_orders_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalitions, "EXACT_UP_TO", 2)
    sites = memory_sites(tmp_path)
    initial = sites.workbench.initial_weights()
    drawn = contributions(Pool(sites, 1), SPECS, initial, Budget(permutations=4, rounds=1), Silent())
    said = document(drawn, tmp_path)["contribution"]
    assert (said["method"], said["permutations"]) == ("truncated-monte-carlo", 4)
    assert any(of["shapley"]["se_orders"] > 0 for of in said["sites"].values())
    again = contributions(Pool(sites, 1), SPECS, initial, Budget(permutations=4, rounds=1), Silent())
    np.testing.assert_array_equal(drawn.shapley.values, again.shapley.values)


# --- the plan of a coalition -----------------------------------------------------------------------------------------


def test_a_coalition_s_plan_is_the_run_s_with_fewer_rounds_for_any_number_of_sites() -> None:
    plan = tiny_plan(plan__rounds=9, aggregation__average_last=6, training__warmup_rounds=4)
    short = shortened(plan, 3)
    assert (short.plan.rounds, short.aggregation.average_last, short.training.warmup_rounds) == (3, 3, 2)
    assert (short.participation.quorum, short.evaluation.every) == (1, 3)
    assert (short.model, short.data, short.preprocessing) == (plan.model, plan.data, plan.preprocessing)
    assert shortened(plan, 50).plan.rounds == 9


def test_a_coalition_of_a_private_plan_is_trained_without_protection_and_never_asks_the_ledger() -> None:
    private = {"unit": "patient", "epsilon": 8.0, "delta": 1e-4, "clip_norm": 1.0, "public_patients": 6}
    said = {f"privacy__{key}": value for key, value in private.items()}
    plan = tiny_plan(**said, evaluation__release="dp")
    short = shortened(plan, 2)
    assert short.privacy.unit == "none"
    assert short.evaluation.release == "sum"


def test_a_coalition_of_a_plan_with_masks_is_trained_without_them_though_it_has_one_site() -> None:
    plan = masked_plan(secure_aggregation__threshold=3)
    short = shortened(plan, 1)
    assert plan.secure_aggregation.enabled
    assert not short.secure_aggregation.enabled
    assert short.secure_aggregation.threshold is None
    assert short.aggregation.fixed_point == plan.aggregation.fixed_point


def test_personal_models_are_not_trained_for_a_coalition() -> None:
    plan = tiny_plan(personalisation__steps=3, personalisation__learning_rate=0.01)
    assert shortened(plan, 2).personalisation is None


def test_a_metric_where_less_is_better_is_worth_its_negative(found: Contributions, tmp_path: Path) -> None:
    task = memory_sites(tmp_path).workbench.task
    measured = found.measured[frozenset(SITES)]
    turned = worth(replace(task, lower_is_better=frozenset({task.headline})), measured)
    assert turned.tolist() == (-worth(task, measured)).tolist()
    assert not math.isnan(turned[0])
