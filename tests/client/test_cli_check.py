"""``consilium-site check`` as a hospital types it: the digest anywhere, and at a site what its policy says and why."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dp_accounting
import pytest
import tomli_w
from dp_accounting.pld import PLDAccountant
from small_hospitals import Said, contents
from small_site import site, write_hospital

from client.commands.check import check, events_of
from client.data.cohort import files
from client.data.cohort.manifest import Cohort, Member, SplitRule
from client.data.dataset import Choices
from client.governance.ledger import Ledger
from client.governance.rules import RULES
from client.governance.spending import Claim, CohortPatients
from client.settings import template
from client.site_folder import LEDGER, SiteFolder
from shared.messages import Split
from shared.plan import Plan, from_document
from shared.privacy.accounting import Cap
from shared.privacy.events import Event

Capsys = pytest.CaptureFixture[str]
NOW = datetime(2025, 3, 1, tzinfo=UTC)
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
PROMISE: dict[str, Any] = {
    "unit": "patient",
    "epsilon": 4.0,
    "delta": 1e-5,
    "clip_norm": 1.0,
    "public_patients": 40,
    "noise_multiplier": 2.0,
}


def said(**privacy: Any) -> dict[str, Any]:
    """A plan that the defaults permit for a cohort of 20 training patients."""
    return {
        "plan": {"name": "squares", "task": "classification", "rounds": 2},
        "data": {"modality": "other", "classes": ["dark", "bright"]},
        "preprocessing": {"size": [16, 16]},
        "model": {"name": "cnn"},
        "training": {"steps": 10, "patients_per_step": 4, "learning_rate": 0.02},
        "privacy": PROMISE | privacy,
        "evaluation": {"every": 1, "release": "dp"},
    }


def training_alone(**privacy: Any) -> dict[str, Any]:
    """The same, without a promise to validation and test patients."""
    return said(covers="training", **privacy) | {"evaluation": {"release": "sum"}}


def unprotected() -> dict[str, Any]:
    return said() | {"privacy": {"unit": "none"}, "evaluation": {"release": "site"}}


class Hospital:
    """A site folder with frozen cohorts, a plan beside it, and the words to check it."""

    def __init__(self, capsys: Capsys, folder: Path) -> None:
        self.capsys, self.folder = capsys, folder
        self.home = SiteFolder.init(folder / "site", template("north"), NOW)

    def plan(self, document: dict[str, Any]) -> Plan:
        (self.folder / "plan.toml").write_text(tomli_w.dumps(document))
        return from_document(document)

    def policy(self, text: str) -> None:
        (self.home.path / "policy.toml").write_text(text)

    def check(self, *more: object) -> Said:
        return site(self.capsys, "check", self.folder / "plan.toml", "--site", self.home.path, *more)

    def outcomes(self, *more: object) -> dict[str, str]:
        rules = json.loads(self.check(*more, "--json").out)["rules"]
        return {one["rule"]: one["outcome"] for one in rules}

    def freeze(self, dataset: str = "squares", patients: int = 20, first: int = 0) -> CohortPatients:
        """A signed cohort with this many training patients, five for validation and five to test."""
        folder = self.home.dataset(dataset)
        folder.begin(Choices())
        splits = ["train"] * patients + ["validation"] * 5 + ["test"] * 5
        members = tuple(member(number + first, split) for number, split in enumerate(splits))
        cohort = Cohort("north", dataset, SplitRule(0, 0.6, 0.2), members)
        files.save(cohort, folder.cohorts, self.home.signing_key())
        return CohortPatients.of(cohort)

    def pay(self, cohort: CohortPatients, split: Split, event: Event) -> None:
        """Put something into the ledger, whatever it costs."""
        ledger = Ledger.open(self.home.path / LEDGER)
        ledger.enrol(cohort, NOW)
        claim = Claim(cohort.digest, split, "run", "0" * 64, 1, "train", "1" * 64)
        ledger.reserve(claim, event, Cap(1e6, 1e-5), NOW)


def member(number: int, split: Any) -> Member:
    name = f"{number:024x}"
    return Member(name, name, split, "0" * 64, "0" * 64, (1, 16, 16), (1.0, 1.0), "other", False, "dark")


@pytest.fixture
def hospital(capsys: Capsys, tmp_path: Path) -> Hospital:
    return Hospital(capsys, tmp_path)


# --- without a site --------------------------------------------------------------------------------------------------


def test_without_a_site_only_the_digest_is_printed(
    capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text(tomli_w.dumps(unprotected()))
    digest = from_document(unprotected()).digest()
    assert site(capsys, "check", "plan.toml") == Said(0, f"{digest}\n", "")
    assert json.loads(site(capsys, "check", "plan.toml", "--json").out) == {"digest": digest}


def test_a_site_or_a_data_set_that_is_named_has_to_be_there(
    capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text(tomli_w.dumps(said()))
    for words in (("--site", tmp_path / "none"), ("--dataset", "squares")):
        found = site(capsys, "check", "plan.toml", *words)
        assert (found.status, found.out) == (1, "")
        assert "is no site folder" in found.err
    found = site(capsys, "check", "plan.toml", environ={"CONSILIUM_SITE": str(tmp_path / "none")})
    assert found.status == 1


def test_the_current_folder_is_a_site_where_it_is_one(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    hospital.plan(unprotected())
    monkeypatch.chdir(hospital.home.path)
    assert site(hospital.capsys, "check", "../plan.toml").status == 1


# --- at a site -------------------------------------------------------------------------------------------------------


def test_at_a_site_the_digest_is_followed_by_a_line_for_each_rule(hospital: Hospital) -> None:
    digest = hospital.plan(said()).digest()
    found = hospital.check()
    first, header, *lines = [line for line in found.out.splitlines() if line.strip()]
    assert (found.status, found.err, first) == (0, "", digest)
    assert header.split() == ["policy.toml", "verdict", "why"]
    assert [line.split(" = ")[0] for line in lines] == [f"[{rule.replace('.', '] ', 1)}" for rule in RULES]
    assert sum(" permits" in line for line in lines) + sum(" unknown " in line for line in lines) == len(RULES)


def test_without_a_data_set_rules_about_patients_say_what_they_would_have_to_know(hospital: Hospital) -> None:
    hospital.plan(said())
    assert {rule for rule, outcome in hospital.outcomes().items() if outcome == "unknown"} == {
        "privacy.max_epsilon_per_cohort",
        "privacy.max_epsilon_lifetime",
        "privacy.min_patients",
        "privacy.max_delta_times_patients",
    }
    assert "it is not known which cohort it would be trained on: name its data set" in hospital.check().out


def test_a_plan_that_is_refused_is_shown_whole_and_ends_with_1_an_error_and_a_hint(hospital: Hospital) -> None:
    digest = hospital.plan(unprotected()).digest()
    found = hospital.check()
    error, hint = found.err.splitlines()
    assert (found.status, found.out.splitlines()[0]) == (1, digest)
    assert error == (
        "error: policy.toml [privacy] unsafe_allow_unprotected = false refuses this plan: "
        'it protects nobody: privacy.unit = "none" (2 rules refuse it in all)'
    )
    assert hint == 'hint:  ask the lead for a plan with privacy.unit = "patient"'
    assert re.search(r'\[statistics\] release = \["dp"\] +refuses +it asks for evaluation.release', found.out)
    assert "what to do" in found.out


def test_programs_read_the_same_and_whether_it_is_permitted(hospital: Hospital) -> None:
    for document, permitted in ((said(), True), (unprotected(), False)):
        digest = hospital.plan(document).digest()
        found = hospital.check("--json")
        told = json.loads(found.out)
        assert (told["digest"], told["permitted"], told["policy"]) == (digest, permitted, "policy.toml")
        assert [one["rule"] for one in told["rules"]] == list(RULES)
        assert found.status == (0 if permitted else 1)


def test_the_policy_is_read_anew_each_time(hospital: Hospital) -> None:
    hospital.plan(unprotected())
    hospital.policy("[privacy]\nunsafe_allow_unprotected = true\n[statistics]\nrelease = ['site']\n")
    assert hospital.check().status == 0
    hospital.policy("[privacy]\nunsafe_allow_unprotected = true\n")
    assert hospital.check().status == 1


def test_a_site_from_before_there_were_policies_has_the_defaults_and_is_told_so(hospital: Hospital) -> None:
    hospital.plan(said())
    with_file = hospital.check()
    (hospital.home.path / "policy.toml").unlink()
    without = hospital.check()
    assert (without.status, without.out) == (with_file.status, with_file.out)
    assert without.err == "This site has no policy.toml: the defaults hold, as docs/policy.md explains them.\n"
    assert json.loads(hospital.check("--json").out)["policy"] == "defaults"


@pytest.mark.parametrize("text", ["[privacy]\ndelt = 1", "[privacy", "\x00"])
def test_a_policy_that_is_wrong_permits_nothing(hospital: Hospital, text: str) -> None:
    hospital.plan(said())
    hospital.policy(text)
    found = hospital.check()
    assert (found.status, found.out) == (1, "")
    assert found.err.startswith("error: policy.toml")


def test_a_plan_that_names_no_patients_of_this_site_cannot_be_kept_here(hospital: Hospital) -> None:
    hospital.plan(said(public_patients={"south": 40}))
    found = hospital.check()
    assert (found.status, found.out) == (1, "")
    assert "privacy.public_patients says no number for the site north" in found.err


def test_noise_is_what_the_plan_comes_to_at_this_site(hospital: Hospital) -> None:
    """More public patients mean a smaller rate, and less noise for the same epsilon."""
    hospital.policy("[privacy]\nmin_noise_multiplier = 1.0")
    for public, outcome in ((20, "permits"), (2000, "refuses")):
        hospital.plan(said(noise_multiplier=2.0 if public == 20 else 0.8, public_patients={"north": public}))
        assert hospital.outcomes()["privacy.min_noise_multiplier"] == outcome


# --- for a cohort ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("patients", "outcome"), [(20, "permits"), (19, "refuses")])
def test_only_training_patients_count_and_their_number_is_not_told(
    hospital: Hospital, patients: int, outcome: str
) -> None:
    hospital.plan(said())
    hospital.freeze(patients=patients)
    assert hospital.outcomes("--dataset", "squares")["privacy.min_patients"] == outcome
    found = hospital.check("--dataset", "squares")
    assert found.status == (0 if outcome == "permits" else 1)
    assert not re.search(r"\b(19|24|29)\b", (found.out + found.err).replace(hospital.home.path.as_posix(), ""))


def test_with_a_data_set_nothing_is_left_open(hospital: Hospital) -> None:
    hospital.plan(said())
    hospital.freeze()
    assert set(hospital.outcomes("--dataset", "squares").values()) == {"permits"}


@pytest.mark.parametrize("dataset", ["none", "begun"])
def test_a_data_set_that_is_not_there_or_not_frozen_is_an_error(hospital: Hospital, dataset: str) -> None:
    hospital.plan(said())
    hospital.home.dataset("begun").begin(Choices())
    found = hospital.check("--dataset", dataset)
    assert (found.status, found.out) == (1, "")
    assert found.err.startswith("error: ")


def oracle(events: list[Event], delta: float) -> float:
    """Epsilon by another library's accountant, on the whole list at once."""
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3)
    for event in events:
        gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
        sampled = dp_accounting.PoissonSampledDpEvent(event.sampling_rate, gaussian)
        accountant.compose(sampled, event.steps)
    return float(accountant.get_epsilon(delta))


PAID = Event(1.5, 0.1, 30)


@pytest.mark.parametrize("split", SPLITS)
def test_a_cohort_s_budget_is_what_was_paid_and_what_the_plan_asks_of_the_split_that_pays_most(
    hospital: Hospital, split: Split
) -> None:
    plan = hospital.plan(said())
    cohort = hospital.freeze()
    hospital.pay(cohort, split, PAID)
    asked = {"train": [Event(2.0, 0.1, 20)]} | {
        one: list(events_of(plan, "north")[one]) for one in ("validation", "test")
    }
    most = max(oracle(asked[one] + [PAID] * (one == split), 1e-5) for one in SPLITS)
    for limit, outcome in ((1.03 * most, "permits"), (0.97 * most, "refuses")):
        hospital.policy(f"[privacy]\nmax_epsilon_per_cohort = {limit}")
        assert hospital.outcomes("--dataset", "squares")["privacy.max_epsilon_per_cohort"] == outcome


def test_statistics_cost_validation_and_test_patients_what_the_plan_promises() -> None:
    events = events_of(from_document(said()), "north")
    assert {split: sum(event.steps for event in of) for split, of in events.items()} == {
        "train": 20,
        "validation": 2,
        "test": 1,
    }
    for split in ("validation", "test"):
        assert 0.97 * 4 < oracle(list(events[split]), 1e-5) <= 4 * 1.001
    assert set(events_of(from_document(training_alone()), "north")) == {"train"}


def test_what_patients_paid_in_another_cohort_counts_for_their_lives_and_not_for_this_cohort(
    hospital: Hospital,
) -> None:
    hospital.plan(training_alone(noise_multiplier=4.0))
    earlier = hospital.freeze("earlier", first=19)
    hospital.pay(earlier, "train", PAID)
    strangers = hospital.freeze("strangers", first=500)
    hospital.pay(strangers, "train", Event(0.5, 1.0, 1))
    hospital.freeze("squares")
    own, lifetime = oracle([Event(4.0, 0.1, 20)], 1e-5), oracle([Event(4.0, 0.1, 20), PAID], 1e-5)
    assert own < 0.9 * lifetime, "the control"
    for limit, outcomes in (
        (1.03 * lifetime, ("permits", "permits")),
        (0.97 * lifetime, ("permits", "refuses")),
        (0.97 * own, ("refuses", "refuses")),
    ):
        hospital.policy(f"[privacy]\nmax_epsilon_per_cohort = {limit}\nmax_epsilon_lifetime = {limit}")
        found = hospital.outcomes("--dataset", "squares")
        assert (found["privacy.max_epsilon_per_cohort"], found["privacy.max_epsilon_lifetime"]) == outcomes


def test_epsilons_are_compared_at_the_policy_s_delta(hospital: Hospital) -> None:
    """A plan may promise at a smaller delta; at the policy's larger one the same noise costs less."""
    hospital.plan(training_alone(delta=1e-7))
    hospital.freeze()
    at = {delta: oracle([Event(2.0, 0.1, 20)], delta) for delta in (1e-5, 1e-7)}
    between = (at[1e-5] * at[1e-7]) ** 0.5
    for delta, outcome in ((1e-5, "permits"), (1e-7, "refuses")):
        hospital.policy(f"[privacy]\ndelta = {delta}\nmax_epsilon_per_cohort = {between}")
        assert hospital.outcomes("--dataset", "squares")["privacy.max_epsilon_per_cohort"] == outcome


def test_checking_writes_nothing(hospital: Hospital) -> None:
    plan = hospital.plan(said())
    hospital.freeze()
    before = contents(hospital.home.path)
    hospital.check()
    hospital.check("--dataset", "squares")
    check(hospital.home, plan, "squares")
    assert contents(hospital.home.path) == before
    assert "policy.toml" in before


# --- from images -----------------------------------------------------------------------------------------------------


def test_a_cohort_that_was_ingested_and_frozen_is_judged_by_its_own_patients(hospital: Hospital) -> None:
    """Eight patients are fewer than twenty, and no fewer than one."""
    words = write_hospital(hospital.folder / "source")
    where = ("--dataset", "real", "--site", hospital.home.path)
    assert site(hospital.capsys, "ingest", *words, *where).status == 0
    found = json.loads(site(hospital.capsys, "doctor", *where, "--json").out)["findings"]
    accepted = [word for one in found if one["severity"] == "error" for word in ("--accept-findings", one["code"])]
    assert site(hospital.capsys, "freeze", *where, *accepted).status == 0
    hospital.plan(said())
    assert hospital.outcomes("--dataset", "real")["privacy.min_patients"] == "refuses"
    hospital.policy("[privacy]\nmin_patients = 1")
    assert hospital.outcomes("--dataset", "real")["privacy.min_patients"] == "permits"
