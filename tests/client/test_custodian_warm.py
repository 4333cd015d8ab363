"""Sites kept open: the last two plans asked for, nothing that was withdrawn, and only the cohort that was approved."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from deciding_hospital import DATASET, NOW, PRIVATE, SHARED, Hospital, plan_of, train
from small_trust import code_of

from client.custodian import warm
from client.custodian.warm import KEPT, Warm, open_site
from client.data.cohort import files
from client.governance.ledger import Ledger
from client.governance.spending import CohortPatients
from client.site import Site
from client.site_folder import LEDGER
from shared.errors import ConsiliumError, SiteDataError
from shared.messages import Refusal, Update
from shared.plan import Plan


@dataclass(frozen=True)
class Opened:
    """An approval as far as opening needs it."""

    plan: Plan
    cohort: str
    folder: Path
    dataset: str = DATASET


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


def cohort_of(hospital: Hospital) -> str:
    folder = hospital.site.dataset(DATASET).cohorts
    return files.load(folder, hospital.site.signing_key().verify_key).digest()


def opening(hospital: Hospital, plan: Plan, cohort: str = "") -> Opened:
    folder = hospital.folder / "approved" / plan.digest()
    folder.mkdir(parents=True, exist_ok=True)
    return Opened(plan, cohort or cohort_of(hospital), folder)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of the plans that a site was really opened for, in order."""
    found: list[str] = []

    def counting(_folder: object, said: Opened, _now: object) -> object:
        found.append(said.plan.digest())
        return SimpleNamespace(summing=None)

    monkeypatch.setattr(warm, "open_site", counting)
    return found


def plans(count: int) -> list[Plan]:
    return [plan_of(plan__rounds=rounds) for rounds in range(1, count + 1)]


# --- what stays open -------------------------------------------------------------------------------------------------


def test_a_plan_is_opened_with_its_first_question_and_not_again(hospital: Hospital, opened: list[str]) -> None:
    sites, (plan,) = Warm(hospital.site, lambda: NOW), plans(1)
    first = sites.opened(opening(hospital, plan))
    assert all(sites.opened(opening(hospital, plan)) is first for _ in range(3))
    assert opened == [plan.digest()]


def test_of_several_plans_those_asked_for_last_stay(hospital: Hospital, opened: list[str]) -> None:
    assert KEPT == 2
    sites, (a, b, c) = Warm(hospital.site, lambda: NOW), plans(3)
    for plan in (a, b, a, c, a, b):
        sites.opened(opening(hospital, plan))
    # ``a`` was asked for after ``b``, so ``c`` took the place of ``b``; and then ``b`` that of ``c``.
    assert opened == [plan.digest() for plan in (a, b, c, b)]


@pytest.mark.parametrize(
    "asked", [(0, 1, 2, 0, 1, 2), (0, 1, 0, 1, 0), (2, 2, 1, 1, 0, 0)], ids=["round", "two", "runs"]
)
def test_what_is_opened_is_what_the_last_two_plans_do_not_hold(
    hospital: Hospital, opened: list[str], asked: tuple[int, ...]
) -> None:
    """Against a list of the most recent ones, written down without our class."""
    sites, known = Warm(hospital.site, lambda: NOW), plans(3)
    recent: list[int] = []
    expected: list[str] = []
    for place in asked:
        sites.opened(opening(hospital, known[place]))
        if place not in recent:
            expected.append(known[place].digest())
        recent = [*(one for one in recent if one != place), place][-KEPT:]
    assert opened == expected


def test_a_plan_that_was_withdrawn_is_closed_and_no_other(hospital: Hospital, opened: list[str]) -> None:
    sites, (a, b) = Warm(hospital.site, lambda: NOW), plans(2)
    held = [sites.opened(opening(hospital, plan)) for plan in (a, b)]
    sites.forget(a.digest())
    assert sites.opened(opening(hospital, b)) is held[1]
    assert sites.opened(opening(hospital, a)) is not held[0]
    assert opened == [plan.digest() for plan in (a, b, a)]


class Sums:
    """What stands for a site's masks: it knows two runs, and notes what it is told to forget."""

    runs = ("run-1", "run-2")

    def __init__(self) -> None:
        self.gone: list[str] = []

    def forget(self, run: str) -> None:
        self.gone.append(run)


@pytest.mark.parametrize("how", ["forgotten", "displaced"])
def test_what_is_closed_has_forgotten_its_sums_and_what_is_open_has_not(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(warm, "open_site", lambda *_: SimpleNamespace(summing=Sums()))
    sites, known = Warm(hospital.site, lambda: NOW), plans(KEPT + 1)
    first, second = (sites.opened(opening(hospital, plan)) for plan in known[:KEPT])
    if how == "forgotten":
        sites.forget(known[0].digest())
    else:
        sites.opened(opening(hospital, known[-1]))
    gone = [site.summing.gone for site in (first, second)]  # type: ignore[union-attr]
    assert gone == [["run-1", "run-2"], []]
    assert known[0].digest() not in sites.plans
    assert second.summing in [one for _, one in sites.sums()]


def test_forgetting_what_was_never_open_is_nothing(hospital: Hospital, opened: list[str]) -> None:
    Warm(hospital.site, lambda: NOW).forget("0" * 64)
    assert opened == []


def test_a_plan_that_could_not_be_opened_is_tried_again(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def failing(*_: object) -> object:
        tries.append(1)
        if len(tries) == 1:
            raise SiteDataError("the store cannot be read", hint="restore it", code="store")
        return "opened"

    monkeypatch.setattr(warm, "open_site", failing)
    sites, said = Warm(hospital.site, lambda: NOW), opening(hospital, plans(1)[0])
    assert code_of(lambda: sites.opened(said)) == "store"
    assert sites.opened(said) == "opened"


# --- what is opened --------------------------------------------------------------------------------------------------


def test_a_site_is_opened_under_its_own_name_on_the_patients_of_the_cohort(hospital: Hospital) -> None:
    site = open_site(hospital.site, opening(hospital, plan_of()), lambda: NOW)
    folder = hospital.site.dataset(DATASET).cohorts
    cohort = files.load(folder, hospital.site.signing_key().verify_key)
    train_patients = {member.patient for member in cohort.members if member.split == "train"}
    assert site.name == "aachen"
    assert len(site.data.train_patients) == len(train_patients)


def test_a_cohort_that_was_frozen_anew_leaves_the_approval_with_its_old_one(hospital: Hospital) -> None:
    """The approval names a cohort by its digest: what is current later changes nothing for it."""
    plan, before = plan_of(), cohort_of(hospital)
    smaller = drop_one_patient(hospital)
    assert smaller != before
    old = open_site(hospital.site, opening(hospital, plan, before), lambda: NOW)
    new = open_site(hospital.site, opening(hospital, plan, smaller), lambda: NOW)
    assert len(old.data.train_patients) == len(new.data.train_patients) + 1


def drop_one_patient(hospital: Hospital) -> str:
    folder, key = hospital.site.dataset(DATASET).cohorts, hospital.site.signing_key()
    cohort = files.load(folder, key.verify_key)
    gone = next(member.patient for member in cohort.members if member.split == "train")
    out = tuple(sorted(member.case_id for member in cohort.members if member.patient == gone))
    kept = tuple(member for member in cohort.members if member.patient != gone)
    changed = dataclasses.replace(cohort, members=kept, left_out=out)
    files.save(changed, folder, key)
    return changed.digest()


def test_a_cohort_that_nobody_froze_is_refused(hospital: Hospital) -> None:
    with pytest.raises(ConsiliumError):
        open_site(hospital.site, opening(hospital, plan_of(), "0" * 64), lambda: NOW)


def test_a_cohort_changed_on_the_disk_is_refused_and_not_prepared_again(hospital: Hospital) -> None:
    said = opening(hospital, plan_of())
    open_site(hospital.site, said, lambda: NOW)
    changed = [path for path in hospital.site.dataset(DATASET).cohorts.rglob("*") if path.is_file()]
    for path in changed:
        content = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(content.replace(b'"train"', b'"test"', 1) if b'"train"' in content else content + b" ")
    with pytest.raises(ConsiliumError):
        open_site(hospital.site, said, lambda: NOW)


def test_a_data_set_that_is_not_there_is_refused(hospital: Hospital) -> None:
    said = dataclasses.replace(opening(hospital, plan_of()), dataset="circles")
    with pytest.raises(ConsiliumError, match="there is no cohort"):
        open_site(hospital.site, said, lambda: NOW)


# --- who pays --------------------------------------------------------------------------------------------------------


def private(hospital: Hospital) -> tuple[Plan, Site]:
    plan = plan_of(**PRIVATE)
    return plan, open_site(hospital.site, opening(hospital, plan), lambda: NOW)


def spent(hospital: Hospital) -> int:
    """Rows of patients who have paid for training."""
    folder = hospital.site.dataset(DATASET).cohorts
    cohort = files.load(folder, hospital.site.signing_key().verify_key)
    outlook = Ledger.open(hospital.site.path / LEDGER).outlook(CohortPatients.of(cohort))
    return sum(len(account.all()) for account in outlook.spending.splits["train"].accounts)


def test_a_plan_that_protects_nobody_opens_no_ledger(hospital: Hospital) -> None:
    before = (hospital.site.path / LEDGER).read_bytes()
    open_site(hospital.site, opening(hospital, plan_of()), lambda: NOW)
    assert (hospital.site.path / LEDGER).read_bytes() == before


def test_a_protected_answer_is_paid_for_in_this_site_s_own_ledger(hospital: Hospital) -> None:
    plan, site = private(hospital)
    assert spent(hospital) == 0
    assert isinstance(site.answer(train(plan)), Update)
    assert spent(hospital) > 0


def test_the_cap_of_the_site_s_own_policy_holds_whatever_the_plan_promises(hospital: Hospital) -> None:
    """The plan asks for epsilon 4; a hospital that allows a hundredth of that answers nothing and pays nothing."""
    text = (hospital.site.path / "policy.toml").read_text()
    assert "[privacy]" in text
    hospital.policy(text.replace("[privacy]", "[privacy]\nmax_epsilon_lifetime = 0.04"))
    plan, site = private(hospital)
    refused = site.answer(train(plan))
    assert isinstance(refused, Refusal)
    assert refused.code == "budget"
    assert spent(hospital) == 0


def test_the_same_question_after_the_site_was_closed_is_not_paid_for_again(hospital: Hospital) -> None:
    plan, sites = plan_of(**PRIVATE), Warm(hospital.site, lambda: NOW)
    said = opening(hospital, plan)
    first = sites.opened(said).answer(train(plan))
    paid = spent(hospital)
    sites.forget(plan.digest())
    again = sites.opened(said).answer(train(plan))
    assert isinstance(first, Update)
    assert isinstance(again, Update)
    assert first.values.tobytes() == again.values.tobytes()
    assert spent(hospital) == paid


def test_what_is_opened_bears_as_many_colluding_sites_as_the_plan_counts_on(hospital: Hospital) -> None:
    sharing = SHARED | {
        "privacy": SHARED["privacy"] | {"colluding_sites": 1},
        "secure_aggregation": {"enabled": True, "threshold": 3},
    }
    site = open_site(hospital.site, opening(hospital, plan_of(**sharing)), lambda: NOW)
    assert site.summing is not None
    rule = site.summing.party._threshold
    assert rule.of(4, 4) == 3
    assert code_of(lambda: rule.of(4, 5)) == "threshold-low"
