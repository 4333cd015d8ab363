"""A roster that comes with a greeting, at a real site folder: who agrees on masks there is who the lead says now."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deciding_hospital import DATASET, NOW, PILOT, RUN, Hospital, plan_of, train
from small_trust import Member

from client.commands import approve
from client.commands.approve import Wanted
from client.custodian.wiring import Custodian, custodian
from client.enrolment import require_pinned
from client.secure.party import Identity, Party
from client.secure.released import Remembered
from shared.crypto.signing import SigningKey
from shared.messages import Deal, Dealt, Envelope, Hello, Refusal, Reply, Request, Welcome
from shared.plan import Plan
from shared.secure import threshold
from shared.secure.context import Context
from shared.secure.entropy import seeded
from shared.secure.held import Held
from shared.secure.papers import Offer, Offers
from shared.trust import roster as rosters
from shared.trust.documents import seal
from shared.trust.roster import Roster

SECURE: dict[str, Any] = {
    "aggregation": {"weights": "equal", "fixed_point": {"bits": 24}},
    "evaluation": {"every": 1, "release": "sum"},
    "secure_aggregation": {"enabled": True},
}
LATER = NOW + timedelta(hours=2)


class Run:
    """A hospital that approved a plan with secure aggregation, and the lead who asks."""

    def __init__(self, folder: Path) -> None:
        self.hospital, self.plan = Hospital(folder), plan_of(**SECURE)
        self.hospital.policy(PILOT.replace('"site"', '"sum"'))
        offer = approve.offered(self.hospital.site, Wanted(self.hospital.signed(self.plan), folder, DATASET, 3))
        approve.approve(self.hospital.site, offer, "maria", lambda: NOW)
        self.custodian: Custodian = custodian(self.hospital.site, lambda: LATER)

    @property
    def held(self) -> Roster:
        return require_pinned(self.hospital.site).roster

    def ask(self, request: Request) -> Reply:
        parcel = self.hospital.parcel(self.plan, request)
        return self.hospital.read(self.custodian.answer(parcel), parcel)

    def greet(self, roster: Roster | None, lead: SigningKey | None = None) -> Reply:
        said = "" if roster is None else seal(roster, lead or self.hospital.lead).decode()
        return self.ask(Hello(Envelope(RUN, self.plan.digest(), 0), said))

    def events(self, name: str) -> list[dict[str, Any]]:
        said = map(json.loads, (self.hospital.site.path / "audit.jsonl").read_text().splitlines())
        return [one for one in said if one["event"] == name]

    def deal_with(self, *others: Member) -> Reply:
        """Have the hospital offer, and ask it to deal to itself and ``others``."""
        asked = train(self.plan)
        own = Offer.from_bytes(self.ask(asked).content.tobytes())  # type: ignore[union-attr]
        context = Context(self.plan.digest(), RUN, 1, "train")
        offers = sorted((own, *(_offer(self.plan, context, own, other) for other in others)), key=lambda one: one.site)
        paper = Offers(bits=24 + (len(offers) - 1).bit_length(), offers=tuple(offers))
        return self.ask(Deal(asked.envelope, "train", np.frombuffer(paper.to_bytes(), np.uint8)))


def _offer(plan: Plan, context: Context, like: Offer, member: Member) -> Offer:
    values, counts = np.zeros(like.values, np.int32), np.zeros(like.counts, np.int64)
    held = Held(values, counts, like.weight, like.peak, like.definition)
    rule = threshold.rule(plan.secure_aggregation, plan.participation.quorum)
    party = Party(Identity(member.name, member.key), dict, rule, Remembered(), seeded(member.name.encode()))
    return party.offer(context, held)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def code(reply: Reply) -> str:
    assert isinstance(reply, Refusal), type(reply)
    return reply.code


def test_a_newer_roster_of_the_lead_is_held_from_then_on_and_has_a_line(run: Run) -> None:
    zagreb = Member("zagreb")
    newer = rosters.with_site(run.held, zagreb.entry, LATER)
    assert isinstance(run.greet(newer), Welcome)
    assert run.held == newer
    assert [line["counts"]["version"] for line in run.events("roster")][-1] == newer.version
    assert isinstance(run.greet(newer), Welcome), "the same one again changes nothing"
    assert run.held == newer


def test_an_older_roster_is_refused_and_the_newer_one_stays(run: Run) -> None:
    older = run.held
    newer = rosters.with_site(older, Member("zagreb").entry, LATER)
    run.greet(newer)
    assert code(run.greet(older)) == "roster-older"
    assert run.held == newer
    assert [line["counts"] for line in run.events("roster-refused")] == [{"roster-older": 1}]


def test_a_roster_that_somebody_else_has_signed_is_refused(run: Run) -> None:
    before = run.held
    newer = rosters.with_site(before, Member("zagreb").entry, LATER)
    assert code(run.greet(newer, SigningKey.generate())) in {"signer", "signature-invalid"}
    assert run.held == before


def test_another_roster_of_the_same_version_is_refused(run: Run) -> None:
    one, other = (rosters.with_site(run.held, Member(name).entry, LATER) for name in ("zagreb", "vienna"))
    run.greet(one)
    assert code(run.greet(other)) == "roster-fork"
    assert run.held == one


def test_a_greeting_without_a_roster_is_answered_as_ever(run: Run) -> None:
    before = run.held
    assert isinstance(run.greet(None), Welcome)
    assert run.held == before


def test_masks_are_agreed_on_with_the_sites_of_the_roster_as_it_is_then(run: Run) -> None:
    """The same open site: with a stranger it deals not, with one that has joined since it does."""
    bergen, zagreb = run.hospital.neighbour, Member("zagreb")
    assert isinstance(run.deal_with(bergen), Dealt)
    assert code(run.deal_with(bergen, zagreb)) == "offer-unknown-site"
    run.greet(rosters.with_site(run.held, zagreb.entry, LATER))
    assert isinstance(run.deal_with(bergen, zagreb), Dealt)


def test_with_a_site_that_was_suspended_no_masks_are_agreed_on(run: Run) -> None:
    bergen, zagreb = run.hospital.neighbour, Member("zagreb")
    joined = rosters.with_site(run.held, zagreb.entry, LATER)
    run.greet(rosters.with_state(joined, "bergen", "suspended", LATER))
    assert code(run.deal_with(bergen, zagreb)) == "offer-unknown-site"
    assert isinstance(run.deal_with(zagreb), Dealt)
