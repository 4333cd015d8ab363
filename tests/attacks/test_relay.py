"""A relay in hostile hands: it has the socket, the token, and every parcel that ever passed. It gets nothing more.

The custodian is real: a folder with a frozen cohort, ledger and audit log; where bytes matter, a real socket.
"""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from attacked import Victim, charges
from deciding_hospital import NOW, PRIVATE, RUN, measure, plan_of, train
from deployed_federation import SITES, Deployed
from tiny_federation import tiny_plan

from client.custodian.caller import NAME, TOKEN
from client.custodian.pieces import cut, joined
from client.custodian.service import Limits, Service, listen
from client.custodian.wiring import custodian
from server.results import read_rounds
from shared.crypto.signing import SigningKey
from shared.message_bytes import reply_from_bytes, reply_to_bytes, request_to_bytes
from shared.messages import Envelope, Evaluate, Hello, Personalise, Refusal, Split, Train, Update
from shared.parcels import Body, Parcel, signed_request
from shared.trust.documents import stamp
from shared.trust.orders import RunOrder, sign_order

KNOWN = "ab" * 32
PERSONAL = {"personalisation": {"steps": 1, "learning_rate": 0.01}}


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    return Victim(tmp_path, **PRIVATE)


# --- what it can make of what passes ---------------------------------------------------------------------------------


def test_a_replay_gets_the_bytes_that_left_before_and_costs_nothing(victim: Victim) -> None:
    parcel = victim.hospital.parcel(victim.plan, train(victim.plan, 1))
    first = victim.custodian.answer(parcel)
    assert isinstance(victim.hospital.read(first, parcel), Update)
    assert {victim.custodian.answer(parcel) == first for _ in range(5)} == {True}
    assert charges(victim.folder) == 1
    receipts = victim.lines("leaves-update")
    assert len(receipts) == 6, "the log shows that it was asked again"
    assert len({line["digests"]["message"] for line in receipts}) == 1


def test_rounds_in_another_order_are_refused(victim: Victim) -> None:
    recorded = [victim.hospital.parcel(victim.plan, train(victim.plan, number)) for number in (1, 2, 3)]
    assert isinstance(victim.send(recorded[1]), Update)
    assert victim.refused(recorded[0]) == "outdated"
    assert isinstance(victim.send(recorded[2]), Update)
    assert [victim.refused(recorded[number]) for number in (0, 1)] == ["outdated", "outdated"]
    assert charges(victim.folder) == 2


def forged(victim: Victim, **changes: Any) -> Parcel:
    """A question of the relay's own, under an order that it made up."""
    mine = SigningKey.generate()
    said = {
        "run": RUN,
        "plan_digest": victim.plan.digest(),
        "federation": "squares-of-europe",
        "roster_version": 3,
        "run_key": mine.verify_key.hex(),
        "created": stamp(NOW),
        "expires": stamp(NOW + timedelta(days=1)),
    }
    order = sign_order(RunOrder(**{**said, **changes}), mine)
    return signed_request(Body.of(request_to_bytes(train(victim.plan, 2))), "aachen", order, mine)


def genuine(victim: Victim) -> Parcel:
    return victim.hospital.parcel(victim.plan, train(victim.plan, 1))


def changed_order(victim: Victim) -> Parcel:
    parcel = genuine(victim)
    return dataclasses.replace(parcel, order=parcel.order.replace(b"2026-11-21", b"2027-11-21"))


def changed_weights(victim: Victim) -> Parcel:
    parcel = genuine(victim)
    return dataclasses.replace(parcel, body=parcel.body[:-4] + np.float32(1e9).tobytes())


def own_question(victim: Victim) -> Parcel:
    return dataclasses.replace(genuine(victim), body=request_to_bytes(train(victim.plan, 3)))


def own_order_beside_the_signature(victim: Victim) -> Parcel:
    return dataclasses.replace(genuine(victim), order=forged(victim).order)


def for_another_site(victim: Victim) -> Parcel:
    body = Body.of(request_to_bytes(train(victim.plan, 1)))
    return signed_request(body, "bergen", victim.hospital.order(victim.plan), victim.hospital.run_key)


def renamed(victim: Victim) -> Parcel:
    return dataclasses.replace(for_another_site(victim), site="aachen")


def for_everybody(victim: Victim) -> Parcel:
    body = Body.of(request_to_bytes(train(victim.plan, 1)))
    return signed_request(body, "", victim.hospital.order(victim.plan), victim.hospital.run_key)


def own_reply_as_a_question(victim: Victim) -> Parcel:
    return victim.custodian.answer(Parcel("", b"x"))


def duplicate_key(victim: Victim) -> Parcel:
    body = genuine(victim).body.replace(b'{"format"', b'{"round":3,"format"', 1)
    return signed_request(Body.of(body), "aachen", victim.hospital.order(victim.plan), victim.hospital.run_key)


ATTACKS = {
    forged: "signer",
    changed_order: "signature-invalid",
    changed_weights: "signature-invalid",
    own_question: "signature-invalid",
    own_order_beside_the_signature: "signer",
    for_another_site: "site",
    renamed: "signature-invalid",
    for_everybody: "site",
    own_reply_as_a_question: "document-form",
    duplicate_key: "form",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_parcel_that_the_relay_made_or_changed_is_refused_before_anything_is_opened(
    victim: Victim, attack: Any
) -> None:
    parcel = attack(victim)
    before = len(victim.lines())
    assert victim.refused(parcel) == ATTACKS[attack]
    (line,) = victim.lines()[before:]
    assert line["event"] == "refused-unproved"
    assert line["digests"] == {}, "nothing that the relay wrote is in the log"
    assert victim.custodian.sites.warm._open == {}


def test_an_order_that_has_ended_starts_nothing_again(victim: Victim) -> None:
    late = custodian(victim.hospital.site, lambda: NOW + timedelta(days=1, hours=3))
    parcel = genuine(victim)
    refused = victim.hospital.read(late.answer(parcel), parcel)
    assert isinstance(refused, Refusal)
    assert refused.code == "order-expired"


def test_garbage_is_refused_and_cannot_fill_the_log(victim: Victim) -> None:
    noise = np.random.default_rng(1)
    before = len(victim.lines())
    for size in (0, 1, 63, 64, 1000, 50_000) * 20:
        parcel = Parcel("aachen", noise.bytes(size), noise.bytes(64), noise.bytes(min(size, 4096)))
        assert isinstance(victim.send(parcel), Refusal)
    assert len(victim.lines()) - before == 60, "so many an hour"
    victim.custodian.receipts.close()
    assert victim.lines()[-1]["counts"] == {"refusals": 60}


# --- what nobody may ask, whoever holds the run's key ----------------------------------------------------------------


def test_more_rounds_than_were_paid_for_are_refused(victim: Victim) -> None:
    for number in (1, 2, 3):
        assert isinstance(victim.ask(train(victim.plan, number)), Update)
    for request, code in (
        (train(victim.plan, 4), "round"),
        (train(victim.plan, 3, add=0.1), "replayed-otherwise"),
        (train(victim.plan, 1, run="cd" * 16), "too-many-runs"),
    ):
        assert victim.refused(request) == code
    assert charges(victim.folder) == 3


def test_a_far_round_does_not_use_up_the_ones_before_it(victim: Victim) -> None:
    for number in (4, 2**31, 10**4000, -1, 0):
        assert victim.refused(train(victim.plan, number)) == "round"
    assert isinstance(victim.ask(train(victim.plan, 1)), Update), "the honest round is still to be had"


def asked_of(victim: Victim) -> list[Any]:
    weights = train(victim.plan).weights
    personal: list[tuple[int, Split]] = [(3, "train"), (3, "validation"), (2, "test")]
    return [
        measure(victim.plan, "train", 3),
        measure(victim.plan, "test", 2),
        measure(victim.plan, "validation", 0),
        measure(victim.plan, "validation", 1),
        *(Personalise(Envelope(RUN, victim.plan.digest(), number), weights, split) for number, split in personal),
    ]


@pytest.mark.parametrize(
    "kind", ["private", "training alone is private", "exact", "exact and personal"], ids=lambda kind: kind
)
def test_only_what_the_plan_measures_is_measured_after_the_rounds_it_says(tmp_path: Path, kind: str) -> None:
    covers = {**PRIVATE, "privacy": {**PRIVATE["privacy"], "covers": "training"}, "evaluation__release": "site"}
    how: dict[str, dict[str, Any]] = {
        "private": PRIVATE,
        "training alone is private": covers,
        "exact": {},
        "exact and personal": PERSONAL,
    }
    victim = Victim(tmp_path, evaluation__every=2, **how[kind])
    for request in asked_of(victim):
        assert victim.refused(request) == "not-in-plan", request.envelope.round
    for request in (measure(victim.plan, "validation", 2), measure(victim.plan, "test", 3)):
        assert not isinstance(victim.ask(request), Refusal), "a control: what the plan says is answered"


def test_a_question_about_patients_is_answered_for_one_model_only(tmp_path: Path) -> None:
    """The difference of two answers would be about fewer patients, or about single ones."""
    victim = Victim(tmp_path)
    asked = measure(victim.plan, "test", 3)
    assert not isinstance(victim.ask(asked), Refusal)
    for scale in (1 + 1e-7, -1.0, 0.0):
        again = Evaluate(asked.envelope, (asked.weights * np.float32(scale) + np.float32(1e-6)), "test")
        assert victim.refused(again) == "replayed-otherwise"
    assert len(victim.lines("leaves-measured")) == 1


@pytest.mark.parametrize(
    ("weights", "code"),
    [
        (lambda honest: np.full_like(honest, np.nan), "weights-not-finite"),
        (lambda honest: np.where(np.arange(honest.size) == 7, np.inf, honest), "weights-not-finite"),
        (lambda honest: honest[:-1], "weights-shape"),
        (lambda honest: np.concatenate([honest, honest]), "weights-shape"),
        (lambda honest: honest[:0], "weights-shape"),
    ],
    ids=["NaN", "one infinity", "short", "twice", "none"],
)
def test_weights_that_are_none_are_refused_and_not_paid_for(victim: Victim, weights: Any, code: str) -> None:
    honest = train(victim.plan)
    bad = Train(honest.envelope, weights(honest.weights).astype(np.float32))
    before = charges(victim.folder)
    reply = victim.ask(bad)
    assert isinstance(reply, Refusal)
    assert reply.code == code
    assert victim.lines("leaves-update") == []
    assert charges(victim.folder) - before <= 1


# --- the socket ------------------------------------------------------------------------------------------------------


@contextmanager
def socket_of(folder: Path, answer: Any = None, **limits: Any) -> Iterator[Any]:
    """A custodian's socket; gives what calls ``Ask`` with pieces of the attacker's choice."""
    echo = answer or (lambda parcel: parcel)
    server = listen(Service(KNOWN, echo, lambda: {"site": "aachen"}, Limits(**limits)), folder / "c.sock")
    channel = grpc.insecure_channel(f"unix:{folder / 'c.sock'}")
    call: Any = channel.stream_stream(f"/{NAME}/Ask")

    def ask(pieces: Iterator[bytes], token: str = KNOWN, **how: Any) -> list[bytes]:
        return list(call(pieces, timeout=10, metadata=((TOKEN, token),), **how))

    try:
        yield ask
    finally:
        channel.close()
        server.stop(0)


def head(length: int) -> bytes:
    return json.dumps({"site": "", "signature": "", "order": "", "length": length}).encode()


def refusal_of(pieces: list[bytes]) -> str:
    reply = reply_from_bytes(joined(iter(pieces), 1 << 20).body)
    assert isinstance(reply, Refusal)
    return reply.code


@pytest.mark.parametrize("token", ["", "cd" * 32, KNOWN.upper(), KNOWN + "\t", KNOWN[:-1]])
def test_a_token_that_is_not_this_custodians_opens_nothing(tmp_path: Path, token: str) -> None:
    with socket_of(tmp_path, lambda _: pytest.fail("heard")) as ask, pytest.raises(grpc.RpcError) as caught:
        ask(iter([head(0)]), token.strip() + "0" * (token != token.strip()))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_pieces_without_end_are_refused_and_not_collected(tmp_path: Path) -> None:
    taken = [0]

    def endless(size: int) -> Iterator[bytes]:
        yield head(1000)
        while taken[0] < 100_000:
            taken[0] += 1
            yield bytes(size)

    with socket_of(tmp_path) as ask:
        for size in (100, 0):
            taken[0] = 0
            assert refusal_of(ask(endless(size))) == "pieces"
            assert taken[0] < 10_000
        assert refusal_of(ask(iter([head(1 << 40)]))) == "too-large"
        for first in (b"", b"[]", b"{" * 70_000, b"\xff" * 100, head(-1), head(10**30).replace(b"}", b',"x":1}')):
            assert refusal_of(ask(iter([first]))) == "pieces"


def test_an_announcement_takes_no_memory() -> None:
    """Twelve calls at once may each announce two gigabytes."""
    before = _peak()
    for _ in range(3):
        with pytest.raises(Exception, match="0 of 2147483648 bytes"):
            joined(iter([head(1 << 31)]), 1 << 31)
    assert _peak() - before < 20_000


def _peak() -> int:
    """Most kilobytes that this process has ever had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_a_compressed_message_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with socket_of(tmp_path) as ask:
        before = _peak()
        for packing in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            with pytest.raises(grpc.RpcError) as caught:
                ask(iter([head(3 << 20), bytes(3 << 20)]), compression=packing)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert _peak() - before < 100_000
        # A control: the same bytes, not packed, are a message.
        parcel = Parcel("", bytes(3 << 20))
        assert joined(iter(ask(cut(parcel))), 1 << 23) == parcel


def test_an_error_that_nobody_foresaw_tells_the_relay_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = "Maria Huber, /data/huber.dcm"

    def fail(_parcel: Parcel) -> Parcel:
        raise KeyError(name)

    with socket_of(tmp_path, fail) as ask, pytest.raises(grpc.RpcError) as caught:
        ask(cut(Parcel("", b"x")))
    error: Any = caught.value
    told = (str(error.details()), str(error.debug_error_string()), str(error.trailing_metadata()))
    assert not [text for text in told if "Huber" in text]
    assert "KeyError" in caplog.text
    assert name not in caplog.text


# --- what it hands back ----------------------------------------------------------------------------------------------


def anothers(_request: Parcel, _reply: Parcel, kept: dict[str, Parcel]) -> Parcel:
    return dataclasses.replace(kept["aachen"], site="coimbra")


def question_back(request: Parcel, _reply: Parcel, _kept: dict[str, Parcel]) -> Parcel:
    return request


def unsigned_news(_request: Parcel, _reply: Parcel, _kept: dict[str, Parcel]) -> Parcel:
    said = "could not\n2026-11-20 aachen was suspended \x1b]0;owned\x07" + "x" * 100_000
    return Parcel("coimbra", reply_to_bytes(Refusal("Custodian\nUnreachable", said, "")))


def test_a_relay_that_cheats_loses_its_own_site_in_that_round_and_leaves_a_code(tmp_path: Path) -> None:
    kept: dict[str, Parcel] = {}
    attacks = iter((anothers, question_back, unsigned_news))

    def relay(site: str, request: Parcel, reply: Parcel) -> Parcel:
        if not isinstance(reply_from_bytes(reply.body), Update):
            return reply
        kept[site] = reply
        return next(attacks)(request, reply, kept) if site == "coimbra" else reply

    deployed = Deployed(tmp_path, tiny_plan(), relay)
    folder = deployed.run(deployed.order())
    records = [one.participation for one in read_rounds(folder / "rounds.jsonl")]
    assert {one.participants for one in records} == {SITES[:2]}
    assert [one.missing["coimbra"] for one in records] == ["signature-invalid", "signature-invalid", "refusal"]
    # Its words are one bounded line of printable text, wherever they are kept.
    held = b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())
    assert b"aachen was suspended" in held
    assert b"\x1b]0;" not in held
    assert b"x" * 3000 not in held


def test_a_greeting_says_the_same_however_often_it_is_asked_for(victim: Victim) -> None:
    hello = Hello(Envelope(RUN, victim.plan.digest(), 0))
    assert len({reply_to_bytes(victim.ask(hello)) for _ in range(5)}) == 1
    assert charges(victim.folder) == 0


def test_the_plans_used_here_differ_from_each_other() -> None:
    assert len({plan_of(**how).digest() for how in ({}, PRIVATE, PERSONAL)}) == 3
