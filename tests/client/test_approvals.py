"""Approving and withdrawing plans at a hospital with real keys, a real cohort and a real ledger."""

import dataclasses
import hashlib
import io
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deciding_hospital import DATASET, NOW, PILOT, PRIVATE, Hospital, plan_of
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from rich.console import Console
from safetensors.numpy import save
from small_trust import code_of

from client.commands import approve
from client.commands.approve import Offer, Wanted
from client.commands.approve_shown import document, shown
from client.data.cohort import files
from client.governance import approvals, audit
from client.governance.approvals import Approval
from client.governance.spending import CohortPatients
from client.workbench import Workbench
from shared.crypto.signing import SigningKey
from shared.errors import PolicyError
from shared.plan import Plan
from shared.privacy.terms import terms_for
from shared.trust.documents import seal


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


def offered(hospital: Hospital, plan: Plan, runs: int = 1) -> Offer:
    return approve.offered(hospital.site, Wanted(hospital.signed(plan), hospital.folder, DATASET, runs))


def approved(hospital: Hospital, plan: Plan, runs: int = 1, by: str = "maria") -> Approval:
    return approve.approve(hospital.site, offered(hospital, plan, runs), by, lambda: NOW)


def events(hospital: Hospital) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (hospital.site.path / "audit.jsonl").read_text().splitlines()]


def words(offer: Offer) -> str:
    said = io.StringIO()
    for part in shown(offer, 0):
        Console(width=200, file=said).print(part)
    return said.getvalue()


# --- approving -------------------------------------------------------------------------------------------------------


def test_an_approval_is_found_again_with_its_plan_cohort_and_runs(hospital: Hospital) -> None:
    plan = plan_of()
    made = approved(hospital, plan, runs=3)
    found = approvals.find(hospital.site, plan.digest())
    assert found == made
    assert (found.plan, found.dataset, found.runs) == (plan, DATASET, 3)
    assert found.cohort == files.current(hospital.site.dataset(DATASET).cohorts)
    assert found.folder == hospital.site.path / "approved" / plan.digest()


def test_no_folder_of_an_approval_is_open_to_others_whatever_the_users_mask_is(hospital: Hospital) -> None:
    """The doctor would call it an error of the hospital's."""
    before = os.umask(0o022)
    try:
        approved(hospital, plan_of())
    finally:
        os.umask(before)
    folder = hospital.site.path / "approved"
    found = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    assert len(found) > 1
    assert {path.stat().st_mode & 0o077 for path in found} == {0}


def test_an_approval_is_in_the_log_with_digests_runs_and_who(hospital: Hospital) -> None:
    plan = plan_of()
    made = approved(hospital, plan, runs=2)
    line = events(hospital)[-1]
    assert (line["event"], line["dataset"]) == ("approve", DATASET)
    assert line["counts"] == {"runs": 2, "number": 1, "by.maria": 1}
    assert line["digests"] == {"plan": plan.digest(), "cohort": made.cohort, "approval": made.paper.sha256()}
    assert audit.verify(hospital.site.path / "audit.jsonl", hospital.site.signing_key().verify_key).lines


def test_the_cases_are_prepared_before_the_approval_holds(hospital: Hospital) -> None:
    prepared = hospital.site.dataset(DATASET).prepared
    assert not prepared.exists()
    seen: list[tuple[int, int]] = []
    approve.approve(hospital.site, offered(hospital, plan_of()), "maria", lambda: NOW, lambda *at: seen.append(at))
    assert list(prepared.iterdir())
    assert seen[-1][0] == seen[-1][1] > 0


def test_what_cannot_be_prepared_is_not_approved(hospital: Hospital) -> None:
    plan = plan_of(data__train_fraction=0.6)
    offer = offered(hospital, plan)
    assert code_of(lambda: approve.approve(hospital.site, offer, "maria", lambda: NOW)) == "split-differs"
    assert code_of(lambda: approvals.find(hospital.site, plan.digest())) == "not-approved"
    assert approvals.listed(hospital.site) == ()


def test_a_plan_that_another_key_has_signed_is_not_even_shown(hospital: Hospital) -> None:
    pinned, hospital.lead = hospital.lead, SigningKey.generate()
    assert pinned != hospital.lead
    assert code_of(lambda: offered(hospital, plan_of())) == "signer"


@pytest.mark.parametrize("policy", ["", "[privacy]\nunsafe_allow_unprotected = true\n"], ids=["default", "patients"])
def test_a_plan_that_the_policy_refuses_is_not_offered(hospital: Hospital, policy: str) -> None:
    hospital.policy(policy)
    before = events(hospital)
    with pytest.raises(PolicyError, match=r"policy\.toml \["):
        offered(hospital, plan_of())
    assert events(hospital) == before
    assert not (hospital.site.path / "approved").exists()


def test_a_lead_that_the_policy_does_not_name_may_not_ask(hospital: Hospital) -> None:
    hospital.policy(f'{PILOT}[who]\nleads = ["{SigningKey.generate().verify_key.fingerprint()}"]\n')
    with pytest.raises(PolicyError, match="leads"):
        offered(hospital, plan_of())


def test_a_plan_altered_after_it_was_signed_is_refused(hospital: Hospital) -> None:
    content = hospital.signed(plan_of()).replace(b'\\"rounds\\":3', b'\\"rounds\\":9')
    assert content != hospital.signed(plan_of())
    wanted = Wanted(content, hospital.folder, DATASET)
    assert code_of(lambda: approve.offered(hospital.site, wanted)) == "signature-invalid"


@pytest.mark.parametrize("runs", [0, -1, approvals.MOST_RUNS + 1])
def test_no_runs_or_too_many_cannot_be_approved(hospital: Hospital, runs: int) -> None:
    assert code_of(lambda: offered(hospital, plan_of(), runs)) == "runs"


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_an_unprotected_plan_is_shown_as_one(hospital: Hospital) -> None:
    said = words(offered(hospital, plan_of()))
    assert "NO PROTECTION" in said
    assert "epsilon" not in said
    assert "exact counts about validation and test patients of this site alone" in said


def test_what_is_shown_follows_from_plan_cohort_and_roster(hospital: Hospital) -> None:
    plan = plan_of()
    offer = offered(hospital, plan, runs=2)
    said, told = words(offer), document(offer, 0)
    cohort = files.load(hospital.site.dataset(DATASET).cohorts, hospital.site.signing_key().verify_key)
    people = {split: len({m.patient for m in cohort.members if m.split == split}) for split in ("train", "test")}
    size = Workbench.for_plan(plan).initial_weights().size
    assert f"{people['train']} patients of squares" in said
    assert f"{people['test']} patient{'s' * (people['test'] != 1)} to test" in said
    assert f"{size:,} numbers of 32 bits" in said
    assert "3 rounds of 2 steps, in 2 runs" in said
    assert "2 sites: aachen, bergen" in said
    assert hospital.lead.verify_key.fingerprint() in said
    leaves = {"updates": 3, "bits": 32, "bytes": 4 * size, "release": "site", "measurements": 4, "own_model": False}
    assert told["leaves"] == leaves
    assert (told["cost"], told["sites"], told["runs"]) == (None, ["aachen", "bergen"], 2)


CROSSING = {
    "personalisation": {"steps": 2, "learning_rate": 0.01},
    "evaluation": {"every": 1, "release": "site", "cross_site": True},
}


def test_a_plan_that_shares_models_is_refused_by_a_policy_that_does_not_say_so(hospital: Hospital) -> None:
    with pytest.raises(PolicyError, match="unsafe_share_models = false refuses this plan"):
        offered(hospital, plan_of(**CROSSING))


def test_that_this_site_s_own_model_leaves_is_said_in_plain_words(hospital: Hospital) -> None:
    hospital.policy(f"{PILOT}unsafe_share_models = true\n")
    offer = offered(hospital, plan_of(**CROSSING))
    said = words(offer)
    assert "THIS SITE'S OWN MODEL" in said
    assert "all other sites" in said
    leaves = document(offer, 0)["leaves"]
    assert isinstance(leaves, dict)
    # Three rounds, the test, the own model, and the models of two sites.
    assert (leaves["own_model"], leaves["measurements"]) == (True, 7)
    assert "OWN MODEL" not in words(offered(hospital, plan_of()))


def epsilon_of(plan: Plan, rounds: int) -> float:
    """By Google's accountant, without ours."""
    terms = terms_for(plan, "aachen")
    event = PoissonSampledDpEvent(terms.sampling_rate, GaussianDpEvent(terms.noise_multiplier))
    steps = SelfComposedDpEvent(event, terms.steps_per_round * rounds)
    return float(PLDAccountant(value_discretization_interval=1e-3).compose(steps).get_epsilon(1e-5))


def test_the_cost_of_all_runs_is_what_an_independent_accountant_finds(hospital: Hospital) -> None:
    plan = plan_of(**PRIVATE)
    cost = offered(hospital, plan, runs=2).cost
    assert cost is not None
    assert (cost.before, cost.cap, cost.delta) == (0.0, 10.0, 1e-5)
    training = epsilon_of(plan, 2 * plan.plan.rounds)
    # Statistics are paid for by other patients, with noise that keeps the same epsilon for one run.
    assert cost.plan == cost.after >= training * 0.99
    assert cost.after < 2 * 4.0
    more = cost.rounds_left
    assert epsilon_of(plan, 6 + more) <= 10.0 * 1.01
    assert epsilon_of(plan, 6 + more + 1) > 10.0 * 0.99


def test_a_protected_plan_is_shown_with_its_cost_and_what_is_left(hospital: Hospital) -> None:
    offer = offered(hospital, plan_of(**PRIVATE))
    assert offer.cost is not None
    said = words(offer)
    assert "NO PROTECTION" not in said
    assert f"at most epsilon {offer.cost.plan:.4g} at delta 1e-05" in said
    assert f"{offer.cost.cap - offer.cost.after:.4g} would be left" in said
    assert ", with noise" in said


def test_runs_that_the_cap_does_not_allow_together_are_refused(hospital: Hospital) -> None:
    plan = plan_of(**PRIVATE)
    offered(hospital, plan, runs=1)
    with pytest.raises(PolicyError, match=r"20 runs of this plan would bring patients to epsilon .* the cap is 10"):
        offered(hospital, plan, runs=20)


# --- withdrawing -----------------------------------------------------------------------------------------------------


def test_a_withdrawn_plan_is_refused_at_once_and_that_is_in_the_log(hospital: Hospital) -> None:
    plan = plan_of()
    made = approved(hospital, plan)
    approvals.withdraw(hospital.site, plan.digest(), "jan", NOW)
    assert code_of(lambda: approvals.find(hospital.site, plan.digest())) == "withdrawn"
    line = events(hospital)[-1]
    assert (line["event"], line["counts"]) == ("withdraw", {"by.jan": 1})
    assert line["digests"] == {"plan": plan.digest(), "approval": made.paper.sha256()}
    assert [one.state for one in approvals.listed(hospital.site)] == ["withdrawn"]


def test_what_was_never_approved_or_is_withdrawn_cannot_be_withdrawn(hospital: Hospital) -> None:
    plan = plan_of()
    assert code_of(lambda: approvals.withdraw(hospital.site, plan.digest(), "jan", NOW)) == "not-approved"
    approved(hospital, plan)
    approvals.withdraw(hospital.site, plan.digest(), "jan", NOW)
    assert code_of(lambda: approvals.withdraw(hospital.site, plan.digest(), "jan", NOW)) == "withdrawn"


def test_approving_again_is_another_approval_and_earlier_runs_still_count(hospital: Hospital) -> None:
    plan = plan_of()
    first = approved(hospital, plan, runs=1)
    served = first.folder / "runs"
    served.mkdir()
    (served / "one.json").write_text("{}")
    approvals.withdraw(hospital.site, plan.digest(), "jan", NOW)
    again = approved(hospital, plan, runs=2)
    found = approvals.find(hospital.site, plan.digest())
    assert found == again
    assert (found.runs, found.paper.number) == (3, 2)
    assert [(one.served, one.runs, one.state) for one in approvals.listed(hospital.site)] == [(1, 3, "approved")]


def test_a_withdrawal_holds_although_the_log_cannot_be_written(hospital: Hospital, tmp_path: Path) -> None:
    """Sound when it begins, gone when the line is due: the site stays on the safe side."""
    plan = plan_of()
    made = approved(hospital, plan)
    site = dataclasses.replace(hospital.site)

    def sealed(*said: Any) -> bytes:
        (site.path / "audit.jsonl").rename(tmp_path / "gone")
        return seal(*said)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(approvals, "seal", sealed)
        assert code_of(lambda: approvals.withdraw(site, plan.digest(), "jan", NOW)) == "audit-missing"
    assert made.paper.plan == plan.digest()
    assert code_of(lambda: approvals.find(site, plan.digest())) == "withdrawn"


def test_without_a_sound_log_nothing_is_approved(hospital: Hospital) -> None:
    offer = offered(hospital, plan_of())
    (hospital.site.path / "audit.jsonl").unlink()
    assert code_of(lambda: approve.approve(hospital.site, offer, "maria", lambda: NOW)) == "audit-missing"
    assert not (hospital.site.path / "approved").exists()


# --- what somebody changes on the disk -------------------------------------------------------------------------------


def swapped(folder: Path) -> None:
    path = folder / "approval.json"
    path.write_bytes(path.read_bytes().replace(b'"runs":1', b'"runs":9'))


def foreign(folder: Path) -> None:
    said = json.loads((folder / "approval.json").read_bytes())["document"]
    paper = approvals.Paper.model_validate(said)
    (folder / "approval.json").write_bytes(seal(paper, SigningKey.generate()))


def emptied(folder: Path) -> None:
    (folder / "plan.json").write_bytes(b"")


def removed(folder: Path) -> None:
    (folder / "plan.json").unlink()


def torn(folder: Path) -> None:
    (folder / "withdrawal.json").write_bytes(b"{")


@pytest.mark.parametrize("change", [swapped, foreign, emptied, removed, torn], ids=lambda change: change.__name__)
def test_an_approval_that_was_changed_is_none(hospital: Hospital, change: Any) -> None:
    plan = plan_of()
    change(approved(hospital, plan).folder)
    assert code_of(lambda: approvals.find(hospital.site, plan.digest())) == "approval-damaged"


def test_the_approval_of_one_plan_is_none_of_another(hospital: Hospital) -> None:
    plan, other = plan_of(), plan_of(plan__rounds=2)
    made = approved(hospital, plan)
    folder = made.folder.with_name(other.digest())
    folder.mkdir()
    for path in made.folder.glob("*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    assert code_of(lambda: approvals.find(hospital.site, other.digest())) == "approval-damaged"


def test_another_plan_beside_an_approval_is_not_run(hospital: Hospital) -> None:
    plan = plan_of()
    made = approved(hospital, plan)
    (made.folder / "plan.json").write_bytes(hospital.signed(plan_of(plan__rounds=2)))
    assert code_of(lambda: approvals.find(hospital.site, plan.digest())) == "approval-damaged"


@pytest.mark.parametrize("digest", ["", "..", "../../etc", "A" * 64, "0" * 63, "0" * 64, "/" * 64])
def test_what_is_no_digest_or_unknown_was_approved_by_nobody(hospital: Hospital, digest: str) -> None:
    assert code_of(lambda: approvals.find(hospital.site, digest)) == "not-approved"
    assert not (hospital.site.path / "approved").exists()


def test_a_beginning_of_a_digest_names_a_plan_where_it_names_one(hospital: Hospital) -> None:
    plan = plan_of()
    approved(hospital, plan)
    assert approvals.named(hospital.site, plan.digest()[:8]) == plan.digest()
    for wrong in (plan.digest()[:7], "", "*", "0" * 8, plan.digest()[:8].upper() + "!"):
        assert code_of(lambda text=wrong: approvals.named(hospital.site, text)) == "not-approved"  # type: ignore[misc]


def test_approvals_are_for_the_owner_alone(hospital: Hospital) -> None:
    made = approved(hospital, plan_of())
    assert made.folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in made.folder.glob("*.json"))


# --- weights to start from -------------------------------------------------------------------------------------------


def with_weights(hospital: Hospital, name: str = "start.safetensors") -> tuple[Plan, bytes]:
    bench = Workbench.for_plan(plan_of())
    split = bench.parameters.split(bench.initial_weights() + np.float32(0.25))
    content = save({key: np.ascontiguousarray(value) for key, value in split.items()})
    (hospital.folder / "start.safetensors").write_bytes(content)
    said = {"file": name, "sha256": hashlib.sha256(content).hexdigest()}
    return plan_of(model={"name": "cnn", "channels": [4, 8], "norm": "group", "pretrained": said}), content


def test_weights_to_start_from_are_kept_with_the_approval(hospital: Hospital) -> None:
    plan, content = with_weights(hospital)
    made = approved(hospital, plan)
    (hospital.folder / "start.safetensors").unlink()
    assert (made.folder / "start.safetensors").read_bytes() == content
    started = Workbench.for_plan(plan, made.folder).initial_weights()
    np.testing.assert_allclose(started, Workbench.for_plan(plan_of()).initial_weights() + np.float32(0.25))


def test_other_weights_under_the_same_name_are_refused(hospital: Hospital) -> None:
    plan, content = with_weights(hospital)
    (hospital.folder / "start.safetensors").write_bytes(content[:-1] + b"\x01")
    assert code_of(lambda: offered(hospital, plan)) == "pretrained-file"
    (hospital.folder / "start.safetensors").unlink()
    assert code_of(lambda: offered(hospital, plan)) == "pretrained-file"


@pytest.mark.parametrize(
    "name",
    [
        "/etc/start.safetensors",
        "../start.safetensors",
        "a/../../start.safetensors",
        "approval.json",
        "a\\b.safetensors",
    ],
)
def test_weights_outside_the_plan_s_folder_or_in_place_of_a_document_are_refused(hospital: Hospital, name: str) -> None:
    plan, _ = with_weights(hospital, name)
    assert code_of(lambda: offered(hospital, plan)) == "weights-path"


# --- by the policy ---------------------------------------------------------------------------------------------------


def test_by_default_no_plan_is_approved_without_a_person(hospital: Hospital) -> None:
    for plan in (plan_of(), plan_of(**PRIVATE)):
        offer = offered(hospital, plan)
        assert code_of(lambda found=offer: approve.require_automatic(hospital.site, found)) == "not-automatic"  # type: ignore[misc]


def test_a_plan_up_to_the_policy_s_epsilon_needs_no_person_and_an_unprotected_one_always_does(
    hospital: Hospital,
) -> None:
    offer = offered(hospital, plan_of(**PRIVATE))
    assert offer.cost is not None
    for most, allowed in ((offer.cost.plan + 0.01, True), (offer.cost.plan - 0.01, False)):
        hospital.policy(f"{PILOT}[approval]\nauto_max_epsilon = {most}\n")
        if allowed:
            approve.require_automatic(hospital.site, offer)
            open_plan = offered(hospital, plan_of())
            assert code_of(lambda: approve.require_automatic(hospital.site, open_plan)) == "not-automatic"  # noqa: B023
        else:
            assert code_of(lambda: approve.require_automatic(hospital.site, offer)) == "not-automatic"


def test_exact_counts_under_a_protected_plan_need_a_person(hospital: Hospital) -> None:
    privacy = PRIVATE["privacy"] | {"covers": "training"}
    offer = offered(hospital, plan_of(**PRIVATE | {"privacy": privacy, "evaluation__release": "site"}))
    hospital.policy(f"{PILOT}[approval]\nauto_max_epsilon = 100.0\n")
    assert code_of(lambda: approve.require_automatic(hospital.site, offer)) == "not-automatic"


def test_a_cohort_frozen_since_is_another_approval(hospital: Hospital) -> None:
    """The approval names its cohort, whatever is current later."""
    plan = plan_of()
    made = approved(hospital, plan)
    folder = hospital.site.dataset(DATASET).cohorts
    cohort = files.load(folder, hospital.site.signing_key().verify_key)
    smaller = dataclasses.replace(cohort, members=cohort.members[1:], left_out=(cohort.members[0].case_id,))
    files.save(smaller, folder, hospital.site.signing_key())
    assert approvals.find(hospital.site, plan.digest()).cohort == made.cohort == CohortPatients.of(cohort).digest
    assert offered(hospital, plan).cohort == smaller.digest() != made.cohort


def test_approvals_are_listed_in_their_order(hospital: Hospital) -> None:
    for place in range(3):
        offer = offered(hospital, plan_of(plan__rounds=3 - place))
        approve.approve(hospital.site, offer, "maria", lambda at=NOW + timedelta(hours=place): at)  # type: ignore[misc]
    assert [one.at[11:13] for one in approvals.listed(hospital.site)] == ["12", "13", "14"]
