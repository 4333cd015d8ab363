"""``consilium-site budget`` as a data-protection officer types it, at a site of eight patients who have paid."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dp_accounting
import pytest
import tomli_w
from dp_accounting.pld import PLDAccountant
from small_hospitals import Said, contents, document
from small_site import site, write_hospital

from client.data.cohort import files
from client.data.cohort.manifest import Cohort
from client.governance.ledger import Ledger
from client.governance.spending import Claim, CohortPatients
from client.site_folder import SiteFolder
from shared.messages import Split
from shared.plan import from_document
from shared.privacy.accounting import Cap
from shared.privacy.events import Event

Capsys = pytest.CaptureFixture[str]
AT = datetime(2026, 1, 2, tzinfo=UTC)
EVENT = Event(1.2, 0.064, 50)
DELTA = 1e-5


class Hospital:
    """A site whose data set "squares" is frozen."""

    def __init__(self, capsys: Capsys, home: Path) -> None:
        self.capsys, self.home = capsys, home

    def says(self, *words: object) -> Said:
        return site(self.capsys, *words, "--site", self.home)

    def lines(self, *more: object) -> list[dict[str, Any]]:
        said = self.says("budget", "--json", *more)
        assert (said.status, said.err) == (0, "")
        found = json.loads(said.out)
        assert isinstance(found, list)
        return found

    def freeze(self, *more: str) -> Cohort:
        found = json.loads(self.says("doctor", "--dataset", "squares", "--json").out)["findings"]
        accepted = [("--accept-findings", one["code"]) for one in found if one["severity"] == "error"]
        said = self.says("freeze", "--dataset", "squares", *(word for pair in accepted for word in pair), *more)
        assert said.status == 0, said.err
        return self.cohort()

    def cohort(self) -> Cohort:
        opened = SiteFolder.open(self.home)
        return files.load(opened.dataset("squares").cohorts, opened.signing_key().verify_key)

    @property
    def ledger(self) -> Ledger:
        return Ledger.open(self.home / "ledger.sqlite")

    def pay(self, number: int, event: Event = EVENT, *, release: str = "", split: Split = "train") -> None:
        """Reserve ``event``, and release it where there is a reply."""
        patients = CohortPatients.of(self.cohort())
        self.ledger.enrol(patients, AT)
        asked = Claim(patients.digest, split, "run", "ab" * 32, number, "train", "q")
        granted = self.ledger.reserve(asked, event, Cap(100, DELTA), AT)
        if release:
            self.ledger.release(granted.number, release, AT)

    def permit(self, **said: float) -> None:
        (self.home / "policy.toml").write_text(tomli_w.dumps({"privacy": said}))


@pytest.fixture(scope="module")
def frozen_once() -> dict[str, Path]:
    return {}


@pytest.fixture
def hospital(
    capsys: Capsys, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, frozen_once: dict[str, Path]
) -> Hospital:
    """Made once for all tests, and copied for each."""
    if "home" not in frozen_once:
        folder = tmp_path_factory.mktemp("made")
        first = Hospital(capsys, folder / "site")
        words = write_hospital(folder / "source")
        assert site(capsys, "init", first.home, "--name", "north").status == 0
        assert first.says("ingest", *words, "--dataset", "squares").status == 0
        first.freeze()
        frozen_once["home"] = first.home
    shutil.copytree(frozen_once["home"], tmp_path / "site")
    return Hospital(capsys, tmp_path / "site")


def by_pld(steps: int, delta: float = DELTA) -> float:
    """What ``steps`` of ``EVENT`` cost, by an accountant that nobody here wrote."""
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    step = dp_accounting.PoissonSampledDpEvent(0.064, dp_accounting.GaussianDpEvent(1.2))
    return float(accountant.compose(dp_accounting.SelfComposedDpEvent(step, steps)).get_epsilon(delta))


def close_above(truth: float) -> Any:
    return pytest.approx(truth * 1.01, rel=0.0101)


def private_plan(folder: Path, **changes: Any) -> Path:
    """A plan whose rounds are ``EVENT`` at a site that is taken to have 125 patients."""
    said = document(training__steps=50, training__patients_per_step=8, **{"evaluation__release": "dp", **changes})
    said["privacy"] = {
        "unit": "patient",
        "epsilon": 8.0,
        "delta": DELTA,
        "clip_norm": 1.0,
        "public_patients": 125,
        "noise_multiplier": 1.2,
        **{key: value for key, value in said["privacy"].items() if key != "unit"},
    }
    path = folder / "plan.toml"
    plan = {key: value for key, value in said.items() if key != "scenario"}
    from_document(plan)
    path.write_text(tomli_w.dumps(plan))
    return path


def test_a_cohort_that_was_never_asked_has_paid_nothing_and_is_shown(hospital: Hospital) -> None:
    lines = hospital.lines()
    assert [(one["split"], one["spent"], one["reserved"]) for one in lines] == [
        ("train", 0.0, 0.0),
        ("validation", 0.0, 0.0),
        ("test", 0.0, 0.0),
    ]
    assert {(one["dataset"], one["cohort"], one["state"], one["left"]) for one in lines} == {
        ("squares", hospital.cohort().digest(), "not enrolled", None)
    }


def test_looking_changes_nothing_at_the_site(hospital: Hospital, tmp_path: Path) -> None:
    hospital.pay(1, release="11" * 32)
    before = contents(hospital.home)
    hospital.says("budget")
    hospital.says("budget", "--plan", private_plan(tmp_path))
    assert contents(hospital.home) == before


def test_what_left_is_spent_and_what_was_granted_is_reserved(hospital: Hospital) -> None:
    hospital.pay(1, release="11" * 32)
    hospital.pay(2)
    train, validation, test = hospital.lines("--dataset", "squares")
    assert train["spent"] == close_above(by_pld(50))
    assert train["reserved"] == close_above(by_pld(100))
    assert train["spent"] != close_above(by_pld(100)), "the control: the two are told apart"
    assert (train["state"], train["inherited"]) == ("enrolled", [])
    assert [(one["spent"], one["reserved"]) for one in (validation, test)] == [(0.0, 0.0)] * 2


def test_the_table_says_the_same_as_the_document(hospital: Hospital) -> None:
    hospital.pay(1, release="11" * 32)
    train = hospital.lines()[0]
    said = hospital.says("budget")
    assert (said.status, said.err) == (0, "")
    header, first = said.out.splitlines()[:2]
    assert header.split() == [
        *("data", "set", "cohort", "state", "split", "spent", "reserved", "cap", "left", "inherits", "from")
    ]
    spent = f"{train['spent']:.3f}"
    assert first.split() == ["squares", train["cohort"][:12], "enrolled", "train", spent, spent, "10", "-", "-"]
    assert "epsilon at delta 1e-05 of the patient who paid most" in said.out


SHARED_EVENT = replace(EVENT, noise_multiplier=2.4, alone=1.2)
"""Costs little as long as no more sites collude than a plan says, and what ``EVENT`` costs if all others do."""


def test_where_no_site_shared_noise_there_is_no_worst_case_and_no_column(hospital: Hospital) -> None:
    hospital.pay(1, release="11" * 32)
    assert [one["if_all_collude"] for one in hospital.lines()] == [None] * 3
    assert "collude" not in hospital.says("budget").out


def test_what_was_paid_if_all_other_sites_collude_is_shown_beside_it(hospital: Hospital) -> None:
    """Left, granted, and of this site's own noise: 50 steps each, all of them at noise 1.2 in the worst case."""
    hospital.pay(1, SHARED_EVENT, release="11" * 32)
    hospital.pay(2, SHARED_EVENT)
    hospital.pay(3)
    train, validation, test = hospital.lines()
    assert train["if_all_collude"] == close_above(by_pld(150))
    assert train["if_all_collude"] != close_above(by_pld(100)), "the control: what is only reserved counts"
    assert train["spent"] < train["reserved"] < by_pld(100)
    assert [one["if_all_collude"] for one in (validation, test)] == [None] * 2


def test_the_column_is_there_for_all_as_soon_as_one_split_has_shared_noise(hospital: Hospital) -> None:
    hospital.pay(1, SHARED_EVENT, release="11" * 32)
    train = hospital.lines()[0]
    said = hospital.says("budget").out
    header, first, second = said.splitlines()[:3]
    assert " ".join(header.split()).endswith("spent reserved if all collude cap left inherits from")
    assert first.split()[6:8] == [f"{train['if_all_collude']:.3f}", "10"]
    assert second.split()[6:8] == ["-", "10"]
    assert "If all collude: what is reserved, if all other sites collude" in " ".join(said.split())


def test_a_patient_of_two_cohorts_has_paid_in_both_also_in_the_worst_case(hospital: Hospital) -> None:
    hospital.pay(1, SHARED_EVENT, release="11" * 32)
    first = hospital.cohort().digest()
    second = hospital.freeze("--seed", "3").digest()
    for one in hospital.lines():
        if one["cohort"] == second:
            assert one["inherited"] in ([first], [])
            assert (one["if_all_collude"] is None) == (one["inherited"] == [])


def test_the_cap_is_the_smaller_one_of_the_policy_s(hospital: Hospital) -> None:
    hospital.permit(max_epsilon_per_cohort=4.0, max_epsilon_lifetime=9.0, delta=1e-6)
    assert {(one["cap"], one["delta"]) for one in hospital.lines()} == {(4.0, 1e-6)}
    hospital.permit(max_epsilon_per_cohort=9.0, max_epsilon_lifetime=3.0)
    assert {(one["cap"], one["delta"]) for one in hospital.lines()} == {(3.0, 1e-5)}


def test_the_rounds_that_are_left_are_those_that_the_ledger_grants(hospital: Hospital, tmp_path: Path) -> None:
    """Rounds of 50 steps cost 2.2, 3, 3.6 of a cap of 4: after one, two more fit, whatever a plan calls them."""
    hospital.permit(max_epsilon_per_cohort=4.0)
    hospital.pay(1, release="11" * 32)
    train, validation, test = hospital.lines("--plan", private_plan(tmp_path))
    fits = max(n for n in range(10) if by_pld(50 * (n + 1)) < 4)
    assert train["left"] == fits == 2
    assert validation["left"] >= test["left"] >= 0
    granted = 0
    patients = CohortPatients.of(hospital.cohort())
    for number in range(2, 9):
        asked = Claim(patients.digest, "train", "run", "ab" * 32, number, "train", "q")
        try:
            hospital.ledger.reserve(asked, EVENT, Cap(4.0, DELTA), AT)
        except Exception as refused:  # noqa: BLE001 - any of the site's errors ends the counting
            assert "the cap is 4; 0 rounds remain" in str(refused)  # noqa: PT017
            break
        granted += 1
    assert granted == fits
    assert hospital.lines("--plan", private_plan(tmp_path))[0]["left"] == 0


def test_a_plan_that_asks_nothing_of_a_split_leaves_no_number_there(hospital: Hospital, tmp_path: Path) -> None:
    plan = private_plan(tmp_path, evaluation__release="sum", privacy__covers="training")
    assert [one["left"] is None for one in hospital.lines("--plan", plan)] == [False, True, True]


def test_a_cohort_that_is_frozen_anew_inherits_before_and_after_it_is_enrolled(hospital: Hospital) -> None:
    hospital.pay(1, release="11" * 32)
    first = hospital.cohort().digest()
    second = hospital.freeze("--seed", "3").digest()
    assert second != first
    before = [one for one in hospital.lines() if one["cohort"] == second]
    assert {one["state"] for one in before} == {"not enrolled"}
    trained = {member.patient for member in files_of(hospital, first).members if member.split == "train"}
    for one in before:
        shares = any(m.patient in trained for m in hospital.cohort().members if m.split == one["split"])
        assert one["inherited"] == ([first] if shares else [])
        assert one["spent"] == (close_above(by_pld(50)) if shares else 0.0)
    assert any(one["inherited"] for one in before)
    hospital.ledger.enrol(CohortPatients.of(hospital.cohort()), AT)
    after = [one for one in hospital.lines() if one["cohort"] == second]
    assert after == [{**one, "state": "enrolled"} for one in before]


def files_of(hospital: Hospital, digest: str) -> Cohort:
    opened = SiteFolder.open(hospital.home)
    return files.load(opened.dataset("squares").cohorts, opened.signing_key().verify_key, digest)


def test_a_data_set_that_is_not_there_is_named_and_one_that_is_gone_is_still_in_the_ledger(hospital: Hospital) -> None:
    hospital.pay(1)
    said = hospital.says("budget", "--dataset", "circles")
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("error: there is no data set 'circles' at this site\nhint:  ")
    shutil.rmtree(hospital.home / "datasets" / "squares")
    assert [one["dataset"] for one in hospital.lines()] == ["squares"] * 3, "its patients have paid all the same"


def test_before_the_first_cohort_nobody_has_paid(capsys: Capsys, tmp_path: Path) -> None:
    assert site(capsys, "init", tmp_path / "site").status == 0
    said = site(capsys, "budget", "--site", tmp_path / "site")
    assert (said.status, said.out) == (0, "No cohort was frozen yet: nobody has paid anything.\n")
    assert json.loads(site(capsys, "budget", "--json", "--site", tmp_path / "site").out) == []


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda home: (home / "ledger.sqlite").unlink(), "there is no ledger ledger.sqlite at this site"),
        (lambda home: (home / "ledger.sqlite").write_bytes(b""), "the ledger is damaged: "),
        (lambda home: (home / "policy.toml").write_text("[privacy]\nmax_epsilon = 3.0\n"), "policy.toml: "),
    ],
    ids=["lost", "emptied", "misspelt"],
)
def test_what_cannot_be_read_is_no_budget(
    hospital: Hospital, break_it: Callable[[Path], object], sentence: str
) -> None:
    break_it(hospital.home)
    said = hospital.says("budget")
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith(f"error: {sentence}")
    assert "\nhint:  " in said.err


def test_a_plan_that_protects_nobody_has_no_rounds_to_count(hospital: Hospital, tmp_path: Path) -> None:
    said = document()
    (tmp_path / "plan.toml").write_text(tomli_w.dumps({key: said[key] for key in said if key != "scenario"}))
    refused = hospital.says("budget", "--plan", tmp_path / "plan.toml")
    assert (refused.status, refused.out) == (1, "")
    assert refused.err.startswith("error: ")


def test_nothing_that_is_printed_names_a_patient(hospital: Hospital) -> None:
    hospital.pay(1, replace(EVENT, steps=1), release="11" * 32)
    said = hospital.says("budget").out + hospital.says("budget", "--json").out
    names = {name for member in hospital.cohort().members for name in (member.patient, member.case_id)}
    assert len(names) > 8
    assert not [name for name in names if name in said]
