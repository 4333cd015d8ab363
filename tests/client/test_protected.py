"""A site under patient-level privacy: paid for first, noised, answered once, and silent about everything else."""

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from guarded_site import COHORT, NOW, guarded_site, measure, private_plan, seeded, train
from tiny_federation import tiny_data, tiny_plan, tiny_site

from client.data.prepared.site_data import SiteData, by_patient
from client.governance.ledger import Ledger
from client.protected import Guard
from client.site import Site
from client.training import self_test
from client.workbench import Workbench
from shared.errors import BudgetError, SiteDataError
from shared.fixed_point import dequantise
from shared.message_bytes import reply_to_bytes
from shared.messages import Envelope, Hello, Measured, Refusal, Reply, Request, Update, Vector, Welcome
from shared.privacy.accounting import Cap
from shared.privacy.events import Event
from shared.privacy.noise import Noise, Reals
from shared.privacy.terms import statistics_terms, terms_for
from shared.tasks.task import private_measures


def updated(site: Site, request: Request) -> Update:
    reply = site.answer(request)
    assert isinstance(reply, Update), reply
    return reply


def refused(reply: Reply) -> Refusal:
    assert isinstance(reply, Refusal), reply
    return reply


def weights(site: Site) -> Vector:
    """The plan's start, whatever the site has trained since."""
    return Workbench.for_plan(site.workbench.plan).initial_weights()


def paid(site: Site, split: str = "train") -> tuple[Event, ...]:
    assert site.guard is not None
    spent = site.guard.till.ledger.spending(COHORT).splits[split]  # type: ignore[index]
    return spent.own.released


def with_guard(site: Site, **changes: Any) -> Site:
    assert site.guard is not None
    return dataclasses.replace(site, guard=dataclasses.replace(site.guard, **changes))


class Quiet:
    """Everybody takes part, and nothing hides them: what noise is added to."""

    def normal(self, size: int) -> Reals:
        return np.zeros(size)

    def coins(self, count: int, rate: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
        assert 0 < rate <= 1
        return np.ones(count, np.bool_)


def test_a_round_is_paid_for_with_the_plans_event_and_nothing_else(tmp_path: Path) -> None:
    plan = private_plan()
    site = guarded_site(plan, tmp_path)
    assert paid(site) == ()
    updated(site, train(plan, weights(site)))
    assert paid(site) == (terms_for(plan, "aachen").round_event(),)
    assert paid(site, "test") == paid(site, "validation") == ()


def test_an_update_tells_no_loss_no_steps_and_no_seconds(tmp_path: Path) -> None:
    plan = private_plan()
    site = guarded_site(plan, tmp_path)
    reply = updated(site, train(plan, weights(site)))
    assert (reply.loss_sum, reply.steps, reply.seconds) == (0, 0, 0.0)
    plain = tiny_plan()
    told = updated(tiny_site("aachen", plain), train(plain, weights(site)))
    assert told.loss_sum > 0
    assert told.steps == plain.training.steps


def test_the_same_question_gets_the_same_bytes_and_is_charged_once(tmp_path: Path) -> None:
    plan = private_plan()
    site = guarded_site(plan, tmp_path)
    first = updated(site, train(plan, weights(site)))
    again = updated(guarded_site(plan, tmp_path), train(plan, weights(site)))
    assert reply_to_bytes(first) == reply_to_bytes(again)
    assert len(paid(site)) == 1
    assert paid(site)[0].steps == plan.training.steps


def test_another_run_draws_other_noise_and_is_charged(tmp_path: Path) -> None:
    plan = private_plan()
    site = guarded_site(plan, tmp_path, cap=Cap(100.0, 1e-4))
    first, second = (updated(site, train(plan, weights(site), run=run)) for run in ("one", "two"))
    assert (first.values != second.values).mean() > 0.9
    assert paid(site)[0].steps == 2 * plan.training.steps


def test_the_same_round_with_another_model_is_refused(tmp_path: Path) -> None:
    plan = private_plan()
    site = guarded_site(plan, tmp_path)
    start = weights(site)
    updated(site, train(plan, start))
    assert refused(site.answer(train(plan, start + np.float32(1e-3)))).code == "replayed-otherwise"
    assert paid(site)[0].steps == plan.training.steps


def test_beyond_the_cap_nothing_is_computed_and_the_refusal_says_so_without_what_was_paid(tmp_path: Path) -> None:
    plan = private_plan()
    site = guarded_site(plan, tmp_path, cap=Cap(0.5, 1e-4))

    def never(_claim: object) -> Noise:
        raise AssertionError("it was computed")

    asked = with_guard(site, noise=never)
    reply = refused(asked.answer(train(plan, weights(site))))
    assert (reply.code, reply.sentence) == ("budget", "this site cannot take part (budget)")
    with pytest.raises(BudgetError, match=r"the cap is 0\.5"):
        asked._computed(train(plan, weights(site)))
    assert paid(site) == ()


def test_the_plans_own_rounds_fit_into_the_plans_epsilon_and_one_more_does_not(tmp_path: Path) -> None:
    plan = private_plan()
    site = guarded_site(plan, tmp_path)
    for number in range(1, plan.plan.rounds + 1):
        updated(site, train(plan, weights(site), number))
    assert refused(site.answer(train(plan, weights(site), 1, run="another"))).code == "budget"


def test_without_a_ledger_a_site_neither_joins_nor_trains() -> None:
    plan = private_plan()
    site = tiny_site("aachen", plan)
    for request in (Hello(Envelope("run", plan.digest(), 0)), train(plan, weights(site)), measure(plan, weights(site))):
        assert refused(site.answer(request)).code == "no-ledger"


def test_a_cohort_that_is_not_enrolled_is_refused(tmp_path: Path) -> None:
    plan = private_plan()
    site = with_guard(guarded_site(plan, tmp_path), cohort="dd" * 32)
    assert refused(site.answer(train(plan, weights(site)))).code == "cohort-unknown"


def test_a_site_joins_after_its_self_test_and_not_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = private_plan()
    hello = Hello(Envelope("run", plan.digest(), 0))
    assert isinstance(guarded_site(plan, tmp_path).answer(hello), Welcome)
    monkeypatch.setitem(self_test.CHECKS, "bound", lambda _subject: (False, "one patient moves the sum by 3"))
    reply = refused(guarded_site(plan, tmp_path).answer(hello))
    assert reply.code == "self-test"
    assert "one patient moves the sum by 3" in reply.sentence


def test_noise_hides_the_update_and_has_the_planned_size(tmp_path: Path) -> None:
    """With SGD, the difference to an update without noise is steps x rate x noise on the mean gradient, added up."""
    plan = private_plan(
        training__optimizer="sgd", training__momentum=0.0, training__steps=1, training__learning_rate=0.5
    )
    site = guarded_site(plan, tmp_path, cap=Cap(100.0, 1e-4))
    quiet = with_guard(site, noise=lambda _claim: Quiet())
    clean = dequantise(updated(quiet, train(plan, weights(site), run="quiet")).values, plan.aggregation.fixed_point)
    noise = []
    for number in range(1, 4):
        full = with_guard(site, noise=lambda claim: AllOf(seeded(claim)))
        reply = updated(full, train(plan, weights(site), number, run="noisy"))
        noise.append(dequantise(reply.values, plan.aggregation.fixed_point) - clean)
    found, planned = float(np.std(noise)), 0.5 * terms_for(plan, "aachen").noise_per_coordinate
    assert found == pytest.approx(planned, rel=0.1)
    assert found != pytest.approx(planned * 2 / 3, rel=0.1), "a weaker noise would be noticed"


class AllOf:
    """Noise of another source with everybody taking part, so that only noise differs."""

    def __init__(self, source: Noise) -> None:
        self._source = source

    def normal(self, size: int) -> Reals:
        return self._source.normal(size)

    def coins(self, count: int, rate: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
        return Quiet().coins(count, rate)


def without(data: SiteData, patient: str) -> SiteData:
    train = [case for case in data.train if case.patient != patient]
    return SiteData(train, data.validation, data.test, by_patient([case.patient for case in train]))


def test_taking_a_patient_away_moves_the_update_by_no_more_than_the_clip_norm_allows(tmp_path: Path) -> None:
    plan = private_plan(
        training__optimizer="sgd", training__momentum=0.0, training__steps=1, training__learning_rate=1.0
    )
    whole = tiny_data("aachen")
    names = sorted({case.patient for case in whole.train})
    terms = terms_for(plan, "aachen")

    def change(data: SiteData, folder: str) -> Reals:
        (tmp_path / folder).mkdir()
        site = with_guard(guarded_site(plan, tmp_path / folder, data=data), noise=lambda _claim: Quiet())
        return dequantise(updated(site, train(plan, weights(site))).values, plan.aggregation.fixed_point)

    everybody = change(whole, "all")
    allowed = terms.clip_norm / terms.denominator
    moved = [float(np.linalg.norm(everybody - change(without(whole, name), name))) for name in names]
    assert len(moved) == 6
    assert max(moved) <= allowed * (1 + 1e-5)
    assert max(moved) > allowed / 100, "somebody matters"


def test_statistics_are_noised_paid_for_by_their_split_and_the_same_when_asked_again(tmp_path: Path) -> None:
    plan = private_plan()
    site = guarded_site(plan, tmp_path)
    asked = measure(plan, weights(site))
    first, again = site.answer(asked), site.answer(asked)
    assert isinstance(first, Measured)
    assert isinstance(again, Measured)
    np.testing.assert_array_equal(first.counts, again.counts)
    assert first.schema == private_measures(site.workbench.task).schema.digest()
    assert first.seconds == 0
    assert paid(site, "test") == (statistics_terms(plan, "test").event(),)
    assert paid(site) == ()


def test_statistics_of_training_patients_are_refused(tmp_path: Path) -> None:
    plan = private_plan()
    site = guarded_site(plan, tmp_path)
    assert refused(site.answer(measure(plan, weights(site), "train"))).code == "not-in-plan"


def test_exact_statistics_leave_only_under_a_plan_that_covers_training_alone(tmp_path: Path) -> None:
    plan = private_plan(privacy__covers="training", evaluation__release="sum")
    site = guarded_site(plan, tmp_path)
    reply = site.answer(measure(plan, weights(site)))
    assert isinstance(reply, Measured)
    assert reply.schema == site.workbench.task.schema.digest()
    assert paid(site, "test") == ()


def test_a_refusal_that_counts_cases_stays_at_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = private_plan()
    site = guarded_site(plan, tmp_path)

    def fails(*_arguments: object) -> None:
        raise SiteDataError("17 of 31 cases are unusable", hint="repair 17", code="quarantine-quota")

    monkeypatch.setattr(type(site.workbench), "load", fails)
    reply = refused(site.answer(train(plan, weights(guarded_site(plan, tmp_path)))))
    assert reply.code == "quarantine-quota"
    assert not any(character.isdigit() for character in reply.sentence + reply.hint)


def test_what_was_reserved_and_never_left_is_computed_anew_for_the_same_price(tmp_path: Path) -> None:
    plan = private_plan()
    site = guarded_site(plan, tmp_path)

    def dies(_claim: object) -> Noise:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with_guard(site, noise=dies).answer(train(plan, weights(site)))
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    assert ledger.spending(COHORT).splits["train"].own.reserved == (terms_for(plan, "aachen").round_event(),)
    updated(site, train(plan, weights(site)))
    assert paid(site) == (terms_for(plan, "aachen").round_event(),)
    assert ledger.spending(COHORT).splits["train"].own.reserved == ()


def test_a_guard_draws_from_the_operating_system_unless_told_otherwise(tmp_path: Path) -> None:
    guard = guarded_site(private_plan(), tmp_path).guard
    assert isinstance(guard, Guard)
    claim = guard.claim(train(private_plan(), np.zeros(3, np.float32)), "train", "train")
    first, second = guard.noise(claim).normal(8), guard.noise(claim).normal(8)
    assert not np.intersect1d(first, second).size
    assert guard.till.now() == NOW


def test_a_full_disk_is_said_leaves_nothing_and_costs_nothing_twice(tmp_path: Path) -> None:
    """The real thing where a small disk may be mounted; elsewhere the ledger's own tests stand in for it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        plan = private_plan()
        site = guarded_site(plan, disk)
        filler = disk / "filler"
        filler.write_bytes(b"x" * (shutil.disk_usage(disk).free - 2 * 4096))
        reply = refused(site.answer(train(plan, weights(site))))
        assert reply.code == "disk-full"
        assert "bytes are free" in reply.sentence
        filler.unlink()
        updated(site, train(plan, weights(site)))
        assert paid(site) == (terms_for(plan, "aachen").round_event(),)
    finally:
        subprocess.run(["umount", str(disk)], capture_output=True, check=True)
