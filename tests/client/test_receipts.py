"""Receipts: one line for each message that leaves, with what it is and what it cost, and no way to fill the disk."""

import hashlib
import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from deciding_hospital import DATASET, NOW, PILOT, PRIVATE, RUN, SHARED, SHARING, Hospital, measure, plan_of, train
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from small_trust import code_of
from summed import key_of

from client.commands import approve
from client.commands.approve import Wanted
from client.custodian.desk import Asked
from client.custodian.wiring import Custodian, custodian
from client.governance import approvals, receipts
from client.governance.audit import verify
from client.governance.audit_export import export, written
from client.governance.receipts import Allowance
from client.secure.party import Identity, Party
from client.secure.released import Remembered
from server.secure.round import SumRound
from shared.messages import (
    Confirm,
    Deal,
    Envelope,
    Evaluate,
    Hello,
    Mask,
    Personalise,
    Refusal,
    Unmask,
    Update,
    Welcome,
)
from shared.parcels import Parcel
from shared.privacy.terms import statistics_terms, terms_for
from shared.secure import threshold
from shared.secure.context import Context
from shared.secure.entropy import seeded
from shared.secure.held import Held, Shape
from shared.secure.papers import Confirmation, Dealing, Offer, Offers, Revelation
from shared.trust.orders import open_order

HOUR = timedelta(hours=1)


class Desk:
    """A custodian of a hospital that approved a plan, and a clock that a test may turn."""

    def __init__(self, folder: Any, policy: str = PILOT, **changes: Any) -> None:
        self.hospital, self.plan, self.now = Hospital(folder), plan_of(**changes), NOW
        self.hospital.policy(policy)
        wanted = Wanted(self.hospital.signed(self.plan), folder, DATASET, 3)
        offer = approve.offered(self.hospital.site, wanted)
        approve.approve(self.hospital.site, offer, "maria", lambda: NOW)
        self.custodian: Custodian = custodian(self.hospital.site, lambda: self.now)

    def ask(self, request: Any) -> tuple[Any, Parcel]:
        parcel = self.hospital.parcel(self.plan, request)
        reply = self.custodian.answer(parcel)
        return self.hospital.read(reply, parcel), reply

    def lines(self, *events: str) -> list[dict[str, Any]]:
        said = map(json.loads, (self.hospital.site.path / "audit.jsonl").read_text().splitlines())
        return [one for one in said if one["event"] in events]

    def asked(self, request: Any) -> Asked:
        order = open_order(self.hospital.order(self.plan), self.hospital.lead.verify_key)
        return Asked(order, request, "ab" * 32)


def google(steps: int, rate: float, noise: float) -> float:
    event = SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), steps)
    return float(PLDAccountant(value_discretization_interval=1e-3).compose(event).get_epsilon(1e-5))


# --- what leaves -----------------------------------------------------------------------------------------------------


def test_an_update_has_a_line_with_its_digest_size_plan_run_and_round(tmp_path: Any) -> None:
    desk = Desk(tmp_path)
    update, reply = desk.ask(train(desk.plan, 2))
    assert isinstance(update, Update)
    (line,) = desk.lines("leaves-update")
    assert line["dataset"] == DATASET
    assert line["counts"] == {
        "round": 2,
        "bytes": len(reply.body),
        "tensors": 1,
        "values": update.values.size,
        "bits": 32,
    }
    said = line["digests"]
    assert said["message"] == hashlib.sha256(reply.body).hexdigest()
    assert (said["plan"], said["run"]) == (desk.plan.digest(), RUN)
    assert said["cohort"] == approvals.find(desk.hospital.site, desk.plan.digest()).cohort
    assert "figures" not in line, "without privacy there is no figure to give"
    assert verify(desk.hospital.site.path / "audit.jsonl", desk.hospital.site.signing_key().verify_key).lines


def test_the_receipt_names_the_request_that_was_answered(tmp_path: Any) -> None:
    desk = Desk(tmp_path)
    parcel = desk.hospital.parcel(desk.plan, train(desk.plan))
    desk.custodian.answer(parcel)
    assert desk.lines("leaves-update")[0]["digests"]["request"] == hashlib.sha256(parcel.body).hexdigest()


def test_a_welcome_and_measurements_have_lines_of_their_own(tmp_path: Any) -> None:
    desk = Desk(tmp_path)
    welcome, _ = desk.ask(Hello(Envelope(RUN, desk.plan.digest(), 0)))
    assert isinstance(welcome, Welcome)
    measured, _ = desk.ask(measure(desk.plan, "validation", 1))
    (line,) = desk.lines("leaves-welcome")
    assert (line["counts"]["round"], line["counts"]["tensors"]) == (0, 0)
    (line,) = desk.lines("leaves-measured")
    assert (line["counts"]["split.validation"], line["counts"]["values"]) == (1, measured.counts.size)


def test_a_private_update_says_noise_clip_and_what_was_paid_so_far(tmp_path: Any) -> None:
    desk = Desk(tmp_path, **PRIVATE)
    for number in (1, 2):
        assert isinstance(desk.ask(train(desk.plan, number))[0], Update)
    terms = terms_for(desk.plan, "aachen")
    lines = desk.lines("leaves-update")
    for number, line in enumerate(lines, start=1):
        figures = line["figures"]
        assert (figures["noise_multiplier"], figures["clip_norm"]) == (terms.noise_multiplier, 0.5)
        assert figures["delta"] == 1e-5
        expected = google(number * terms.steps_per_round, terms.sampling_rate, terms.noise_multiplier)
        assert figures["epsilon"] == pytest.approx(expected, rel=0.01)
    assert lines[0]["figures"]["epsilon"] < lines[1]["figures"]["epsilon"]


def test_private_statistics_say_their_own_noise_and_their_own_patients_cost(tmp_path: Any) -> None:
    desk = Desk(tmp_path, **PRIVATE)
    desk.ask(measure(desk.plan, "test", 3))
    (line,) = desk.lines("leaves-measured")
    terms = statistics_terms(desk.plan, "test")
    assert line["figures"]["noise_multiplier"] == terms.noise_multiplier
    assert "clip_norm" not in line["figures"]
    assert line["figures"]["epsilon"] == pytest.approx(google(1, 1.0, terms.noise_multiplier), rel=0.01)


SECURE: dict[str, Any] = {
    "aggregation": {"weights": "equal", "fixed_point": {"bits": 24}},
    "evaluation": {"every": 1, "release": "sum"},
    "secure_aggregation": {"enabled": True},
}


class Sum:
    """A sum of two: the hospital through its custodian, and bergen as a party in memory."""

    def __init__(self, desk: Desk, question: Any) -> None:
        self.desk, self.question = desk, question
        self.about: Any = question.split if isinstance(question, Evaluate) else "train"
        keys = {"aachen": desk.hospital.site.signing_key(), "bergen": desk.hospital.neighbour.key}
        self.members = {name: key.verify_key for name, key in keys.items()}

    def step(self, kind: Any, paper: Any) -> Any:
        content = np.frombuffer(paper.to_bytes(), np.uint8)
        return self.desk.ask(kind(self.question.envelope, self.about, content))[0]

    def run(self) -> Any:
        """All steps; gives the unmasked sum."""
        asked, desk = self.question.envelope, self.desk
        context = Context(asked.plan_digest, asked.run, asked.round, self.about)
        own = Offer.from_bytes(desk.ask(self.question)[0].content.tobytes())
        rule = threshold.rule(desk.plan.secure_aggregation, desk.plan.participation.quorum)
        sums = SumRound(context, rule, self.members, Shape.of(own))
        zeros = Held(
            np.zeros(own.values, np.int32), np.zeros(own.counts, np.int64), own.weight, own.peak, own.definition
        )
        identity = Identity("bergen", desk.hospital.neighbour.key)
        other = Party(identity, lambda: self.members, rule, Remembered(), seeded(b"bergen"))
        sums.offer("aachen", own)
        sums.offer("bergen", other.offer(context, zeros))
        sums.dealt("aachen", Dealing.from_bytes(self.step(Deal, sums.offers()).content.tobytes()))
        sums.dealt("bergen", other.deal(context, sums.offers()))
        for site, masked in (
            ("aachen", lambda: self.step(Mask, sums.received("aachen"))),
            ("bergen", lambda: other.mask(context, sums.received("bergen"))),
        ):
            sums.masked(site, masked())
        sums.confirmed("aachen", Confirmation.from_bytes(self.step(Confirm, sums.survivors()).content.tobytes()))
        sums.confirmed("bergen", other.confirm(context, sums.survivors()))
        sums.revealed("aachen", Revelation.from_bytes(self.step(Unmask, sums.unmasking()).content.tobytes()))
        sums.revealed("bergen", other.unmask(context, sums.unmasking()))
        return sums.total()


LEAVES = ("offered", "dealt", "masked", "confirmed", "revealed")


def test_each_step_of_a_sum_has_a_line_and_masked_numbers_are_counted_where_they_leave(tmp_path: Any) -> None:
    desk = Desk(tmp_path, **SECURE)
    summed = Sum(desk, train(desk.plan)).run()
    (lines,) = zip(*(desk.lines(f"leaves-{name}") for name in LEAVES), strict=True)
    assert [line["event"] for line in lines] == [f"leaves-{name}" for name in LEAVES]
    for line in lines:
        assert line["counts"]["round"] == 1
        assert line["counts"]["tensors"] == (1 if line["event"] == "leaves-masked" else 0)
        assert line["digests"]["run"] == RUN
        assert not [name for name in line["counts"] if name.startswith("split.")]
        assert "figures" not in line
    assert lines[2]["counts"]["values"] == summed.values.size + summed.counts.size
    assert lines[2]["counts"]["bits"] == 25, "two answers of 24 bits"
    assert desk.lines("leaves-update") == desk.lines("leaves-measured") == []


def test_statistics_under_masks_say_of_whose_patients_they_are_at_every_step(tmp_path: Any) -> None:
    desk = Desk(tmp_path, **SECURE)
    assert Sum(desk, measure(desk.plan, "validation", 1)).run().counts.size
    for name in LEAVES:
        (line,) = desk.lines(f"leaves-{name}")
        assert line["counts"]["split.validation"] == 1


def test_noise_is_said_where_noised_numbers_leave_and_nowhere_else(tmp_path: Any) -> None:
    desk = Desk(tmp_path, **(PRIVATE | SECURE | {"evaluation": {"every": 1, "release": "dp"}}))
    Sum(desk, train(desk.plan)).run()
    terms = terms_for(desk.plan, "aachen")
    (line,) = desk.lines("leaves-masked")
    assert (line["figures"]["noise_multiplier"], line["figures"]["clip_norm"]) == (terms.noise_multiplier, 0.5)
    expected = google(terms.steps_per_round, terms.sampling_rate, terms.noise_multiplier)
    assert line["figures"]["epsilon"] == pytest.approx(expected, rel=0.01)
    for name in ("dealt", "confirmed", "revealed"):
        (line,) = desk.lines(f"leaves-{name}")
        assert "figures" not in line


def test_where_sites_share_the_noise_a_receipt_says_also_what_is_left_if_all_others_collude(tmp_path: Any) -> None:
    """Two honest sites: this one's part has the noise over the root of two, and Google's accountant is asked for it."""
    desk = Desk(tmp_path, SHARING, **SHARED)
    for number in (1, 2):
        Sum(desk, train(desk.plan, number)).run()
    terms = terms_for(desk.plan, "aachen")
    lines = desk.lines("leaves-masked")
    for number, line in enumerate(lines, start=1):
        figures = line["figures"]
        assert set(figures) == {"noise_multiplier", "clip_norm", "alone", "delta", "epsilon", "epsilon_alone"}
        assert figures["noise_multiplier"] == terms.noise_multiplier
        assert figures["alone"] == pytest.approx(terms.noise_multiplier / math.sqrt(2))
        assert figures["epsilon"] == pytest.approx(google(number, 0.5, terms.noise_multiplier), rel=0.01)
        expected = google(number, 0.5, terms.noise_multiplier / math.sqrt(2))
        assert figures["epsilon_alone"] == pytest.approx(expected, rel=0.01)
    assert lines[0]["figures"]["epsilon_alone"] < lines[1]["figures"]["epsilon_alone"]


def test_own_noise_and_statistics_have_no_figure_for_the_worst_case(tmp_path: Any) -> None:
    """The control: of training patients alone is the noise shared, and only where the plan says so."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "own").mkdir()
    shared = Desk(tmp_path / "shared", SHARING, **SHARED)
    Sum(shared, measure(shared.plan, "test", 3)).run()
    own = Desk(tmp_path / "own", **(PRIVATE | SECURE | {"evaluation": {"every": 1, "release": "dp"}}))
    Sum(own, train(own.plan)).run()
    for desk in (shared, own):
        (line,) = desk.lines("leaves-masked")
        assert not {"alone", "epsilon_alone"} & set(line["figures"])


def test_who_once_shared_noise_reads_the_worst_case_on_every_later_receipt(tmp_path: Any) -> None:
    """A round of shared noise, and then one of a plan with own noise on the same patients."""
    desk = Desk(tmp_path, SHARING, **SHARED)
    Sum(desk, train(desk.plan)).run()
    part = terms_for(desk.plan, "aachen").noise_multiplier / math.sqrt(2)
    desk.plan = plan_of(**PRIVATE)
    wanted = Wanted(desk.hospital.signed(desk.plan), tmp_path, DATASET, 1)
    approve.approve(desk.hospital.site, approve.offered(desk.hospital.site, wanted), "maria", lambda: NOW)
    assert isinstance(desk.ask(train(desk.plan, run="cd" * 16))[0], Update)
    figures = desk.lines("leaves-update")[0]["figures"]
    assert "alone" not in figures, "this noise is all its own"
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for steps, noise in ((1, part), (2, terms_for(desk.plan, "aachen").noise_multiplier)):
        accountant.compose(SelfComposedDpEvent(PoissonSampledDpEvent(0.5, GaussianDpEvent(noise)), steps))
    assert figures["epsilon_alone"] == pytest.approx(accountant.get_epsilon(1e-5), rel=0.01)
    assert figures["epsilon_alone"] > figures["epsilon"]


def test_the_officer_s_copy_of_the_log_holds_both_figures(tmp_path: Any) -> None:
    desk = Desk(tmp_path, SHARING, **SHARED)
    Sum(desk, train(desk.plan)).run()
    figures = desk.lines("leaves-masked")[0]["figures"]
    site = desk.hospital.site
    found = export(site.path / "audit.jsonl", "aachen", site.signing_key().verify_key, None, NOW)
    for form in ("text", "csv"):
        text = written(found, form).decode()
        assert f"alone={figures['alone']:.6g} " in text
        assert f"epsilon_alone={figures['epsilon_alone']:.6g}" in text


def test_noised_statistics_under_masks_say_their_own_noise(tmp_path: Any) -> None:
    desk = Desk(tmp_path, **(PRIVATE | SECURE | {"evaluation": {"every": 1, "release": "dp"}}))
    Sum(desk, measure(desk.plan, "test", 3)).run()
    (line,) = desk.lines("leaves-masked")
    terms = statistics_terms(desk.plan, "test")
    assert line["figures"]["noise_multiplier"] == terms.noise_multiplier
    assert "clip_norm" not in line["figures"]
    assert line["figures"]["epsilon"] == pytest.approx(google(1, 1.0, terms.noise_multiplier), rel=0.01)


def test_a_step_that_is_refused_has_its_own_line(tmp_path: Any) -> None:
    desk = Desk(tmp_path, **SECURE)
    asked = measure(desk.plan, "test", 3).envelope
    refused, _ = desk.ask(Unmask(asked, "test", np.zeros(2, np.uint8)))
    assert isinstance(refused, Refusal)
    (line,) = desk.lines("refused-unmask")
    assert line["counts"] == {f"code.{refused.code}": 1, "round": 3, "split.test": 1}


def test_masks_are_agreed_on_with_the_sites_of_the_roster_and_with_no_stranger(tmp_path: Any) -> None:
    desk = Desk(tmp_path, **SECURE)
    context = Context(desk.plan.digest(), RUN, 1, "train")
    own = Offer.from_bytes(desk.ask(train(desk.plan))[0].content.tobytes())
    held = Held(np.zeros(own.values, np.int32), np.zeros(own.counts, np.int64), own.weight, own.peak, own.definition)
    rule = threshold.rule(desk.plan.secure_aggregation, desk.plan.participation.quorum)
    zagreb = Party(Identity("zagreb", key_of("zagreb")), dict, rule, Remembered(), seeded(b"z")).offer(context, held)
    refused = Sum(desk, train(desk.plan)).step(Deal, Offers(bits=25, offers=(own, zagreb)))
    assert isinstance(refused, Refusal)
    assert refused.code == "offer-unknown-site"


def test_what_is_withdrawn_before_it_leaves_does_not_leave(tmp_path: Any) -> None:
    desk = Desk(tmp_path)
    request, site = train(desk.plan), desk.hospital.site
    opened = desk.custodian.sites.warm.opened

    def withdrawing(approval: Any) -> Any:
        found = opened(approval)
        approvals.withdraw(site, desk.plan.digest(), "jan", NOW)
        return found

    desk.custodian.sites.warm.opened = withdrawing  # type: ignore[assignment, method-assign]
    assert code_of(lambda: desk.custodian.answer(desk.hospital.parcel(desk.plan, request))) == "withdrawn"
    assert desk.lines("leaves-update") == []
    assert [line["counts"]["code.withdrawn"] for line in desk.lines("refused-train")] == [1]


# --- who is refused --------------------------------------------------------------------------------------------------


def test_a_refusal_has_its_code_round_and_run(tmp_path: Any) -> None:
    desk = Desk(tmp_path)
    refused, _ = desk.ask(Personalise(Envelope(RUN, desk.plan.digest(), 9), train(desk.plan).weights, "test"))
    assert isinstance(refused, Refusal)
    (line,) = desk.lines("refused-personalise")
    assert line["counts"] == {f"code.{refused.code}": 1, "round": 9, "split.test": 1}
    assert line["digests"]["run"] == RUN


def test_whoever_proves_nothing_is_written_down_by_code_alone(tmp_path: Any) -> None:
    desk = Desk(tmp_path)
    reply = desk.custodian.answer(Parcel("aachen", b"hello", b"", b"not an order"))
    assert reply.signature
    (line,) = desk.lines("refused-unproved")
    assert line["counts"] == {"code.document-form": 1}
    assert line["digests"] == {}


def test_a_hostile_relay_cannot_fill_the_log(tmp_path: Any) -> None:
    desk, more = Desk(tmp_path), 40
    for _ in range(receipts.UNPROVED + more):
        desk.custodian.answer(Parcel("aachen", b"", b"", b"{}"))
    assert len(desk.lines("refused-unproved")) == receipts.UNPROVED
    assert desk.lines("refused-more") == []
    desk.now = NOW + HOUR
    desk.custodian.answer(Parcel("aachen", b"", b"", b"{}"))
    assert [line["counts"] for line in desk.lines("refused-more")] == [{"refusals": more}]
    assert len(desk.lines("refused-unproved")) == receipts.UNPROVED + 1


def test_what_was_counted_is_written_down_at_the_end(tmp_path: Any) -> None:
    desk = Desk(tmp_path)
    for _ in range(receipts.UNPROVED + 3):
        desk.custodian.receipts.refused(None, "format")
    for _ in range(2):
        desk.custodian.receipts.close()
    assert [line["counts"] for line in desk.lines("refused-more")] == [{"refusals": 3}]


def test_strangers_do_not_use_up_the_lines_of_those_who_are_known(tmp_path: Any) -> None:
    desk = Desk(tmp_path)
    for _ in range(receipts.UNPROVED + 1):
        desk.custodian.receipts.refused(None, "format")
    desk.custodian.receipts.refused(desk.asked(train(desk.plan)), "budget")
    assert len(desk.lines("refused-train")) == 1


def test_a_proved_request_that_is_repeated_for_ever_is_counted_too(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(receipts, "PROVED", 5)
    desk = Desk(tmp_path)
    asked = desk.asked(train(desk.plan))
    for _ in range(9):
        desk.custodian.receipts.refused(asked, "budget")
    desk.custodian.receipts.close()
    assert len(desk.lines("refused-train")) == 5
    assert desk.lines("refused-more")[0]["counts"] == {"refusals": 4}


def test_more_messages_than_any_run_needs_do_not_leave(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(receipts, "ANSWERS", 2)
    desk = Desk(tmp_path)
    hello = Hello(Envelope(RUN, desk.plan.digest(), 0))
    for _ in range(2):
        assert isinstance(desk.ask(hello)[0], Welcome)
    assert code_of(lambda: desk.ask(hello)) == "too-many-answers"
    assert len(desk.lines("leaves-welcome")) == 2
    desk.now = NOW + HOUR
    assert isinstance(desk.ask(hello)[0], Welcome)


def test_a_code_that_is_none_is_written_as_other(tmp_path: Any) -> None:
    desk = Desk(tmp_path)
    for code in ("Mueller^Anna", "", "x" * 80):
        desk.custodian.receipts.refused(None, code)
    assert [line["counts"] for line in desk.lines("refused-unproved")] == [{"code.other": 1}] * 3


# --- so many an hour -------------------------------------------------------------------------------------------------


def test_an_allowance_admits_so_many_an_hour_and_counts_the_others() -> None:
    allowance, at = Allowance(3), datetime(2026, 1, 1, tzinfo=UTC)
    admitted = []
    for minute in range(5):
        assert allowance.admit(at + timedelta(minutes=minute)) == 0
        admitted.append(allowance.admitted)
    assert admitted == [True, True, True, False, False]
    assert allowance.admit(at + timedelta(minutes=59)) == 0
    assert allowance.admit(at + HOUR) == 3
    assert allowance.admitted


def test_a_clock_that_goes_back_begins_another_hour() -> None:
    allowance, at = Allowance(1), datetime(2026, 1, 1, tzinfo=UTC)
    for _ in range(3):
        allowance.admit(at)
    assert not allowance.admitted
    assert allowance.admit(at - timedelta(days=1)) == 2
    assert allowance.admitted
