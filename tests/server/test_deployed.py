"""A deployed run without a network: what was signed is run, what is not proved does not count, nothing is lost."""

import dataclasses
import json
from datetime import timedelta
from pathlib import Path

import pytest
from deployed_federation import SITES, Deployed
from tiny_federation import MemoryFleet, tiny_plan
from tiny_federation import coordinate as simulate

from server.deployed.live import read_live
from server.deployed.run_folder import KEY, ORDER, SIGNED_PLAN, begin, open_run, ordered, renewed
from server.enrolment import set_state
from server.results import read_results, read_rounds
from shared.crypto.signing import SigningKey
from shared.errors import ConsiliumError, RunError
from shared.message_bytes import reply_from_bytes, reply_to_bytes
from shared.messages import Refusal, Update
from shared.parcels import Parcel, digest, signed_reply
from shared.trust.orders import Times


def checkpoints(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "checkpoints").iterdir())}


def test_a_deployed_run_gives_the_bytes_of_a_simulated_one(tmp_path: Path) -> None:
    plan = tiny_plan()
    deployed = Deployed(tmp_path / "deployed", plan)
    folder = deployed.run(deployed.order())
    (tmp_path / "simulated").mkdir()
    outcome = simulate(plan, MemoryFleet(plan), tmp_path / "simulated")
    assert checkpoints(folder) == checkpoints(tmp_path / "simulated")
    assert read_results(folder).checkpoint == outcome.checkpoint
    assert (folder / "report.html").is_file()


def test_every_question_and_answer_has_its_line_at_the_sites(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path, tiny_plan(plan__rounds=2))
    deployed.run(deployed.order())
    for book in deployed.books.values():
        assert [line[1] for line in book.lines] == ["Welcome", "Update", "Measured", "Update", "Measured", "Measured"]


def test_what_goes_on_stands_in_one_small_file(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path, tiny_plan())
    found = deployed.order()
    assert read_live(found.path) is None
    deployed.run(found)
    live = read_live(found.path)
    assert live is not None
    assert (live.state, live.phase, live.round, live.rounds) == ("finished", "finished", 3, 3)
    assert live.value is not None
    assert live.failed == {}


def test_who_is_asked_is_known_before_anybody_has_answered(tmp_path: Path) -> None:
    seen: list[tuple[str, int, tuple[str, ...]]] = []

    def look(site: str, _request: Parcel, reply: Parcel) -> Parcel:
        live = read_live(found.path)
        if site == SITES[0] and live is not None:
            seen.append((live.phase, live.round, live.asked))
        return reply

    deployed = Deployed(tmp_path, tiny_plan(plan__rounds=1), look)
    found = deployed.order()
    deployed.run(found)
    phases = ["admitting", "training", "measuring", "testing"]
    assert seen == [(phase, int(phase != "admitting"), SITES) for phase in phases]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"run": 1}', b'{"asked": [], "answered": [], "more": 1}'])
def test_a_file_that_cannot_be_read_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "live.json").write_bytes(content)
    assert read_live(tmp_path) is None


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    class KilledError(BaseException):
        pass

    plan, seen = tiny_plan(), []

    def die_once(site: str, request: Parcel, reply: Parcel) -> Parcel:
        del request
        if site == "bergen" and isinstance(reply_from_bytes(reply.body), Update):
            seen.append(1)
            if len(seen) == 2:
                raise KilledError
        return reply

    deployed = Deployed(tmp_path / "killed", plan, die_once)
    found = deployed.order()
    with pytest.raises(KilledError):
        deployed.run(found)
    live = read_live(found.path)
    assert live is not None
    assert live.state == "failed"
    deployed.run(found)
    whole = Deployed(tmp_path / "whole", plan)
    assert checkpoints(found.path) == checkpoints(whole.run(whole.order()))
    assert [record.participation.participants for record in read_rounds(found.path / "rounds.jsonl")] == [SITES] * 3


def forged(site: str, request: Parcel, reply: Parcel) -> Parcel:
    return signed_reply(reply.body, site, digest(request.body), SigningKey.generate())


def changed(_site: str, _request: Parcel, reply: Parcel) -> Parcel:
    return dataclasses.replace(reply, body=reply.body[:-1] + bytes([reply.body[-1] ^ 1]))


def renamed(_site: str, _request: Parcel, reply: Parcel) -> Parcel:
    return dataclasses.replace(reply, site="aachen")


def unsigned(_site: str, _request: Parcel, reply: Parcel) -> Parcel:
    return dataclasses.replace(reply, signature=b"")


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        (forged, "signature-invalid"),
        (changed, "signature-invalid"),
        (renamed, "signature-invalid"),
        (unsigned, "unsigned"),
    ],
    ids=["stolen node key", "changed update", "another's name", "no signature"],
)
def test_a_relay_that_cheats_loses_its_site_and_nobody_else_s(tmp_path: Path, attack: object, code: str) -> None:
    def relay(site: str, request: Parcel, reply: Parcel) -> Parcel:
        cheats = site == "coimbra" and isinstance(reply_from_bytes(reply.body), Update)
        return attack(site, request, reply) if cheats else reply  # type: ignore[operator, no-any-return]

    deployed = Deployed(tmp_path, tiny_plan(), relay)
    records = read_rounds(deployed.run(deployed.order()) / "rounds.jsonl")
    assert [record.participation.participants for record in records] == [SITES[:2]] * 3
    assert {record.participation.missing["coimbra"] for record in records} == {code}


def test_a_reply_of_an_earlier_round_does_not_count_again(tmp_path: Path) -> None:
    kept: list[Parcel] = []

    def replay(site: str, _request: Parcel, reply: Parcel) -> Parcel:
        if site == "bergen" and isinstance(reply_from_bytes(reply.body), Update):
            kept.append(reply)
            return kept[0]
        return reply

    deployed = Deployed(tmp_path, tiny_plan(), replay)
    records = read_rounds(deployed.run(deployed.order()) / "rounds.jsonl")
    assert records[0].participation.participants == SITES
    assert records[1].participation.missing == {"bergen": "signature-invalid"}


def test_a_suspended_site_is_not_asked(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path, tiny_plan())
    set_state(deployed.federation, "coimbra", "suspended", deployed.lead, deployed.now())
    records = read_rounds(deployed.run(deployed.order()) / "rounds.jsonl")
    assert records[0].participation.participants == SITES[:2]
    assert deployed.books["coimbra"].lines == []


def test_a_site_that_did_not_approve_is_missing_with_that_reason_and_joins_when_it_has(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path, tiny_plan(plan__rounds=4))
    deployed.books["aachen"].withdrawn = True

    def approve_later(site: str, request: Parcel, reply: Parcel) -> Parcel:
        del request
        if site == "bergen" and len(deployed.books["bergen"].lines) == 4:
            deployed.books["aachen"].withdrawn = False
        return reply

    deployed.relay = approve_later
    records = read_rounds(deployed.run(deployed.order()) / "rounds.jsonl")
    assert records[0].participation.missing == {"aachen": "withdrawn"}
    assert records[-1].participation.participants == SITES


def test_too_few_sites_end_the_run_with_a_reason_in_its_folder(tmp_path: Path) -> None:
    deployed = Deployed(
        tmp_path, tiny_plan(participation__quorum=3), lambda site, _asked, reply: reply if site != "aachen" else None
    )
    found = deployed.order()
    with pytest.raises(RunError, match="quorum"):
        deployed.run(found)
    live = read_live(found.path)
    assert live is not None
    assert live.state == "failed"
    assert "2 sites" in live.sentence
    assert live.hint


def test_nobody_else_can_read_a_run_s_key(tmp_path: Path) -> None:
    found = Deployed(tmp_path, tiny_plan()).order()
    assert (found.path / KEY).stat().st_mode & 0o777 == 0o600
    assert found.path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", [ORDER, SIGNED_PLAN])
def test_a_run_whose_order_or_plan_was_changed_is_not_coordinated(tmp_path: Path, name: str) -> None:
    deployed = Deployed(tmp_path, tiny_plan())
    found = deployed.order()
    path = found.path / name
    path.write_bytes(path.read_bytes().replace(b"2", b"3", 1))
    with pytest.raises(ConsiliumError):
        open_run(deployed.federation, found.run)


def test_an_order_for_another_plan_is_refused(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path, tiny_plan())
    found = deployed.order()
    other = begin(deployed.federation, tiny_plan(plan__rounds=5), deployed.lead, deployed.now(), timedelta(days=1))
    (found.path / SIGNED_PLAN).write_bytes((other.path / SIGNED_PLAN).read_bytes())
    with pytest.raises(RunError, match="another plan"):
        open_run(deployed.federation, found.run)


def test_runs_are_found_by_the_start_of_their_name(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path, tiny_plan())
    found = [deployed.order() for _ in range(3)]
    assert sorted(ordered(deployed.federation)) == sorted(one.run for one in found)
    assert open_run(deployed.federation, found[1].run[:10]).run == found[1].run
    for start in ("", found[0].run[:2], "zzzz"):
        with pytest.raises(RunError, match="runs begin with"):
            open_run(deployed.federation, start)


def test_a_run_whose_order_is_over_goes_on_under_a_new_one(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path, tiny_plan())
    found = begin(
        deployed.federation, deployed.plan, deployed.lead, deployed.now() - timedelta(days=9), timedelta(days=1)
    )
    with pytest.raises(RunError):
        deployed.run(found)
    journal = {line[1] for line in deployed.books["aachen"].lines}
    assert journal == {"order-expired"}
    again = renewed(
        deployed.federation, found, deployed.lead, Times(deployed.now(), deployed.now() + timedelta(days=1))
    )
    assert again.run == found.run
    deployed.run(again)
    assert read_live(found.path).state == "finished"  # type: ignore[union-attr]


def test_a_folder_that_is_coordinated_already_is_refused(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path, tiny_plan())
    found = deployed.order()

    def second(_site: str, _request: Parcel, reply: Parcel) -> Parcel:
        with pytest.raises(RunError, match="open in another process"):
            Deployed.run(deployed, found)
        return reply

    deployed.relay = second
    deployed.run(found)


def test_a_refusal_of_a_site_is_in_the_report_s_words_and_not_more(tmp_path: Path) -> None:
    def refuse(site: str, request: Parcel, reply: Parcel) -> Parcel:
        if site != "coimbra":
            return reply
        body = reply_to_bytes(Refusal("too-few-patients", "sits out", ""))
        return signed_reply(body, site, digest(request.body), deployed.identities[site])

    deployed = Deployed(tmp_path, tiny_plan())
    deployed.relay = refuse
    folder = deployed.run(deployed.order())
    said = json.loads((folder / "results.json").read_text())
    assert said["participation"][0]["missing"] == {"coimbra": "too-few-patients"}
