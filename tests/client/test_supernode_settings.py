"""What a SuperNode starts with: the lead's word on where the coordinator is and whom to trust, or its command's."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from small_trust import NOW, authority_pem, code_of, new_federation, new_site, no_passphrase, request_of

from client import enrolment, pinned, supernode
from client.link_watch import Ending
from client.site_folder import KEYS, SiteFolder
from server.enrolment import enrol
from server.federation_folder import FederationFolder
from shared.crypto.signing import SigningKey
from shared.errors import SiteDataError
from shared.trust.documents import seal
from shared.trust.enrolment import make_welcome, open_welcome


@pytest.fixture
def federation(tmp_path: Path) -> FederationFolder:
    return new_federation(tmp_path)


@pytest.fixture
def site(tmp_path: Path, federation: FederationFolder) -> SiteFolder:
    """A site that has joined ``federation``."""
    made = new_site(tmp_path)
    request = request_of(enrolment.request(made, NOW))
    enrolment.accept(made, enrol(federation, request, federation.lead_key(no_passphrase), NOW), NOW)
    return made


def settings(site: SiteFolder, *more: str) -> supernode.NodeSettings:
    return supernode.read_settings([str(site.path), *more])


def file(site: SiteFolder, name: str = pinned.WELCOME) -> Path:
    return site.path / pinned.TRUST / name


def changed(site: SiteFolder, **said: str) -> bytes:
    """The welcome with other words under the same signature."""
    found: dict[str, Any] = json.loads(file(site).read_bytes())
    found["document"].update(said)
    return json.dumps(found, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def resigned(site: SiteFolder, key: SigningKey, **said: str) -> bytes:
    """The welcome with other words under ``key``, which signs its roster as well: whole in itself."""
    welcome, roster = open_welcome(file(site).read_bytes())
    said = {"lead": key.verify_key.hex(), "roster": seal(roster, key).decode(), **said}
    return seal(welcome.model_copy(update=said), key)


def test_without_words_a_site_goes_where_its_lead_has_said_and_trusts_whom_it_has_named(
    site: SiteFolder, federation: FederationFolder
) -> None:
    found = settings(site)
    assert found.address == "localhost:8443"
    assert found.ca_pem == (federation.path / "trust" / "ca.pem").read_bytes()


def test_a_newer_welcome_of_the_same_lead_leads_elsewhere(site: SiteFolder, federation: FederationFolder) -> None:
    key, said = federation.lead_key(no_passphrase), federation.coordinator()
    moved = type(said)(said.federation, "elsewhere.example:443", said.ca)
    enrolment.accept(site, make_welcome(key, moved, federation.roster_file(), "aachen", NOW + timedelta(days=1)), NOW)
    assert settings(site).address == "elsewhere.example:443"


def test_a_welcome_that_nobody_has_signed_is_refused(site: SiteFolder) -> None:
    """A file with an address and an authority in the right places was enough once."""
    document = {"address": "elsewhere.example:443", "ca": authority_pem()}
    file(site).write_text(json.dumps({"document": document}))
    assert code_of(lambda: settings(site)) == "pinned-damaged"


@pytest.mark.parametrize("field", ["address", "ca"])
def test_other_words_under_the_lead_s_signature_are_refused(site: SiteFolder, field: str) -> None:
    said = {"address": "elsewhere.example:443", "ca": authority_pem()}[field]
    file(site).write_bytes(changed(site, **{field: said}))
    assert code_of(lambda: settings(site)) == "pinned-damaged"


def test_the_same_words_written_again_are_no_change(site: SiteFolder) -> None:
    """A control for what is refused above: it is the other words, and not that the file was written by a test."""
    before = settings(site)
    file(site).write_bytes(changed(site))
    assert settings(site).address == before.address


def test_a_welcome_of_another_lead_is_refused_though_it_is_whole_in_itself(site: SiteFolder) -> None:
    content = resigned(site, SigningKey.generate(), address="elsewhere.example:443")
    assert open_welcome(content)[0].address == "elsewhere.example:443"
    file(site).write_bytes(content)
    assert code_of(lambda: settings(site)) == "pinned-damaged"


@pytest.mark.parametrize("place", range(0, 1900, 190))
def test_a_welcome_with_one_byte_changed_is_refused(site: SiteFolder, place: int) -> None:
    content = bytearray(file(site).read_bytes())
    content[place] ^= 1
    file(site).write_bytes(bytes(content))
    assert code_of(lambda: settings(site)) == "pinned-damaged"


def test_another_authority_beside_the_welcome_is_refused(site: SiteFolder) -> None:
    file(site, pinned.AUTHORITY).write_text(authority_pem())
    assert code_of(lambda: settings(site)) == "pinned-damaged"


@pytest.mark.parametrize("option", ["--address", "--ca"])
def test_half_of_it_on_the_command_line_leaves_the_other_half_to_the_lead(site: SiteFolder, option: str) -> None:
    other = site.path / "other.pem"
    other.write_text(authority_pem())
    words = {"--address": "elsewhere.example:443", "--ca": str(other)}[option]
    found = settings(site, option, words)
    assert (found.address == "localhost:8443") == (option == "--ca")
    assert (found.ca_pem == authority_pem().encode()) == (option == "--ca")
    file(site).write_bytes(changed(site, address="elsewhere.example:443"))
    assert code_of(lambda: settings(site, option, words)) == "pinned-damaged"


def test_a_relay_that_is_told_both_reads_nothing_that_is_the_custodian_s(tmp_path: Path, site: SiteFolder) -> None:
    """As its service tells it: its user cannot look into the site's folder."""
    lent = tmp_path / "lent"
    lent.mkdir()
    for name in (f"{KEYS}/node.pem", f"{pinned.TRUST}/{pinned.AUTHORITY}"):
        (lent / Path(name).name).write_bytes((site.path / name).read_bytes())
    (lent / "node.pem").chmod(0o600)
    words = ("--address", "lead.example:443", "--ca", str(lent / "ca.pem"), "--key", str(lent / "node.pem"))
    for path in sorted(site.path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    site.path.rmdir()
    assert settings(site, *words).address == "lead.example:443"


def test_the_lead_s_signature_is_checked_without_any_key_of_the_site_but_the_node_s(site: SiteFolder) -> None:
    for path in (site.path / KEYS).iterdir():
        if path.name != "node.pem":
            path.unlink()
    assert settings(site).address == "localhost:8443"


def test_a_site_that_has_accepted_nothing_is_told_so(site: SiteFolder) -> None:
    file(site).unlink()
    assert code_of(lambda: settings(site)) == "not-accepted"


def test_a_refusal_is_one_sentence_and_a_hint_and_nothing_is_started(
    site: SiteFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    file(site).write_bytes(changed(site, address="elsewhere.example:443"))
    assert supernode.main([str(site.path)]) == Ending.FAILED
    said = capsys.readouterr().err
    assert said.startswith("error: what this site holds of its federation was changed or cannot be read")
    assert said.count("\n") == 2
    assert "elsewhere" not in said
    assert not (site.path / "run" / "supernode.lock").exists()


def test_a_welcome_that_may_not_be_read_is_no_welcome_that_is_missing(
    site: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who accepted one is not sent to accept it again."""
    real = Path.read_bytes

    def closed(path: Path) -> bytes:
        if path.name == pinned.WELCOME:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", closed)
    with pytest.raises(SiteDataError, match="Permission denied") as caught:
        settings(site)
    assert caught.value.code == "pinned-damaged"
