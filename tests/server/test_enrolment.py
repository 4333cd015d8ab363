"""Enrolment at the coordinator: stolen names and keys are refused, and no site notices what is done to another."""

import shutil
from pathlib import Path

import pytest
from small_trust import HOUR, NOW, Member, code_of, new_federation, no_passphrase, node_pem

from server.enrolment import enrol, remove, set_state, sign
from server.federation_folder import FederationFolder
from shared.crypto.signing import SigningKey
from shared.trust.enrolment import EnrolmentRequest, make_request, open_request, open_welcome
from shared.trust.plans import open_plan
from shared.trust.words import words_of
from simulations.scenario import load

VERSIONS = {"consilium": "0.1.0"}
AACHEN, BONN = Member("aachen"), Member("bonn")


def request(member: Member, name: str = "", node: str = "") -> EnrolmentRequest:
    found = name or member.name
    return open_request(make_request(member.key, found, node or node_pem(member.name), VERSIONS, NOW))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> FederationFolder:
    folder = new_federation(tmp_path_factory.mktemp("made"))
    for member in (AACHEN, BONN):
        enrol(folder, request(member), folder.lead_key(no_passphrase), NOW)
    return folder


@pytest.fixture
def folder(made: FederationFolder, tmp_path: Path) -> FederationFolder:
    shutil.copytree(made.path, tmp_path / "federation")
    return FederationFolder.open(tmp_path / "federation")


@pytest.fixture
def key(folder: FederationFolder) -> SigningKey:
    return folder.lead_key(no_passphrase)


def state(folder: FederationFolder, site: str) -> str:
    entry = folder.roster().entry(site)
    return entry.state if entry else "removed"


# --- enrolling -------------------------------------------------------------------------------------------------------


def test_a_welcome_is_for_the_site_by_the_lead_with_the_address_the_authority_and_the_roster(
    folder: FederationFolder, key: SigningKey
) -> None:
    celle = Member("celle")
    welcome, roster = open_welcome(enrol(folder, request(celle), key, NOW + HOUR))
    assert (welcome.site, welcome.federation, welcome.address) == ("celle", "lungs", "localhost:8443")
    assert welcome.ca == (folder.path / "trust/ca.pem").read_text()
    assert welcome.lead_key == folder.lead
    assert roster == folder.roster()
    assert roster.entry("celle") == celle.entry
    assert roster.version == 4


def test_enrolling_again_with_the_same_keys_writes_the_welcome_again_and_no_roster(
    folder: FederationFolder, key: SigningKey
) -> None:
    before = folder.roster()
    welcome, roster = open_welcome(enrol(folder, request(AACHEN), key, NOW + HOUR))
    assert folder.roster() == before == roster
    assert welcome.created == "2026-11-20T13:00:00+00:00"


def test_enrolling_a_suspended_site_again_does_not_lift_its_suspension(
    folder: FederationFolder, key: SigningKey
) -> None:
    set_state(folder, "aachen", "suspended", key, NOW)
    _, roster = open_welcome(enrol(folder, request(AACHEN), key, NOW))
    entry = roster.entry("aachen")
    assert entry is not None
    assert entry.state == "suspended"


def refusals() -> dict[str, tuple[EnrolmentRequest, str]]:
    """Requests that are each well signed, and why each is refused."""
    thief = Member("thief")
    return {
        "a name with another key": (request(thief, "aachen"), "site-name-taken"),
        "a name and its node key with another key": (request(thief, "aachen", node_pem("aachen")), "site-name-taken"),
        "a key under another name": (request(AACHEN, "celle", node_pem("celle")), "site-key-taken"),
        "a stolen node key under another name": (request(thief, "", node_pem("aachen")), "site-key-taken"),
        "another node key under the same identity": (request(AACHEN, "", node_pem("new")), "site-enrolled"),
        "another sites node key under the same identity": (request(AACHEN, "", node_pem("bonn")), "site-enrolled"),
    }


@pytest.mark.parametrize("what", refusals())
def test_reused_and_stolen_names_and_keys_are_refused_and_nothing_is_written(
    folder: FederationFolder, key: SigningKey, what: str
) -> None:
    asked, code = refusals()[what]
    before = (folder.path / "roster.json").read_bytes()
    assert code_of(lambda: enrol(folder, asked, key, NOW)) == code
    assert (folder.path / "roster.json").read_bytes() == before


def test_words_at_the_coordinator_are_those_of_the_sites_own_key(folder: FederationFolder) -> None:
    entry = folder.roster().entry("aachen")
    assert entry is not None
    assert words_of(entry.verify_key) == words_of(AACHEN.key.verify_key)


# --- suspending and removing -----------------------------------------------------------------------------------------


def test_a_site_is_suspended_reinstated_and_removed_without_the_other_noticing(
    folder: FederationFolder, key: SigningKey
) -> None:
    bonn = folder.roster().entry("bonn")
    steps = []
    for step in ("suspended", "active"):
        set_state(folder, "aachen", step, key, NOW)  # type: ignore[arg-type]
        steps.append(state(folder, "aachen"))
        assert folder.roster().entry("bonn") == bonn
    remove(folder, "aachen", key, NOW)
    steps.append(state(folder, "aachen"))
    assert steps == ["suspended", "active", "removed"]
    assert folder.roster().entry("bonn") == bonn
    assert folder.roster().version == 6


def test_a_removed_site_can_come_back_with_new_keys(folder: FederationFolder, key: SigningKey) -> None:
    heir = Member("aachen")
    remove(folder, "aachen", key, NOW)
    enrol(folder, request(heir, node=node_pem("heir")), key, NOW)
    entry = folder.roster().entry("aachen")
    assert entry is not None
    assert entry.verify_key == heir.key.verify_key


@pytest.mark.parametrize("site", ["celle", "", "../aachen", "AACHEN"])
def test_a_site_that_is_not_there_cannot_be_suspended_or_removed(
    folder: FederationFolder, key: SigningKey, site: str
) -> None:
    assert code_of(lambda: set_state(folder, site, "suspended", key, NOW)) == "site-unknown"
    assert code_of(lambda: remove(folder, site, key, NOW)) == "site-unknown"
    assert folder.roster().version == 3


def test_somebody_elses_key_changes_nothing(folder: FederationFolder) -> None:
    before = (folder.path / "roster.json").read_bytes()
    assert code_of(lambda: set_state(folder, "aachen", "suspended", SigningKey.generate(), NOW)) == "signer"
    assert (folder.path / "roster.json").read_bytes() == before


# --- plans -----------------------------------------------------------------------------------------------------------


def test_a_signed_plan_lies_under_its_digest_and_opens_with_the_leads_key(
    folder: FederationFolder, key: SigningKey
) -> None:
    plan = load("demo").plan
    path = sign(folder, plan, key, NOW)
    assert path == folder.path / "plans" / f"{plan.digest()}.json"
    assert open_plan(path.read_bytes(), folder.lead) == plan


def test_signing_a_plan_twice_keeps_one_file(folder: FederationFolder, key: SigningKey) -> None:
    plan = load("demo").plan
    assert sign(folder, plan, key, NOW) == sign(folder, plan, key, NOW + HOUR)
    assert len(list((folder.path / "plans").iterdir())) == 1
