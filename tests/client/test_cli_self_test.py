"""``consilium-site self-test``: all checks, with and without a site, and ledgers that do not keep books."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from guarded_site import NOW, private_plan
from small_hospitals import Said, document
from small_ledger import sha
from small_site import site, write_hospital

from client.commands import ledger_checks
from client.commands import self_test as command
from client.commands.ledger_checks import MADE_UP, LedgerTrial, one_round_till
from client.commands.self_test import Bars, Order
from client.data.progress import silent
from client.governance import audit
from client.governance.paid import Till
from client.governance.spending import Claim
from client.site_folder import LEDGER, SiteFolder
from client.training import self_test
from client.training.self_test import Check
from client.workbench import Workbench
from shared.errors import ModelError, PlanError
from shared.plan import load
from shared.privacy.accounting import Cap, epsilon
from shared.privacy.events import Event
from shared.privacy.terms import terms_for

Capsys = pytest.CaptureFixture[str]
LEDGER_CHECKS = ["reserved", "empty-draw", "replay", "overspend"]
PRIVACY: dict[str, Any] = {
    "unit": "patient",
    "epsilon": 8.0,
    "delta": 1e-5,
    "clip_norm": 0.5,
    "public_patients": {"aachen": 4, "north": 4},
}


def write_plan(folder: Path, **changes: Any) -> Path:
    """The small scenario's plan with privacy."""
    said = {name: section for name, section in document(**changes).items() if name != "scenario"}
    if "privacy__unit" not in changes:
        said["privacy"] = PRIVACY | {key[9:]: value for key, value in changes.items() if key.startswith("privacy__")}
        said["evaluation"] = {"every": 1, "release": "dp"}
    path = folder / "plan.toml"
    path.write_text(tomli_w.dumps(said))
    return path


def names() -> list[str]:
    return [*self_test.CHECKS, "untouched", "canary", *LEDGER_CHECKS]


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_machine_without_a_site_is_tested_by_every_check(capsys: Capsys, tmp_path: Path) -> None:
    said = site(capsys, "self-test", write_plan(tmp_path))
    assert (said.status, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0].split() == ["check", "verdict", "found"]
    assert [line.split()[0] for line in lines[1:]] == names()
    assert [line.split()[1] for line in lines[1:]] == ["passed"] * len(names())
    assert not (tmp_path / LEDGER).exists(), "the ledger on trial was elsewhere"
    assert [path.name for path in tmp_path.iterdir()] == ["plan.toml"]


def test_programs_get_the_same_as_json(capsys: Capsys, tmp_path: Path) -> None:
    said = site(capsys, "self-test", write_plan(tmp_path), "--json")
    found = json.loads(said.out)
    assert [one["name"] for one in found] == names()
    assert all(one["passed"] is True for one in found)
    assert all(set(one) == {"name", "passed", "said"} for one in found)


def test_a_check_that_fails_is_named_and_ends_with_status_1(
    capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(self_test.CHECKS, "bound", lambda _subject: (False, "one patient moves the sum by 3"))
    said = site(capsys, "self-test", write_plan(tmp_path))
    assert said.status == 1
    assert said.out.splitlines()[1].rstrip().split(maxsplit=2) == ["bound", "FAILED", "one patient moves the sum by 3"]
    assert said.err.startswith(f"error: 1 of {len(names())} checks failed: bound\nhint:  do not train")
    as_json = site(capsys, "self-test", write_plan(tmp_path), "--json")
    assert as_json.status == 1
    assert [one["name"] for one in json.loads(as_json.out) if not one["passed"]] == ["bound"]


def test_a_plan_that_promises_nothing_is_refused_before_anything_is_set_up(capsys: Capsys, tmp_path: Path) -> None:
    plan = write_plan(tmp_path, privacy__unit="none", model__name="no-such-network")
    said = site(capsys, "self-test", plan)
    assert (said.status, said.out) == (1, "")
    assert said.err == (
        'error: the plan says privacy.unit = "none": it promises nothing that could be tested\n'
        'hint:  test a plan with privacy.unit = "patient"\n'
    )


def test_a_network_that_cannot_be_trained_in_private_is_an_error_and_no_verdict(capsys: Capsys, tmp_path: Path) -> None:
    said = site(capsys, "self-test", write_plan(tmp_path, model__dropout=0.5))
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("error: ")
    assert "dropout" in said.err


def test_its_help_fits_on_one_screen(capsys: Capsys) -> None:
    said = site(capsys, "self-test", "--help")
    lines = said.out.splitlines()
    assert said.status == 0
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert lines[0].endswith("consilium-site self-test [OPTIONS] PLAN")


# --- at a site -------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(capsys: Capsys, tmp_path: Path) -> Path:
    path = tmp_path / "site"
    assert site(capsys, "init", path, "--name", "north").status == 0
    return path


def events(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / "audit.jsonl").read_text().splitlines()]


def test_a_site_notes_in_its_audit_log_how_it_went_and_its_own_ledger_stays_as_it_was(
    capsys: Capsys, tmp_path: Path, home: Path
) -> None:
    plan, before = write_plan(tmp_path), (home / LEDGER).read_bytes()
    said = site(capsys, "self-test", plan, "--site", home)
    assert (said.status, said.err) == (0, "")
    noted = events(home)[-1]
    assert noted["event"] == "self-test"
    assert noted["counts"] == {"checks": len(names()), "failed": 0}
    assert noted["digests"] == {"plan": load(plan).digest()}
    assert (home / LEDGER).read_bytes() == before
    opened = SiteFolder.open(home)
    assert audit.verify(home / "audit.jsonl", opened.signing_key().verify_key).lines == len(events(home))


def test_a_failure_is_noted_too(capsys: Capsys, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(self_test.CHECKS, "bound", lambda _subject: (False, "wrong"))
    monkeypatch.setitem(ledger_checks.CHECKS, "replay", lambda _trial: (False, "wrong"))
    said = site(capsys, "self-test", write_plan(tmp_path), "--site", home)
    assert said.status == 1
    assert f"2 of {len(names())} checks failed: bound, replay" in said.err
    assert events(home)[-1]["counts"]["failed"] == 2


def test_a_site_that_the_plan_gives_no_public_number_is_told_so(capsys: Capsys, tmp_path: Path, home: Path) -> None:
    plan = write_plan(tmp_path, privacy__public_patients={"aachen": 4})
    said = site(capsys, "self-test", plan, "--site", home)
    assert said.status == 1
    assert "privacy.public_patients says no number for the site north" in said.err
    assert events(home)[-1]["event"] == "init", "nothing was tested, so nothing is noted"


def test_a_frozen_cohort_pays_in_the_ledger_on_trial(capsys: Capsys, tmp_path: Path, home: Path) -> None:
    words = write_hospital(tmp_path / "source")
    assert site(capsys, "ingest", *words, "--dataset", "squares", "--site", home).status == 0
    missing = site(capsys, "self-test", write_plan(tmp_path), "--dataset", "squares", "--site", home)
    assert missing.status == 1, "the control: there is no cohort yet"
    site(capsys, "doctor", "--dataset", "squares", "--site", home)
    frozen = site(capsys, "freeze", "--dataset", "squares", "--site", home)
    assert frozen.status == 0, frozen.err
    said: Said = site(capsys, "self-test", write_plan(tmp_path), "--dataset", "squares", "--site", home)
    assert said.status == 0, said.err
    assert events(home)[-1]["dataset"] == "squares"


def test_a_data_set_needs_a_site(capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = write_plan(tmp_path)
    monkeypatch.chdir(tmp_path)
    said = site(capsys, "self-test", plan, "--dataset", "squares")
    assert (said.status, said.out) == (1, "")
    assert "is no site folder" in said.err


# --- the function ----------------------------------------------------------------------------------------------------


def test_progress_counts_every_check_to_the_end(tmp_path: Path) -> None:
    moved: list[tuple[int, int]] = []
    order = Order(load(write_plan(tmp_path)), tmp_path)
    found = command.self_test(order, Bars(lambda done, total: moved.append((done, total)), silent), lambda: NOW)
    assert moved == [(place, len(names())) for place in range(len(names()) + 1)]
    assert len(found) == len(names())


def test_one_failed_check_among_many_is_an_error_and_none_is_not() -> None:
    good, bad = Check("a", True, "fine"), Check("b", False, "not fine")
    command.require_passed([good, good])
    with pytest.raises(ModelError, match="1 of 3 checks failed: b") as refused:
        command.require_passed([good, bad, good])
    assert refused.value.code == "self-test"


def test_a_plan_without_privacy_has_a_code(tmp_path: Path) -> None:
    plan = write_plan(tmp_path, privacy__unit="none")
    with pytest.raises(PlanError) as refused:
        command.self_test(Order(load(plan), tmp_path), Bars(silent, silent), lambda: NOW)
    assert refused.value.code == "no-privacy"


# --- ledgers that do not keep books ----------------------------------------------------------------------------------


class Forgetful(Till):
    """Keeps no reply: whoever asks again gets another draw of noise."""

    def answer_once(self, claim: Claim, event: Event, compute: Callable[[], bytes]) -> bytes:
        granted, answer = self.ledger.reserve(claim, event, self.cap, self.now()), compute()
        if granted.reply is None:
            self.ledger.release(granted.number, sha(answer), self.now())
        return answer


class Late(Till):
    """Computes first and pays afterwards."""

    def answer_once(self, claim: Claim, event: Event, compute: Callable[[], bytes]) -> bytes:
        answer = compute()
        return Till.answer_once(self, claim, event, lambda: answer)


class Free(Till):
    """Never charges."""

    def answer_once(self, claim: Claim, event: Event, compute: Callable[[], bytes]) -> bytes:  # noqa: ARG002
        return compute()


class Cheap(Till):
    """Charges for one step, whatever is asked."""

    def answer_once(self, claim: Claim, event: Event, compute: Callable[[], bytes]) -> bytes:
        return Till.answer_once(self, claim, replace(event, steps=1), compute)


class Generous(Till):
    """Knows no cap."""

    def answer_once(self, claim: Claim, event: Event, compute: Callable[[], bytes]) -> bytes:
        return Till(self.ledger, self.replies, Cap(1e9, 1e-5), self.now).answer_once(claim, event, compute)


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench.for_plan(private_plan())


def tried(bench: Workbench, folder: Path, kind: type[Till]) -> dict[str, Check]:
    """What the checks say about a till of this kind."""
    right = one_round_till(bench.plan, "aachen", MADE_UP, folder, lambda: NOW)
    till = kind(right.ledger, right.replies, right.cap, right.now)
    weights = Workbench.for_plan(bench.plan).initial_weights()
    return {one.name: one for one in ledger_checks.run(LedgerTrial("aachen", bench, MADE_UP, till, weights))}


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (Till, set()),
        (Forgetful, {"replay"}),
        (Late, {"reserved"}),
        (Free, {"reserved", "empty-draw", "replay", "overspend"}),
        (Cheap, {"empty-draw", "replay", "overspend"}),
        (Generous, {"overspend"}),
    ],
    ids=["right", "forgetful", "late", "free", "cheap", "generous"],
)
def test_each_way_to_keep_wrong_books_is_found_by_its_checks(
    bench: Workbench, tmp_path: Path, kind: type[Till], found: set[str]
) -> None:
    said = tried(bench, tmp_path, kind)
    assert list(said) == LEDGER_CHECKS
    assert {name for name, check in said.items() if not check.passed} == found


def test_what_is_found_is_said(bench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "right").mkdir()
    (tmp_path / "free").mkdir()
    right, free = (tried(bench, tmp_path / name, kind) for name, kind in (("right", Till), ("free", Free)))
    steps = bench.plan.training.steps
    assert right["reserved"].said == "the ledger held 1 events while one was computed, and 1 after the computation died"
    assert right["empty-draw"].said == f"a round without anybody was charged with {steps} steps"
    assert right["replay"].said == "the reply is the same, the charge is the same, and other weights are refused"
    assert right["overspend"].said == "a second round is refused where one may be paid for"
    assert "held 0 events" in free["reserved"].said
    assert "charged with 0 steps" in free["empty-draw"].said
    assert free["replay"].said == "the reply differs, the charge differs, and other weights are answered"
    assert free["overspend"].said == "a second round is answered where one may be paid for"


def test_the_till_on_trial_can_pay_for_one_round_of_the_plan_and_not_for_two(bench: Workbench, tmp_path: Path) -> None:
    till = one_round_till(bench.plan, "aachen", MADE_UP, tmp_path, lambda: NOW)
    event = terms_for(bench.plan, "aachen").round_event()
    assert till.cap.delta == bench.plan.privacy.delta
    assert 0 < epsilon([event], till.cap.delta) <= till.cap.epsilon < epsilon([event, event], till.cap.delta)
    assert [one.dataset for one in till.ledger.cohorts()] == ["self-test"]
