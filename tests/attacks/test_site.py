"""A site in hostile hands, or a thief with a part of its keys, against a real coordinator: it may lie, and no more.

Each attack is one run of the coordinator's own code; what it came to stands in the journal.
"""

import dataclasses
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deployed_federation import SITES, Deployed
from small_trust import NOW, Lead, Member, code_of, new_federation, no_passphrase, node_pem
from tiny_federation import tiny_plan

from server import enrolment
from server.enrolment import set_state
from server.intake import Admission, judge
from server.results import read_results, read_rounds
from shared.crypto.signing import SigningKey
from shared.message_bytes import reply_from_bytes, reply_to_bytes
from shared.messages import Measured, Refusal, Reply, Update, Welcome
from shared.parcels import Parcel, digest, signed_reply
from shared.plan import Aggregation
from shared.trust.enrolment import make_request, open_request

Change = Callable[[Reply], Reply | bytes]
LIAR = "coimbra"


class Run:
    """One run in which a site answers as it likes, with the signature that it really has."""

    def __init__(self, folder: Path, *changes: Change, **plan: Any) -> None:
        """``changes`` are made one after the other, each to the first reply that it changes; the last one for good."""
        self.deployed = Deployed(folder, tiny_plan(**plan), self._relay)
        self._changes = list(changes)
        self.folder = self.deployed.run(self.deployed.order())

    def _relay(self, site: str, request: Parcel, reply: Parcel) -> Parcel:
        said = reply_from_bytes(reply.body)
        changed = self._changes[0](said) if site == LIAR else said
        if changed is said:
            return reply
        if len(self._changes) > 1:
            self._changes.pop(0)
        body = changed if isinstance(changed, bytes) else reply_to_bytes(changed)
        return signed_reply(body, site, digest(request.body), self.deployed.identities[site])

    def codes(self) -> list[str]:
        """Why the site is missing, by round."""
        return [one.participation.missing.get(LIAR, "") for one in read_rounds(self.folder / "rounds.jsonl")]

    def journal(self) -> list[tuple[str, str, str]]:
        """(site, code, sentence) of all that failed."""
        connection = sqlite3.connect(self.folder / "journal.sqlite")
        try:
            return connection.execute("select site, code, sentence from events where code != ''").fetchall()
        finally:
            connection.close()


def update(**changes: Any) -> Change:
    return lambda said: dataclasses.replace(said, **changes) if isinstance(said, Update) else said


def values(change: Callable[[Any], Any]) -> Change:
    return lambda said: dataclasses.replace(said, values=change(said.values)) if isinstance(said, Update) else said


def counts(change: Callable[[Any], Any]) -> Change:
    return lambda said: dataclasses.replace(said, counts=change(said.counts)) if isinstance(said, Measured) else said


def written(before: bytes, after: bytes) -> Change:
    """An update whose line of JSON says something else; filled up again to its place."""

    def change(said: Reply) -> Reply | bytes:
        if not isinstance(said, Update):
            return said
        line, _, array = reply_to_bytes(said).partition(b"\n")
        line = line.rstrip().replace(before, after)
        return line + b" " * (-(len(line) + 1) % 64) + b"\n" + array

    return change


FIRST = [
    (update(steps=10**4000), "update-counts"),
    (update(saturated=10**4299), "update-counts"),
    (update(seconds=1e308), "update-counts"),
    (update(seconds=-1.0), "update-counts"),
    (update(loss_sum=-(2**53)), "update-counts"),
    (update(weight=2), "update-weight"),
    (update(weight=2**63), "update-weight"),
    (update(schema="0" * 64), "update-schema"),
]
SECOND = [
    (update(bits=24, values=np.zeros(366, np.int32)), "update-schema"),
    (values(lambda given: given[:-1]), "update-length"),
    (values(lambda given: np.concatenate([given, given])), "update-length"),
    (values(lambda given: given[:0]), "update-length"),
    (written(b'"length":366', b'"length":2147483648'), "array"),
    (written(b'"seconds":', b'"seconds":NaN,"was":'), "entry"),
    (lambda said: b"\x1f\x8b" + bytes(10_000) if isinstance(said, Update) else said, "format"),
    (lambda said: Welcome((), 1) if isinstance(said, Update) else said, "kind"),
]


@pytest.mark.parametrize("attacks", [FIRST, SECOND], ids=["numbers", "forms"])
def test_an_impossible_update_does_not_count_and_the_round_goes_on(
    tmp_path: Path, attacks: list[tuple[Change, str]]
) -> None:
    run = Run(tmp_path, *(attack for attack, _ in attacks), plan__rounds=len(attacks), evaluation__every=99)
    assert run.codes() == [code for _, code in attacks]
    assert {one.participation.participants for one in read_rounds(run.folder / "rounds.jsonl")} == {SITES[:2]}
    assert (run.folder / "report.html").is_file()


def test_what_the_others_learn_is_what_they_learn_without_the_liar(tmp_path: Path) -> None:
    def silent(site: str, _request: Parcel, reply: Parcel) -> Parcel | None:
        return None if site == LIAR and isinstance(reply_from_bytes(reply.body), Update) else reply

    run = Run(tmp_path / "lies", values(lambda given: given[:-1]))
    without = Deployed(tmp_path / "silence", tiny_plan(), silent)
    folder = without.run(without.order())
    assert read_results(run.folder).checkpoint == read_results(folder).checkpoint


def test_a_site_has_no_more_of_a_say_than_the_plan_gives_it(tmp_path: Path) -> None:
    """A million votes, in greeting and updates alike, of a plan that gives each site one."""

    def heavy(said: Reply) -> Reply:
        return dataclasses.replace(said, weight=10**6) if isinstance(said, Welcome | Update) else said

    run = Run(tmp_path, heavy)
    assert set(run.codes()) == {"weight"}
    assert run.journal()[0][2] == "the site announces weight 1000000, the plan gives it 1"


@pytest.mark.parametrize(
    ("said", "weight", "code"),
    [
        ({}, 1, ""),
        ({}, 10**4000, "weight"),
        ({}, 0, "weight"),
        ({"weights": "public", "public_weights": {LIAR: 3}}, 3, ""),
        ({"weights": "public", "public_weights": {LIAR: 3}}, 4, "weight"),
        ({"weights": "public", "public_weights": {"aachen": 3}}, 3, "weight"),
        ({"weights": "patients"}, 7, ""),
        ({"weights": "patients"}, -7, "weight"),
    ],
    ids=lambda value: ascii(value)[:24],
)
def test_a_weight_is_the_plans_where_the_plan_says_one(said: dict[str, Any], weight: int, code: str) -> None:
    admission = Admission((), Aggregation(**said))
    assert judge(admission, LIAR, Welcome((), weight))[0] == code
    assert admission.weights == ({} if code else {LIAR: weight})


def measured(**changes: Any) -> Change:
    return lambda said: dataclasses.replace(said, **changes) if isinstance(said, Measured) else said


STATISTICS = [
    (counts(lambda given: np.full_like(given, -1)), "statistics-counts"),
    (counts(lambda given: np.where(np.arange(given.size) == 0, 10**6, given)), "statistics-counts"),
    (counts(lambda given: np.full_like(given, -(2**63))), "statistics-counts"),
    (counts(lambda given: np.full_like(given, 2**52 + 1)), "statistics-range"),
    (counts(lambda given: given[:-1]), "statistics-length"),
    (measured(schema="0" * 64), "statistics-schema"),
]


def test_impossible_statistics_do_not_count(tmp_path: Path) -> None:
    run = Run(tmp_path, *(attack for attack, _ in STATISTICS), plan__rounds=len(STATISTICS) - 1)
    assert [row[:2] for row in run.journal()] == [(LIAR, code) for _, code in STATISTICS]
    assert run.codes() == [""] * 5, "its updates were honest"


def test_a_reply_to_another_question_is_not_this_sites_answer(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path, tiny_plan(plan__rounds=2))

    def elsewhere(site: str, _request: Parcel, reply: Parcel) -> Parcel:
        if site != LIAR or not isinstance(reply_from_bytes(reply.body), Update):
            return reply
        return signed_reply(reply.body, site, digest(b"another question"), deployed.identities[site])

    deployed.relay = elsewhere
    records = read_rounds(deployed.run(deployed.order()) / "rounds.jsonl")
    assert {one.participation.missing[LIAR] for one in records} == {"signature-invalid"}


def test_a_site_suspended_while_a_run_is_prepared_is_neither_asked_nor_believed(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path, tiny_plan(plan__rounds=1))
    found = deployed.order()
    set_state(deployed.federation, LIAR, "suspended", deployed.lead, deployed.now())
    heard: list[str] = []

    def speaks_for(site: str, request: Parcel, reply: Parcel) -> Parcel:
        heard.append(site)
        # What aachen's relay hands back is signed by the suspended site, with its own true key.
        return (
            signed_reply(reply.body, LIAR, digest(request.body), deployed.identities[LIAR])
            if site == "aachen"
            else reply
        )

    deployed.relay = speaks_for
    with pytest.raises(Exception, match=r"aachen \(not-enrolled\)"):
        deployed.run(found)
    assert set(heard) == set(SITES[:2])


def refusal(code: str, sentence: str = "no") -> Change:
    return lambda said: Refusal(code, sentence, "") if isinstance(said, Update) else said


def test_what_a_site_says_is_kept_as_a_name_and_one_bounded_line(tmp_path: Path) -> None:
    evil = ["<script>", "../..", "Budget", "a b", "é", "", "a\n", "x" * 70]
    attacks = [refusal(code) for code in evil]
    attacks += [refusal("budget", "a\nb\x1b[31m\u202ec"), refusal("budget", "y" * 10**5)]
    run = Run(tmp_path, *attacks, plan__rounds=len(attacks), evaluation__every=99)
    said = json.loads((run.folder / "results.json").read_text())
    assert [one["missing"][LIAR] for one in said["participation"]] == ["refusal"] * 8 + ["budget"] * 2
    assert [row[2] for row in run.journal()][-2:] == ["a b [31m c", "y" * 2000 + "…"]


# --- names and keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "aachen\n",
        "../aachen",
        "a/b",
        "\u0430achen",
        "aachen\u200b",
        "AACHEN",
        "",
        "-x",
        "a" * 64,
        "\uff41achen",
        "a\x00",
    ],
)
def test_a_site_cannot_be_called_by_a_path_or_a_look_alike(name: str) -> None:
    with pytest.raises(ValueError, match="site"):
        make_request(SigningKey.generate(), name, node_pem("aachen"), {}, NOW)


def test_nobody_enrols_under_a_name_or_a_key_that_is_taken(tmp_path: Path) -> None:
    federation = new_federation(tmp_path)
    lead = federation.lead_key(no_passphrase)
    honest, thief = Member("aachen"), Member("bergen")

    def enrol(name: str, key: SigningKey, node: str) -> object:
        return enrolment.enrol(federation, open_request(make_request(key, name, node, {}, NOW)), lead, NOW)

    enrol("aachen", honest.key, node_pem("aachen"))
    before = federation.roster()
    assert code_of(lambda: enrol("aachen", thief.key, node_pem("bergen"))) == "site-name-taken"
    assert code_of(lambda: enrol("bergen", honest.key, node_pem("bergen"))) == "site-key-taken"
    assert code_of(lambda: enrol("bergen", thief.key, node_pem("aachen"))) == "site-key-taken"
    assert code_of(lambda: enrol("aachen", honest.key, node_pem("bergen"))) == "site-enrolled"
    assert federation.roster() == before


def test_a_request_is_nobodys_who_has_not_signed_it() -> None:
    lead = Lead((Member("aachen"),))
    theirs = json.loads(make_request(lead.members[0].key, "aachen", node_pem("aachen"), {}, NOW))
    mine = json.loads(make_request(SigningKey.generate(), "aachen", node_pem("aachen"), {}, NOW))
    for swapped in ({**mine, "document": theirs["document"]}, {**theirs, "signer": mine["signer"]}):
        content = json.dumps(swapped, sort_keys=True, separators=(",", ":")).encode() + b"\n"
        assert code_of(lambda content=content: open_request(content)) == "signature-invalid"  # type: ignore[misc]
