"""Joining at the site: the first accepted lead is pinned for good, only newer papers replace older, all is logged."""

import json
import shutil
import stat
from pathlib import Path
from unittest import mock

import pytest
from small_trust import DAY, HOUR, NOW, Lead, Member, authority_pem, code_of, new_site, node_pem

from client import pinned as pinned_files
from client.enrolment import accept, offered, request, require_pinned, take_roster
from client.governance import audit
from client.site_folder import SiteFolder
from shared.crypto import node_keys
from shared.crypto.authority import Authority
from shared.crypto.signing import SigningKey
from shared.errors import PolicyError
from shared.trust import roster as rosters
from shared.trust.documents import seal
from shared.trust.enrolment import Coordinator, make_welcome, open_request, open_welcome
from shared.trust.roster import Entry, Roster

BONN = Member("bonn")


class Told:
    """A lead who has enrolled the site of this test, and others, and goes on changing the roster."""

    def __init__(self, site: SiteFolder, key: SigningKey | None = None, federation: str = "lungs") -> None:
        self.key = key or SigningKey.generate()
        entry = open_request(request(site, NOW)).entry
        self.roster = rosters.with_site(rosters.first(federation, NOW), entry, NOW)

    def add(self, entry: Entry = BONN.entry) -> None:
        self.roster = rosters.with_site(self.roster, entry, NOW)

    def set_state(self, state: str) -> None:
        self.roster = rosters.with_state(self.roster, "aachen", state, NOW)  # type: ignore[arg-type]

    def roster_file(self) -> bytes:
        return seal(self.roster, self.key)

    def welcome(self, address: str = "lead.example:443", days: int = 0, ca: str = "", site: str = "aachen") -> bytes:
        coordinator = Coordinator(self.roster.federation, address, ca or authority_pem())
        return make_welcome(self.key, coordinator, self.roster_file(), site, NOW + days * DAY)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SiteFolder:
    return new_site(tmp_path_factory.mktemp("made"))


@pytest.fixture
def site(made: SiteFolder, tmp_path: Path) -> SiteFolder:
    shutil.copytree(made.path, tmp_path / "aachen")
    return SiteFolder.open(tmp_path / "aachen")


@pytest.fixture
def lead(site: SiteFolder) -> Told:
    return Told(site)


@pytest.fixture
def joined(site: SiteFolder, lead: Told) -> SiteFolder:
    accept(site, lead.welcome(), NOW)
    return site


def log(site: SiteFolder) -> list[dict[str, object]]:
    return [json.loads(line) for line in (site.path / "audit.jsonl").read_text().splitlines()]


def events(site: SiteFolder) -> list[object]:
    return [line["event"] for line in log(site)]


def trusted(site: SiteFolder) -> dict[str, bytes]:
    folder = site.path / "trust"
    return {one.name: one.read_bytes() for one in folder.glob("*")} if folder.exists() else {}


def refused(site: SiteFolder, content: bytes) -> str:
    """The code of a refusal, which changed nothing and is in the log."""
    before = {name: text for name, text in trusted(site).items() if name != "lock"}
    lines = len(events(site))
    code = code_of(lambda: accept(site, content, NOW))
    assert {name: text for name, text in trusted(site).items() if name != "lock"} == before
    last = log(site)[-1]
    assert (len(events(site)), last["event"], last["counts"]) == (lines + 1, "accept-refused", {code: 1})
    return code


# --- asking ----------------------------------------------------------------------------------------------------------


def test_a_request_bears_the_sites_own_keys_and_versions(site: SiteFolder) -> None:
    found = open_request(request(site, NOW))
    assert found.site == "aachen"
    assert found.identity == site.signing_key().verify_key.hex()
    assert found.node == node_keys.public_pem(node_keys.load(site.path / "keys/node.pem"))
    assert set(found.versions) == {"python", "consilium", "flwr", "torch", "monai"}


def test_the_node_key_is_made_once_and_is_its_owners_alone(site: SiteFolder) -> None:
    first = open_request(request(site, NOW))
    path = site.path / "keys/node.pem"
    content = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert open_request(request(site, NOW + DAY)).node == first.node
    assert path.read_bytes() == content


def test_a_request_holds_none_of_the_sites_secrets(site: SiteFolder) -> None:
    content = request(site, NOW)
    for name in ("identity.pem", "node.pem"):
        assert (site.path / "keys" / name).read_bytes().splitlines()[1] not in content
    assert (site.path / "keys/pseudonyms.secret").read_bytes().strip() not in content


def test_a_request_is_in_the_log_with_its_digests(site: SiteFolder) -> None:
    request(site, NOW)
    last = log(site)[-1]
    assert last["event"] == "request"
    assert set(last["digests"]) == {"identity", "node", "request"}  # type: ignore[call-overload]
    assert audit.verify(site.path / "audit.jsonl", site.signing_key().verify_key).lines == 2


def test_nothing_is_asked_where_it_cannot_be_logged(site: SiteFolder) -> None:
    (site.path / "audit.jsonl").write_text("broken\n")
    assert code_of(lambda: request(site, NOW)) == "audit-broken"
    assert not (site.path / "keys/node.pem").exists()


# --- the first welcome -----------------------------------------------------------------------------------------------


def test_a_site_that_accepted_nothing_belongs_nowhere(site: SiteFolder) -> None:
    assert site.pinned is None
    assert site.coordinator() == (None, None)
    assert code_of(lambda: require_pinned(site)) == "not-enrolled"
    assert code_of(lambda: take_roster(site, b"", NOW)) == "not-enrolled"


def test_accepting_pins_lead_address_authority_and_roster(site: SiteFolder, lead: Told) -> None:
    assert accept(site, lead.welcome(), NOW).news == "first"
    held = require_pinned(site)
    assert held.lead == lead.key.verify_key
    assert (held.federation, held.address, held.standing) == ("lungs", "lead.example:443", "active")
    assert held.roster == lead.roster
    assert held.ca_file.read_text() == authority_pem()


def test_the_folder_holds_the_lead_s_own_papers_for_its_owner_alone(joined: SiteFolder, lead: Told) -> None:
    found = trusted(joined)
    assert found["welcome.json"] == lead.welcome()
    assert found["roster.json"] == lead.roster_file()
    assert stat.S_IMODE((joined.path / "trust").stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in (joined.path / "trust").iterdir()} == {0o600}


def test_the_coordinator_is_what_was_pinned_unless_the_settings_say_otherwise(joined: SiteFolder) -> None:
    assert joined.coordinator() == ("lead.example:443", joined.path / "trust/ca.pem")
    text = (joined.path / "site.toml").read_text().replace('address = ""', 'address = "relay.hospital:8443"')
    (joined.path / "site.toml").write_text(text)
    assert SiteFolder.open(joined.path).coordinator() == ("relay.hospital:8443", joined.path / "trust/ca.pem")
    (joined.path / "site.toml").write_text(text.replace('ca_file = ""', 'ca_file = "own.pem"'))
    assert SiteFolder.open(joined.path).coordinator() == ("relay.hospital:8443", joined.path / "own.pem")


def test_looking_at_a_welcome_pins_nothing(site: SiteFolder, lead: Told) -> None:
    assert offered(site, lead.welcome(), NOW).news == "first"
    assert site.pinned is None
    assert events(site) == ["init", "request"]


def test_what_was_accepted_is_in_the_log_before_it_takes_effect(site: SiteFolder, lead: Told) -> None:
    full = mock.patch("client.enrolment.keep_welcome", side_effect=OSError(28, "No space left on device"))
    with full, pytest.raises(OSError, match="No space"):
        accept(site, lead.welcome(), NOW)
    last = log(site)[-1]
    assert last["event"] == "accept"
    assert set(last["digests"]) == {"welcome", "lead", "authority", "roster"}  # type: ignore[call-overload]
    assert site.pinned is None
    assert accept(site, lead.welcome(), NOW).news == "first"


def test_nothing_is_accepted_where_it_cannot_be_logged(site: SiteFolder, lead: Told) -> None:
    content = lead.welcome()
    (site.path / "audit.jsonl").write_text("broken\n")
    assert code_of(lambda: accept(site, content, NOW)) == "audit-broken"
    assert site.pinned is None


@pytest.mark.parametrize("done", range(3))
def test_a_site_killed_while_it_pins_has_pinned_nothing_or_everything(site: SiteFolder, lead: Told, done: int) -> None:
    real, calls = pinned_files.replace_file, [0]

    def killed(path: Path, content: bytes) -> None:
        calls[0] += 1
        if calls[0] > done:
            raise KeyboardInterrupt
        real(path, content)

    with mock.patch.object(pinned_files, "replace_file", killed), pytest.raises(KeyboardInterrupt):
        accept(site, lead.welcome(), NOW)
    assert site.pinned is None
    stranger = Told(site)
    accept(site, stranger.welcome(), NOW)
    assert require_pinned(site).lead == stranger.key.verify_key


# --- whose welcome ---------------------------------------------------------------------------------------------------


def test_a_welcome_for_another_site_is_refused(site: SiteFolder, lead: Told) -> None:
    lead.add()
    assert refused(site, lead.welcome(site="bonn")) == "welcome-site"


def test_a_welcome_that_enrols_other_keys_under_our_name_is_refused(site: SiteFolder) -> None:
    """Somebody else got in under this name: the lead compared words with the wrong person, or nobody did."""
    thief = Lead((Member("aachen"),))
    assert refused(site, thief.welcome("aachen")) == "welcome-keys"


def test_a_welcome_with_our_identity_and_another_node_key_is_refused(site: SiteFolder, lead: Told) -> None:
    entry = lead.roster.sites[0].model_copy(update={"node": node_pem("elsewhere")})
    lead.roster = lead.roster.model_copy(update={"sites": (entry,)})
    assert refused(site, lead.welcome()) == "welcome-keys"


def test_a_site_that_never_asked_accepts_nothing(made: SiteFolder, lead: Told, tmp_path: Path) -> None:
    shutil.copytree(made.path, tmp_path / "silent")
    assert refused(SiteFolder.open(tmp_path / "silent"), lead.welcome()) == "welcome-keys"


def test_another_lead_is_refused_once_one_is_pinned(joined: SiteFolder, lead: Told) -> None:
    with pytest.raises(PolicyError, match=lead.key.verify_key.fingerprint()):
        offered(joined, Told(joined).welcome(days=1), NOW)
    assert refused(joined, Told(joined).welcome(days=1)) == "pinned"


def test_another_federation_of_the_same_lead_is_refused(joined: SiteFolder, lead: Told) -> None:
    assert refused(joined, Told(joined, lead.key, "livers").welcome(days=1)) == "pinned"


def test_another_authority_is_refused_although_the_lead_has_signed_it(joined: SiteFolder, lead: Told) -> None:
    lead.add()
    other = Authority.create("lungs", NOW).certificate_pem().decode()
    assert refused(joined, lead.welcome(days=1, ca=other)) == "pinned"


def test_a_welcome_with_a_byte_changed_is_refused_and_logged(site: SiteFolder, lead: Told) -> None:
    content = bytearray(lead.welcome())
    content[len(content) // 2] ^= 1
    assert refused(site, bytes(content)) in {"signature-invalid", "document-form"}
    assert refused(site, b"") == "document-form"


# --- newer and older -------------------------------------------------------------------------------------------------


def test_the_same_welcome_again_changes_nothing_and_is_not_logged_again(joined: SiteFolder, lead: Told) -> None:
    before, said = trusted(joined), events(joined)
    assert accept(joined, lead.welcome(), NOW + HOUR).news == "same"
    assert (trusted(joined), events(joined)) == (before, said)


def test_a_newer_welcome_of_the_same_lead_replaces_the_older(joined: SiteFolder, lead: Told) -> None:
    lead.add()
    assert accept(joined, lead.welcome("new.example:8443", days=1), NOW + DAY).news == "newer"
    held = require_pinned(joined)
    assert (held.address, held.roster.version) == ("new.example:8443", 3)
    assert events(joined)[-2:] == ["accept", "accept"]


def test_a_new_address_under_the_same_roster_is_newer_by_its_time(joined: SiteFolder, lead: Told) -> None:
    older = lead.welcome("old.example:443", days=1)
    accept(joined, lead.welcome("new.example:443", days=2), NOW + 2 * DAY)
    assert refused(joined, older) == "welcome-older"
    assert require_pinned(joined).address == "new.example:443"


def test_an_older_welcome_is_refused(joined: SiteFolder, lead: Told) -> None:
    older = lead.welcome(days=5)
    lead.add()
    accept(joined, lead.welcome(days=1), NOW)
    assert refused(joined, older) == "roster-older"


def test_two_histories_of_one_lead_are_refused(joined: SiteFolder, lead: Told) -> None:
    before = lead.roster
    lead.add()
    accept(joined, lead.welcome(days=1), NOW)
    lead.roster = rosters.with_site(before, Member("celle").entry, NOW)
    assert refused(joined, lead.welcome(days=2)) == "roster-fork"


def test_two_who_accept_at_once_do_not_go_back(joined: SiteFolder, lead: Told) -> None:
    """What was offered as newer is judged again when it is accepted."""
    early = lead.welcome("one.example:443", days=1)
    assert offered(joined, early, NOW).news == "newer"
    accept(joined, lead.welcome("two.example:443", days=2), NOW)
    assert refused(joined, early) == "welcome-older"


# --- rosters alone ---------------------------------------------------------------------------------------------------


def test_a_newer_roster_is_held_and_the_welcome_stays(joined: SiteFolder, lead: Told) -> None:
    welcome = trusted(joined)["welcome.json"]
    lead.add()
    held = take_roster(joined, lead.roster_file(), NOW)
    assert held.roster == lead.roster
    assert trusted(joined)["welcome.json"] == welcome
    assert events(joined)[-1] == "roster"


def test_the_same_roster_again_is_no_news(joined: SiteFolder, lead: Told) -> None:
    said = events(joined)
    assert take_roster(joined, lead.roster_file(), NOW).roster == lead.roster
    assert events(joined) == said


def test_an_older_roster_is_refused_and_logged(joined: SiteFolder, lead: Told) -> None:
    older = lead.roster_file()
    lead.set_state("suspended")
    take_roster(joined, lead.roster_file(), NOW)
    assert code_of(lambda: take_roster(joined, older, NOW)) == "roster-older"
    assert log(joined)[-1]["counts"] == {"roster-older": 1}
    assert require_pinned(joined).standing == "suspended"


def test_somebody_elses_roster_is_refused(joined: SiteFolder, lead: Told) -> None:
    lead.add()
    forged = seal(lead.roster, SigningKey.generate())
    assert code_of(lambda: take_roster(joined, forged, NOW)) == "signer"
    assert require_pinned(joined).roster.version == 2


def test_an_old_welcome_does_not_undo_a_newer_roster(joined: SiteFolder, lead: Told) -> None:
    between = lead.welcome("new.example:443", days=1)
    lead.set_state("suspended")
    take_roster(joined, lead.roster_file(), NOW)
    assert refused(joined, between) == "roster-older"
    assert accept(joined, trusted(joined)["welcome.json"], NOW).news == "same"
    assert require_pinned(joined).standing == "suspended"


def test_a_site_sees_how_it_stands(joined: SiteFolder, lead: Told) -> None:
    seen = [require_pinned(joined).standing]
    for state in ("suspended", "active"):
        lead.set_state(state)
        seen.append(take_roster(joined, lead.roster_file(), NOW).standing)
    lead.roster = rosters.without(lead.roster, "aachen", NOW)
    seen.append(take_roster(joined, lead.roster_file(), NOW).standing)
    lead.add(Member("aachen").entry)
    seen.append(take_roster(joined, lead.roster_file(), NOW).standing)
    assert seen == ["active", "suspended", "active", "removed", "removed"]


# --- what lies on the disk -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["welcome.json", "roster.json", "ca.pem"])
def test_a_changed_file_is_damage_and_not_another_federation(joined: SiteFolder, name: str) -> None:
    path = joined.path / "trust" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    assert code_of(lambda: joined.pinned) == "pinned-damaged"
    assert code_of(joined.coordinator) == "pinned-damaged"


def test_a_missing_authority_is_damage(joined: SiteFolder) -> None:
    (joined.path / "trust/ca.pem").unlink()
    assert code_of(lambda: joined.pinned) == "pinned-damaged"


def test_a_welcome_swapped_for_another_leads_does_not_go_with_the_roster(joined: SiteFolder) -> None:
    (joined.path / "trust/welcome.json").write_bytes(Told(joined).welcome())
    assert code_of(lambda: joined.pinned) == "pinned-damaged"


def test_a_roster_older_than_the_welcomes_is_not_used(joined: SiteFolder, lead: Told) -> None:
    """A copy of one file that was put back must not bring a removed site back."""
    older = trusted(joined)["roster.json"]
    lead.add()
    accept(joined, lead.welcome(days=1), NOW)
    (joined.path / "trust/roster.json").write_bytes(older)
    assert require_pinned(joined).roster.version == 3


def test_the_log_of_a_site_that_joined_is_whole(joined: SiteFolder, lead: Told) -> None:
    lead.add()
    take_roster(joined, lead.roster_file(), NOW)
    refused(joined, b"nonsense")
    assert audit.verify(joined.path / "audit.jsonl", joined.signing_key().verify_key).lines == 5
    assert events(joined) == ["init", "request", "accept", "roster", "accept-refused"]


def test_the_roster_in_the_papers_is_the_one_of_the_helper(joined: SiteFolder, lead: Told) -> None:
    _, found = open_welcome(trusted(joined)["welcome.json"])
    assert isinstance(found, Roster)
    assert found == lead.roster
