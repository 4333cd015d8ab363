"""A question asked again of a real site folder, in another run or plan; and what those who approve are told of sums."""

import io
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deciding_hospital import DATASET, NOW, PRIVATE, Hospital, plan_of
from deciding_hospital import train as training
from masked_federation import masked_plan
from rich.console import Console
from small_trust import Member

import client.custodian.warm
from client.commands import approve
from client.commands.approve import Wanted
from client.commands.approve_shown import shown
from client.custodian.warm import SUMS
from client.custodian.wiring import Custodian, custodian
from client.enrolment import require_pinned
from client.secure.party import Identity, Party
from client.secure.released import Notes, Remembered
from client.secure.summing import Summing
from server.secure.round import SumRound
from shared.crypto.signing import VerifyKey
from shared.errors import PlanError
from shared.messages import Confirm, Deal, Envelope, Hello, Mask, Refusal, Train, Unmask, Welcome
from shared.plan import Plan
from shared.secure.context import Context
from shared.secure.entropy import seeded
from shared.secure.held import Held, Shape
from shared.secure.papers import Confirmation, Dealing, Offer, Paper, Revelation
from shared.secure.question import noised_run
from shared.secure.threshold import rule, tolerated
from shared.trust import roster as rosters
from shared.trust.documents import seal

SECURE: dict[str, Any] = {
    "aggregation": {"weights": "equal", "fixed_point": {"bits": 24}},
    "evaluation": {"every": 1, "release": "sum"},
    "secure_aggregation": {"enabled": True},
    "participation": {"quorum": 2},
}
NOISED: dict[str, Any] = PRIVATE | SECURE | {"evaluation": {"every": 1, "release": "dp"}}
ME, LET_DOWN = "aachen", "bergen"
RUNS = ("ab" * 16, "cd" * 16, "ef" * 16)


def content(paper: Paper) -> Any:
    return np.frombuffer(paper.to_bytes(), np.uint8)


class Refused(Exception):  # noqa: N818 - what happened to the attack
    """The code of the site that went no further."""


class Federation:
    """A hospital with its folder and custodian, three sites in memory that add zeros, and the lead who asks."""

    def __init__(self, folder: Path, *plans: Plan) -> None:
        self.hospital = Hospital(folder)
        self.others = {LET_DOWN: self.hospital.neighbour} | {name: Member(name) for name in ("vienna", "zagreb")}
        for plan in plans:
            offer = approve.offered(self.hospital.site, Wanted(self.hospital.signed(plan), folder, DATASET, 3))
            approve.approve(self.hospital.site, offer, "maria", lambda: NOW)
        self.restarted()
        self._enrol(plans[0])

    def restarted(self) -> None:
        self.custodian: Custodian = custodian(self.hospital.site, lambda: NOW)

    def ask(self, plan: Plan, request: Any) -> Any:
        parcel = self.hospital.parcel(plan, request)
        reply = self.hospital.read(self.custodian.answer(parcel), parcel)
        if isinstance(reply, Refusal):
            raise Refused(reply.code)
        return reply

    def _enrol(self, plan: Plan) -> None:
        roster = require_pinned(self.hospital.site).roster
        for name in ("vienna", "zagreb"):
            roster = rosters.with_site(roster, self.others[name].entry, NOW)
        said = seal(roster, self.hospital.lead).decode()
        assert isinstance(self.ask(plan, Hello(Envelope(RUNS[0], plan.digest(), 0), said)), Welcome)

    @property
    def members(self) -> Mapping[str, VerifyKey]:
        return {one.site: one.verify_key for one in require_pinned(self.hospital.site).roster.sites}

    def sum_of(self, plan: Plan, request: Train, *without: str) -> tuple[str, ...]:
        """Who is in the sum of training; ``without`` are let down after dealing. Raises ``Refused``."""
        asked = _Asked(self, plan, request)
        own = Offer.from_bytes(self.ask(plan, request).content.tobytes())
        agreed = rule(plan.secure_aggregation, plan.participation.quorum)
        sum_ = SumRound(asked.context, agreed, self.members, Shape.of(own))
        zeros = Held(
            np.zeros(own.values, np.int32), np.zeros(own.counts, np.int64), own.weight, own.peak, own.definition
        )
        sum_.offer(ME, own)
        for site, member in self.others.items():
            identity, entropy = Identity(site, member.key), seeded(site.encode())
            party = Party(identity, lambda: self.members, agreed, Remembered(), entropy)
            asked.others[site] = Summing(party, plan)
            sum_.offer(site, party.offer(asked.context, zeros))
        offers = content(sum_.offers())
        for site in (ME, *self.others):
            sum_.dealt(site, Dealing.from_bytes(asked.step(site, Deal, offers).content.tobytes()))
        left = [site for site in (ME, *self.others) if site not in without]
        for site in left:
            sum_.masked(site, asked.step(site, Mask, content(sum_.received(site))))
        survivors = content(sum_.survivors())
        for site in left:
            sum_.confirmed(site, Confirmation.from_bytes(asked.step(site, Confirm, survivors).content.tobytes()))
        unmasking = content(sum_.unmasking())
        for site in left:
            sum_.revealed(site, Revelation.from_bytes(asked.step(site, Unmask, unmasking).content.tobytes()))
        return sum_.total().sites


@dataclass
class _Asked:
    federation: Federation
    plan: Plan
    request: Train

    def __post_init__(self) -> None:
        asked = self.request.envelope
        self.context = Context(asked.plan_digest, asked.run, asked.round, "train")
        self.others: dict[str, Summing] = {}

    def step(self, site: str, kind: Any, paper: Any) -> Any:
        request = kind(self.request.envelope, "train", paper)
        return self.federation.ask(self.plan, request) if site == ME else self.others[site].step(request)


EXACT = plan_of(**SECURE)
RENAMED = plan_of(**SECURE, plan__name="cubes")
LONGER = plan_of(**SECURE, plan__rounds=4)
ALL, REST = (ME, LET_DOWN, "vienna", "zagreb"), (ME, "vienna", "zagreb")


@pytest.mark.parametrize(
    ("plan", "run"), [(EXACT, RUNS[1]), (RENAMED, RUNS[0]), (LONGER, RUNS[1])], ids=["run", "name", "rounds"]
)
def test_whatever_run_or_plan_asks_again_one_site_less_is_another_sum_and_refused(
    tmp_path: Path, plan: Plan, run: str
) -> None:
    federation = Federation(tmp_path, EXACT, *([] if plan == EXACT else [plan]))
    assert federation.sum_of(EXACT, training(EXACT, run=RUNS[0])) == ALL
    federation.restarted()
    with pytest.raises(Refused, match=r"^unmasked-otherwise$"):
        federation.sum_of(plan, training(plan, run=run), LET_DOWN)
    assert federation.sum_of(plan, training(plan, run=run)) == ALL, "of the same sites it says nothing new"
    assert federation.sum_of(plan, training(plan, run=RUNS[2], add=0.1), LET_DOWN) == REST, "another model"
    assert federation.sum_of(plan, training(plan, 2, run=run), LET_DOWN) == REST, "another round"


def test_notes_are_of_the_site_and_were_they_of_each_plan_a_renamed_one_would_get_both_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Federation(tmp_path, EXACT, RENAMED)
    assert federation.sum_of(EXACT, training(EXACT)) == ALL
    assert list((federation.hospital.site.path / SUMS).glob("*.json"))
    monkeypatch.setattr(client.custodian.warm, "Notes", lambda folder: Notes(folder.with_name("of-one-plan")))
    federation.restarted()
    assert federation.sum_of(RENAMED, training(RENAMED), LET_DOWN) == REST


def test_what_has_fresh_noise_each_time_may_be_asked_again_in_another_run(tmp_path: Path) -> None:
    plan = plan_of(**NOISED)
    federation = Federation(tmp_path, plan)
    assert federation.sum_of(plan, training(plan, run=RUNS[0])) == ALL
    with pytest.raises(Refused, match=r"^unmasked-otherwise$"):
        federation.sum_of(plan, training(plan, run=RUNS[0]), LET_DOWN)
    assert federation.sum_of(plan, training(plan, run=RUNS[1]), LET_DOWN) == REST


@pytest.mark.parametrize(
    ("plan", "fresh"), [(EXACT, ()), (plan_of(**NOISED), ("train", "validation", "test", "personalise"))],
    ids=["exact", "noised"],
)  # fmt: skip
def test_a_run_is_part_of_a_question_where_its_answers_have_fresh_noise(plan: Plan, fresh: tuple[str, ...]) -> None:
    for about in ("train", "validation", "test", "personalise"):
        assert noised_run(plan, about, "run") == ("run" if about in fresh else "")


def test_statistics_that_are_exact_beside_noised_updates_are_exact_in_every_run() -> None:
    exact = EXACT.evaluation.model_copy(update={"release": "sum"})
    mixed = plan_of(**NOISED).model_copy(update={"evaluation": exact})
    assert noised_run(mixed, "train", "run") == "run"
    assert noised_run(mixed, "validation", "run") == ""


# --- what a plan may say, and what it is worth -----------------------------------------------------------------------


def test_a_plan_whose_sums_would_be_of_fewer_sites_than_its_rounds_is_none() -> None:
    with pytest.raises(PlanError, match=r"threshold of 2 below participation\.quorum"):
        masked_plan(participation__quorum=4, secure_aggregation__threshold=2)
    for threshold in (4, 5):
        masked_plan(participation__quorum=4, secure_aggregation__threshold=threshold)
    masked_plan(participation__quorum=4)
    masked_plan(participation__quorum=4, secure_aggregation__enabled=False)


def lies_open(least: int, enrolled: int, colluding: int) -> bool:
    """Whether ``colluding`` of the others and a coordinator get one site's numbers, by trying who confirms what."""
    honest = enrolled - colluding
    alone = least - colluding <= 1
    twice = any(
        one + colluding >= least and other + colluding >= least
        for one, other in itertools.product(range(1, honest), repeat=2)
        if one + other <= honest
    )
    return alone or twice


@pytest.mark.parametrize("enrolled", range(2, 14))
def test_as_many_may_collude_as_it_says_and_one_more_may_not(enrolled: int) -> None:
    for least in range(enrolled // 2 + 1, enrolled + 1):
        most = tolerated(least, enrolled)
        assert not any(lies_open(least, enrolled, fewer) for fewer in range(most + 1))
        assert lies_open(least, enrolled, most + 1)


@pytest.mark.parametrize(
    ("sites", "least", "unless"),
    [
        (2, 2, "none of the other 1 tells it what they know"),
        (3, 3, "no more than 1 of the other 2 tell it what they know"),
        (4, 3, "no more than 1 of the other 3 tell it what they know"),
        (5, 4, "no more than 2 of the other 4 tell it what they know"),
    ],
)
def test_who_approves_is_told_of_how_many_a_sum_is_and_how_many_may_collude(
    tmp_path: Path, sites: int, least: int, unless: str
) -> None:
    hospital = Hospital(tmp_path)
    offer = approve.offered(hospital.site, Wanted(hospital.signed(EXACT), tmp_path, DATASET, 1))
    roster = offer.pinned.roster
    for number in range(sites - 2):
        roster = rosters.with_site(roster, Member(f"site-{number}").entry, NOW)
    said = io.StringIO()
    for part in shown(replace(offer, pinned=replace(offer.pinned, roster=roster)), 0):
        Console(width=400, file=said).print(part)
    assert f"reads sums over {least} sites or more, and nothing of this site alone, as long as {unless}" in (
        said.getvalue()
    )
    colluding = int(unless.split()[3]) if unless.startswith("no more") else 0
    assert not lies_open(least, sites, colluding)
    assert lies_open(least, sites, colluding + 1)
