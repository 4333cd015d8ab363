"""Differences within a run: from real coordinators, against predictions by hand, and where there can be none."""

from pathlib import Path

import numpy as np
import pytest
from tiny_federation import SITES, MemoryFleet, coordinate, tiny_data, tiny_plan

from client.training.inference import statistics
from client.workbench import Workbench
from server import measured
from server.differences import FEDERATION, PERSONALISED, Entry, Pair, entry, measured_entry
from server.intake import Measurement
from server.results import RoundRecord
from server.run_setup import Outcome, Watch
from shared.evaluation.additive import Statistics
from shared.evaluation.estimates import Noised
from shared.evaluation.paired import paired_intervals
from shared.messages import Measured, Personalise, Reply, Request, Vector

PLAN = tiny_plan(personalisation__steps=6, personalisation__learning_rate=0.05)
BENCH = Workbench.for_plan(PLAN)
TASK = BENCH.task
PAIR = Pair("one", "two")


def of_model(weights: Vector, split: str = "test", sites: tuple[str, ...] = SITES) -> dict[str, Statistics]:
    """Statistics of a model by site, measured here and not through any message."""
    model = BENCH.load(weights)
    return {site: statistics(model, tiny_data(site).split(split), TASK, PLAN, BENCH.device) for site in sites}  # type: ignore[arg-type]


def measurement(by_site: dict[str, Statistics], *, released: bool = True) -> Measurement:
    return Measurement(sum(by_site.values(), Statistics.zero(TASK.schema)), by_site if released else {})


def untrained() -> dict[str, Statistics]:
    return of_model(Workbench.for_plan(PLAN).initial_weights())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def outcome(folder: Path) -> Outcome:
    return coordinate(PLAN, MemoryFleet(PLAN), folder)


def by_name(found: list[Entry]) -> dict[tuple[str, str], Entry]:
    return {(one["second"], one["first"]): one for one in found}


# --- within a run


def test_a_run_compares_own_site_steps_and_its_rounds(outcome: Outcome) -> None:
    found = by_name(outcome.differences(TASK))
    assert set(found) == {(PERSONALISED, FEDERATION), ("round-3", "round-1")}
    assert found[PERSONALISED, FEDERATION]["patients"] == "test"
    assert found["round-3", "round-1"]["patients"] == "validation"
    assert all(one["reason"] == "" for one in found.values())


def test_a_difference_is_second_minus_first_for_every_metric(outcome: Outcome) -> None:
    assert outcome.test
    assert outcome.personalised
    first, second = (of.block(TASK)["pooled"] for of in (outcome.test, outcome.personalised))
    found = by_name(outcome.differences(TASK))[PERSONALISED, FEDERATION]["metrics"]
    assert found.keys() == first.keys()  # type: ignore[attr-defined]
    for name, one in found.items():
        before, after = first[name]["value"], second[name]["value"]  # type: ignore[index]
        assert one["value"] == (None if None in (before, after) else pytest.approx(after - before, abs=1e-12))
    assert found[TASK.headline]["n_patients"] == sum(len({c.patient for c in tiny_data(s).test}) for s in SITES)


def test_the_interval_is_that_of_all_cases_in_one_room(outcome: Outcome) -> None:
    """Oracle: statistics of the two models taken here, without a coordinator, an envelope or a site."""
    initial, final = untrained(), of_model(outcome.weights)
    zero = Statistics.zero(TASK.schema)
    wanted = paired_intervals(sum(initial.values(), zero), sum(final.values(), zero), TASK.metrics, TASK.limits)
    found = measured_entry(TASK, PAIR, measurement(initial), measurement(final))["metrics"]
    assert found["auroc"]["low"] == wanted["auroc"].low
    assert found["auroc"]["high"] == wanted["auroc"].high


def test_a_run_of_one_measured_round_has_no_rounds_to_compare(tmp_path: Path) -> None:
    plan = tiny_plan(plan__rounds=1)
    assert coordinate(plan, MemoryFleet(plan), tmp_path).differences(TASK) == []


def test_a_resumed_run_still_knows_its_first_measured_round(tmp_path: Path, outcome: Outcome) -> None:
    def die(record: RoundRecord) -> None:
        if record.participation.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        coordinate(PLAN, MemoryFleet(PLAN), tmp_path, Watch(round=die))
    resumed = coordinate(PLAN, MemoryFleet(PLAN), tmp_path)
    assert resumed.differences(TASK) == outcome.differences(TASK)


def test_a_first_round_that_was_not_completed_is_measured_again(tmp_path: Path, outcome: Outcome) -> None:
    """Killed between the measurement and the journal's line: what was kept is of a round that did not happen."""
    plan = tiny_plan(plan__rounds=3, evaluation__every=3)
    coordinate(plan, MemoryFleet(plan), tmp_path)
    (tmp_path / "cut" / "server-state").mkdir(parents=True)
    assert outcome.first
    measured.keep(tmp_path / "cut", measured.FIRST, 2, outcome.first[1])

    def die(record: RoundRecord) -> None:
        if record.participation.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        coordinate(plan, MemoryFleet(plan), tmp_path / "cut", Watch(round=die))
    resumed = coordinate(plan, MemoryFleet(plan), tmp_path / "cut")
    assert resumed.first is not None
    assert resumed.first[0] == 3


def test_a_damaged_file_costs_a_comparison_and_not_the_run(tmp_path: Path, outcome: Outcome) -> None:
    def die(record: RoundRecord) -> None:
        if record.participation.round == 2:
            (tmp_path / "server-state" / measured.FIRST).write_bytes(b"torn")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        coordinate(PLAN, MemoryFleet(PLAN), tmp_path, Watch(round=die))
    resumed = coordinate(PLAN, MemoryFleet(PLAN), tmp_path)
    assert resumed.checkpoint == outcome.checkpoint
    assert set(by_name(resumed.differences(TASK))) == {(PERSONALISED, FEDERATION)}, "round 3 is the first that it knows"


def test_the_final_models_test_patients_are_kept_for_other_runs(folder: Path, outcome: Outcome) -> None:
    assert outcome.test
    found = measured.kept(folder, measured.TEST, TASK.schema)
    assert found is not None
    assert isinstance(found[1].pooled, Statistics)
    np.testing.assert_array_equal(
        found[1].pooled.flat(), sum(of_model(outcome.weights).values(), Statistics.zero(TASK.schema)).flat()
    )


# --- sites that answered once


def test_a_site_that_could_not_personalise_is_left_out_of_both(tmp_path: Path, outcome: Outcome) -> None:
    def silent(name: str, request: Request, reply: Reply) -> Reply | None:
        return None if name == "bergen" and isinstance(request, Personalise) else reply

    found = coordinate(PLAN, MemoryFleet(PLAN, tamper=silent), tmp_path)
    one = by_name(found.differences(TASK))[PERSONALISED, FEDERATION]
    without = {site: of for site, of in of_model(outcome.weights).items() if site != "bergen"}
    assert one["reason"] == ""
    assert one["metrics"]["auroc"]["n_patients"] == sum(int(of.total()["patients"]) for of in without.values())


def test_where_only_sums_are_released_other_patients_are_named_and_not_compared() -> None:
    first = untrained()
    fewer = {site: of for site, of in first.items() if site != "bergen"}
    found = measured_entry(TASK, PAIR, measurement(first, released=False), measurement(fewer, released=False))
    assert found["metrics"] == {}
    assert "groups hold other patients" in found["reason"]
    whole = measured_entry(TASK, PAIR, measurement(first, released=False), measurement(first, released=False))
    assert whole["reason"] == "", "the control: the same sums can be compared"


def test_statistics_that_hold_noise_are_not_paired(outcome: Outcome) -> None:
    assert outcome.test
    assert TASK.private is not None
    noised = Measurement(Noised(TASK.private.schema, np.zeros(TASK.private.schema.length, np.int64), 1.0))
    found = measured_entry(TASK, PAIR, noised, outcome.test)
    assert (found["metrics"], found["reason"]) == ({}, "the statistics hold noise, which does not cancel")


def test_noisy_statistics_are_not_kept(tmp_path: Path) -> None:
    assert TASK.private is not None
    (tmp_path / "server-state").mkdir()
    noised = Measurement(Noised(TASK.private.schema, np.zeros(TASK.private.schema.length, np.int64), 1.0))
    measured.keep(tmp_path, measured.TEST, 1, noised)
    assert list((tmp_path / "server-state").iterdir()) == []


def test_the_mean_of_models_is_a_side_too() -> None:
    initial = sum(untrained().values(), Statistics.zero(TASK.schema))
    assert entry(TASK, PAIR, [initial, initial], initial)["metrics"]["auroc"]["value"] == 0


def test_a_reply_of_another_model_would_be_seen(tmp_path: Path, outcome: Outcome) -> None:
    """Control: the pair is made of what sites sent; other counts of the same patients give another difference."""

    def swapped(_name: str, request: Request, reply: Reply) -> Reply:
        if isinstance(request, Personalise) and isinstance(reply, Measured):
            return Measured(untrained()[_name].flat(), reply.schema)
        return reply

    found = coordinate(PLAN, MemoryFleet(PLAN, tamper=swapped), tmp_path)
    ours, theirs = (by_name(of.differences(TASK))[PERSONALISED, FEDERATION] for of in (outcome, found))
    assert ours["metrics"]["brier"]["value"] != theirs["metrics"]["brier"]["value"]
