"""The federation folder: made once, whole or not at all; renewed without its sites; one change of roster at a time."""

import os
import shutil
import ssl
import stat
import subprocess
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import pytest
from loopback import Validity, issue, tls_server
from loopback import authority as other_authority
from small_trust import DAY, NOW, Member, code_of, new_federation, no_passphrase

from client.machine import tls
from client.machine.route import Endpoint, connect
from server import federation_folder
from server.federation_folder import CHAIN_PEM, SERVER_KEY, SERVER_PEM, FederationFolder, settings_for
from server.validity import FEW_DAYS, DaysLeft, days_left
from shared.crypto.certificates import from_pem
from shared.crypto.signing import SigningKey
from shared.trust import roster as rosters
from shared.trust.documents import opened, seal
from shared.trust.roster import Roster

PASSPHRASE = b"four words are enough"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> FederationFolder:
    """Not to be changed."""
    return new_federation(tmp_path_factory.mktemp("made"))


@pytest.fixture
def folder(made: FederationFolder, tmp_path: Path) -> FederationFolder:
    """A copy that a test may change."""
    shutil.copytree(made.path, tmp_path / "federation")
    return FederationFolder.open(tmp_path / "federation")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> FederationFolder:
    path = tmp_path_factory.mktemp("locked") / "federation"
    return FederationFolder.init(path, settings_for("lungs", "lead.example:443"), PASSPHRASE, NOW)


def files(path: Path) -> dict[str, bytes]:
    return {str(one.relative_to(path)): one.read_bytes() for one in sorted(path.rglob("*")) if one.is_file()}


def lead_key(folder: FederationFolder) -> SigningKey:
    return folder.lead_key(no_passphrase)


# --- init ------------------------------------------------------------------------------------------------------------


def test_a_new_federation_has_what_the_contract_names(made: FederationFolder) -> None:
    found = set(files(made.path)) - {"trust/lock"}
    assert found == {
        "federation.toml",
        "roster.json",
        "trust/ca.key",
        "trust/ca.pem",
        "trust/lead.key",
        "trust/lead.pub",
        "tls/server.key",
        "tls/server.pem",
        "tls/chain.pem",
    }
    assert {one.name for one in made.path.iterdir() if one.is_dir()} == {"trust", "tls", "plans", "runs", "link", "log"}


def test_everything_is_its_owners_alone(made: FederationFolder) -> None:
    for path in (made.path, *made.path.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path.name


def test_the_settings_are_those_given_and_a_person_can_read_them(made: FederationFolder) -> None:
    text = (made.path / "federation.toml").read_text()
    assert text.startswith("# ")
    assert tomllib.loads(text) == {
        "name": "lungs",
        "host": "localhost",
        "port": 8443,
        "names": ["localhost", "127.0.0.1"],
        "listen": "",
    }
    assert made.settings.address == "localhost:8443"


def test_the_first_roster_is_empty_and_signed_by_the_lead(made: FederationFolder) -> None:
    content = (made.path / "roster.json").read_bytes()
    assert opened(content, Roster, lead_key(made).verify_key) == rosters.first("lungs", NOW) == made.roster()


def test_the_lead_is_known_without_a_passphrase(locked: FederationFolder) -> None:
    key = locked.lead_key(lambda: PASSPHRASE)
    assert key.verify_key == locked.lead
    assert locked.roster().version == 1


def test_two_federations_share_no_key(made: FederationFolder, locked: FederationFolder) -> None:
    ours, theirs = files(made.path), files(locked.path)
    assert all(ours[name] != theirs[name] for name in ours if name != "trust/lock")


@pytest.mark.parametrize("name", ["trust/ca.key", "trust/lead.key"])
def test_a_passphrase_locks_both_keys_of_the_root(locked: FederationFolder, made: FederationFolder, name: str) -> None:
    assert b"BEGIN PRIVATE KEY" not in (locked.path / name).read_bytes()
    assert b"BEGIN PRIVATE KEY" in (made.path / name).read_bytes()


def test_the_servers_own_key_stays_plain_because_it_starts_without_anybody(locked: FederationFolder) -> None:
    assert b"BEGIN PRIVATE KEY" in (locked.path / SERVER_KEY).read_bytes()


def test_a_wrong_passphrase_opens_neither_lead_nor_authority(locked: FederationFolder) -> None:
    before = files(locked.path)
    assert code_of(lambda: locked.lead_key(lambda: b"five words")) == "passphrase-wrong"
    assert code_of(lambda: locked.renew(lambda: b"five words", NOW)) == "passphrase-wrong"
    assert files(locked.path) == before


def test_the_root_of_trust_is_made_once(folder: FederationFolder) -> None:
    before = files(folder.path)
    again = lambda: FederationFolder.init(folder.path, folder.settings, None, NOW)  # noqa: E731
    assert code_of(again) == "federation-exists"
    assert files(folder.path) == before


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    init = lambda path: FederationFolder.init(path, settings_for("a", "b:1"), None, NOW)  # noqa: E731
    assert code_of(lambda: init(tmp_path)) == "folder-not-empty"
    assert code_of(lambda: init(tmp_path / "thesis.txt")) == "folder-not-empty"
    assert code_of(lambda: init(tmp_path / "thesis.txt/under")) in {"folder-unwritable", "folder-not-empty"}
    assert files(tmp_path) == {"thesis.txt": b"years"}


@pytest.mark.parametrize("after", range(6))
def test_an_init_that_fails_leaves_nothing_behind(tmp_path: Path, after: int) -> None:
    """A full disk at any of the writes."""
    real, calls = federation_folder.replace_file, [0]

    def full(path: Path, content: bytes) -> None:
        calls[0] += 1
        if calls[0] > after:
            raise OSError(28, "No space left on device")
        real(path, content)

    with mock.patch.object(federation_folder, "replace_file", full), pytest.raises(OSError, match="No space"):
        new_federation(tmp_path)
    assert list((tmp_path / "federation").iterdir()) == []
    assert new_federation(tmp_path).roster().version == 1


@pytest.mark.parametrize("name", ["", "Lungs", "../lungs", "a" * 64, "lungs\n", "lünge"])
def test_what_cannot_name_a_federation_is_refused(name: str) -> None:
    assert code_of(lambda: settings_for(name, "lead.example:443")) == "federation-name"


def test_an_address_that_is_none_is_refused() -> None:
    assert code_of(lambda: settings_for("lungs", "https://lead.example")) == "address"


# --- open ------------------------------------------------------------------------------------------------------------


def test_a_folder_without_settings_is_no_federation(tmp_path: Path) -> None:
    assert code_of(lambda: FederationFolder.open(tmp_path)) == "no-federation"


@pytest.mark.parametrize("text", ["", "name = 7", 'name = "lungs"\nhost = "x"\nport = 0', "colour", "\xff"])
def test_wrong_settings_are_refused(folder: FederationFolder, text: str) -> None:
    (folder.path / "federation.toml").write_text(text, encoding="latin-1")
    assert code_of(lambda: FederationFolder.open(folder.path)) == "federation-settings"


def test_an_unknown_setting_is_refused_by_name(folder: FederationFolder) -> None:
    with (folder.path / "federation.toml").open("a") as file:
        file.write('hots = "x"\n')
    assert code_of(lambda: FederationFolder.open(folder.path)) == "federation-settings"


@pytest.mark.parametrize("name", ["roster.json", "trust/lead.pub"])
def test_a_missing_file_is_named(folder: FederationFolder, name: str) -> None:
    (folder.path / name).unlink()
    assert code_of(folder.roster) == "federation-file"


def test_a_roster_changed_on_the_disk_is_refused(folder: FederationFolder) -> None:
    content = (folder.path / "roster.json").read_bytes()
    (folder.path / "roster.json").write_bytes(content.replace(b'"version":1', b'"version":2'))
    assert code_of(folder.roster) == "signature-invalid"


def test_keys_of_two_leads_in_one_folder_are_refused(folder: FederationFolder) -> None:
    other = SigningKey.generate().verify_key.hex()
    (folder.path / "trust/lead.pub").write_text(f"{other}\n")
    assert code_of(lambda: lead_key(folder)) == "lead-mismatch"
    assert code_of(folder.roster) == "signer"


# --- the roster ------------------------------------------------------------------------------------------------------


def test_a_change_replaces_the_roster_and_gives_its_file(folder: FederationFolder) -> None:
    entry = Member("aachen").entry
    content = folder.change_roster(lead_key(folder), lambda held: rosters.with_site(held, entry, NOW))
    assert (folder.path / "roster.json").read_bytes() == content
    assert folder.roster().entry("aachen") == entry
    assert folder.roster().version == 2


def test_no_change_writes_nothing(folder: FederationFolder) -> None:
    before = (folder.path / "roster.json").stat().st_mtime_ns
    assert folder.change_roster(lead_key(folder), lambda held: held) == (folder.path / "roster.json").read_bytes()
    assert (folder.path / "roster.json").stat().st_mtime_ns == before


def test_a_change_that_goes_back_is_refused(folder: FederationFolder) -> None:
    first = folder.roster()
    folder.change_roster(lead_key(folder), lambda held: rosters.with_site(held, Member("aachen").entry, NOW))
    older = first.model_copy(update={"created": "2020-01-01T00:00:00+00:00"})
    assert code_of(lambda: folder.change_roster(lead_key(folder), lambda _: older)) == "roster-older"
    assert folder.roster().version == 2


ENROLLER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from small_trust import Member, no_passphrase
from server.federation_folder import FederationFolder
from shared.trust.roster import with_site
folder = FederationFolder.open(Path(sys.argv[1]))
key = folder.lead_key(no_passphrase)
for place in range(8):
    entry = Member(f"{sys.argv[2]}-{place}").entry
    folder.change_roster(key, lambda held: with_site(held, entry, datetime.now(UTC)))
"""


def test_of_two_commands_at_once_neither_loses_what_the_other_did(folder: FederationFolder) -> None:
    support = Path(__file__).parents[1] / "support"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(support), str(support.parents[1])])}
    running = [
        subprocess.Popen([sys.executable, "-c", ENROLLER, str(folder.path), name], env=environment)
        for name in ("a", "b")
    ]
    assert [one.wait(120) for one in running] == [0, 0]
    assert folder.roster().version == 17
    assert {one.site for one in folder.roster().sites} == {f"{name}-{place}" for name in "ab" for place in range(8)}


# --- certificates ----------------------------------------------------------------------------------------------------


def test_renewing_makes_a_certificate_and_touches_nothing_else(folder: FederationFolder) -> None:
    before = files(folder.path)
    folder.renew(no_passphrase, NOW + 300 * DAY)
    after = files(folder.path)
    assert {name for name in after if before.get(name) != after[name]} - {"trust/lock"} == {SERVER_PEM, CHAIN_PEM}
    assert days_left(folder, NOW + 300 * DAY) == DaysLeft(365, 3652 - 300)


def test_the_chain_is_the_server_then_the_authority(folder: FederationFolder) -> None:
    server, authority = (from_pem(folder.read(name))[0] for name in (SERVER_PEM, "trust/ca.pem"))
    assert from_pem(folder.read(CHAIN_PEM)) == (server, authority)


def test_a_lost_server_key_is_made_anew_by_renewing(folder: FederationFolder) -> None:
    before = folder.read(SERVER_KEY)
    (folder.path / SERVER_KEY).unlink()
    folder.renew(no_passphrase, NOW)
    assert folder.read(SERVER_KEY) != before
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder.path / CHAIN_PEM, folder.path / SERVER_KEY)


def test_renewing_names_the_hosts_that_the_settings_name_now(folder: FederationFolder) -> None:
    text = (folder.path / "federation.toml").read_text()
    (folder.path / "federation.toml").write_text(text.replace('host = "localhost"', 'host = "new.example"'))
    FederationFolder.open(folder.path).renew(no_passphrase, NOW)
    assert from_pem(folder.read(SERVER_PEM))[0].names == ("new.example", "localhost", "127.0.0.1")


def seen_by_a_site(folder: FederationFolder, ca_file: Path, serving: Path | None = None) -> str:
    """What a site that pinned ``ca_file`` sees of the coordinator: "" for nothing wrong."""
    combined = folder.path / "both.pem"
    combined.write_bytes(folder.read(SERVER_KEY) + folder.read(CHAIN_PEM))
    with tls_server(serving or combined) as server:
        target = Endpoint("localhost", server.port)
        place = Endpoint("127.0.0.1", server.port)
        return tls.look(target, lambda: connect(place, None, 5), tls.trust(ca_file), 5).failure


@pytest.mark.network
def test_a_site_that_pinned_the_authority_connects_before_and_after_a_renewal(tmp_path: Path) -> None:
    folder = new_federation(tmp_path, now=datetime.now(UTC))
    pinned = tmp_path / "pinned.pem"
    pinned.write_bytes(folder.read("trust/ca.pem"))
    assert seen_by_a_site(folder, pinned) == ""
    first = folder.read(SERVER_PEM)
    folder.renew(no_passphrase, datetime.now(UTC))
    assert folder.read(SERVER_PEM) != first
    assert seen_by_a_site(folder, pinned) == ""


@pytest.mark.network
def test_expired_and_wrong_certificates_are_seen_as_such_by_a_site(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    folder = new_federation(tmp_path, now=now)
    pinned = folder.path / "trust/ca.pem"
    folder.renew(no_passphrase, now - 366 * DAY)
    assert seen_by_a_site(folder, pinned) == "expired"
    folder.renew(no_passphrase, now + 2 * DAY)
    assert seen_by_a_site(folder, pinned) == "not-yet-valid"
    for name, failure in (("Somebody", "unknown-authority"), ("Consilium lungs", "untrusted")):
        stranger = issue(tmp_path, other_authority(name), ("localhost",), Validity())
        assert seen_by_a_site(folder, pinned, stranger) == failure
    folder.renew(no_passphrase, now)
    assert seen_by_a_site(folder, pinned) == ""


def test_a_clock_an_hour_behind_takes_a_certificate_made_just_now(folder: FederationFolder) -> None:
    folder.renew(no_passphrase, NOW)
    assert from_pem(folder.read(SERVER_PEM))[0].not_before < NOW - timedelta(hours=1)


# --- days left -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (30, ()),
        (29, ("the server certificate ends in 29 days: consilium-server renew",)),
        (1, ("the server certificate ends in 1 day: consilium-server renew",)),
        (0, ("the server certificate ends in 0 days: consilium-server renew",)),
        (-1, ("the server certificate ended 1 day ago: consilium-server renew",)),
        (-40, ("the server certificate ended 40 days ago: consilium-server renew",)),
    ],
)
def test_a_warning_is_given_from_below_30_days(made: FederationFolder, days: int, said: tuple[str, ...]) -> None:
    assert FEW_DAYS == 30
    left = days_left(made, NOW + (365 - days) * DAY)
    assert left.server == days
    assert left.warnings() == said


def test_the_authority_is_warned_about_too(made: FederationFolder) -> None:
    left = days_left(made, NOW + 3640 * DAY)
    assert left.authority == 12
    assert len(left.warnings()) == 2
    assert "the authority of this federation ends in 12 days" in left.warnings()[1]


def test_a_part_of_a_day_is_no_day(made: FederationFolder) -> None:
    assert days_left(made, NOW + timedelta(seconds=1)).server == 364


def test_sealing_by_another_key_is_no_roster_of_this_federation(folder: FederationFolder) -> None:
    (folder.path / "roster.json").write_bytes(seal(folder.roster(), SigningKey.generate()))
    assert code_of(folder.roster) == "signer"
