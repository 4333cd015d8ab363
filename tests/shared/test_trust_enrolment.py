"""Requests prove that their sender holds the key; welcomes are whole in themselves; any byte changed is refused."""

import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from loopback import authority, issue
from pydantic import ValidationError
from small_trust import NOW, Lead, Member, authority_pem, code_of, node_pem

from shared.crypto.signing import SigningKey
from shared.errors import ProtocolError
from shared.trust.documents import opened, seal
from shared.trust.enrolment import (
    Coordinator,
    EnrolmentRequest,
    Welcome,
    make_request,
    make_welcome,
    open_request,
    open_welcome,
)
from shared.trust.words import words_of

VERSIONS = {"consilium": "0.1.0", "flwr": "1.41.0", "torch": "2.13.0+cpu"}
SITE = Member("aachen")
REQUEST = make_request(SITE.key, "aachen", node_pem("aachen"), VERSIONS, NOW)
LEAD = Lead((SITE, Member("bonn")))
WELCOME = LEAD.welcome("aachen")


def p256_pem() -> str:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def rsa_pem() -> str:
    public = rsa.generate_private_key(65537, 2048).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def request_with(**changes: object) -> bytes:
    """A request whose signature is good and whose fields were not checked by whoever made it."""
    held = open_request(REQUEST).model_copy(update=changes)
    return seal(held, SITE.key)


# --- requests --------------------------------------------------------------------------------------------------------


def test_a_request_says_who_asks_with_which_keys_and_versions() -> None:
    found = open_request(REQUEST)
    assert (found.site, found.identity, found.node) == ("aachen", SITE.key.verify_key.hex(), node_pem("aachen"))
    assert found.versions == VERSIONS
    assert found.entry == SITE.entry


def test_a_request_holds_public_things_only() -> None:
    document = json.loads(REQUEST)["document"]
    assert set(document) == {"site", "identity", "node", "versions", "created"}
    assert b"PRIVATE" not in REQUEST
    assert SITE.key.pem().splitlines()[1] not in REQUEST


def test_somebody_else_cannot_ask_for_a_sites_key() -> None:
    thief = SigningKey.generate()
    stolen = open_request(REQUEST)
    assert code_of(lambda: open_request(seal(stolen, thief))) == "request-signer"


def test_a_thief_of_the_node_key_gets_other_words_than_the_site() -> None:
    """With the site's name and node key, but without its identity key, a request is signed by another key."""
    thief = SigningKey.generate()
    forged = open_request(make_request(thief, "aachen", node_pem("aachen"), VERSIONS, NOW))
    assert forged.node == open_request(REQUEST).node
    assert words_of(forged.entry.verify_key) != words_of(SITE.key.verify_key)


@given(st.integers(0, len(REQUEST) - 1), st.integers(1, 255))
def test_a_request_with_any_byte_changed_is_refused(place: int, change: int) -> None:
    content = bytearray(REQUEST)
    content[place] ^= change
    with pytest.raises(ProtocolError):
        open_request(bytes(content))


@pytest.mark.parametrize("make", [p256_pem, rsa_pem], ids=["P-256", "RSA"])
def test_a_node_key_of_another_kind_is_refused(make: object) -> None:
    assert code_of(lambda: open_request(request_with(node=make()))) == "document-form"  # type: ignore[operator]


def test_a_node_key_in_another_spelling_is_refused() -> None:
    """Two texts for one key would let one key pass as two."""
    pem = node_pem("aachen")
    for other in (pem.strip(), pem + "\n", pem.replace("\n", "\r\n"), "note\n" + pem, pem + pem):
        assert code_of(lambda other=other: open_request(request_with(node=other))) == "document-form"  # type: ignore[misc]


@pytest.mark.parametrize(
    "versions",
    [
        {"Consilium": "1"},
        {"consilium": "1 "},
        {"consilium": ""},
        {"consilium": "x" * 41},
        {"../x": "1"},
        {f"p{place}": "1" for place in range(41)},
    ],
    ids=["capital", "space", "empty", "long", "path", "many"],
)
def test_versions_that_are_none_are_refused(versions: dict[str, str]) -> None:
    assert code_of(lambda: open_request(request_with(versions=versions))) == "document-form"


def test_a_welcome_is_no_request_and_a_request_no_welcome() -> None:
    for call in (lambda: open_request(WELCOME), lambda: open_welcome(REQUEST)):
        assert code_of(call) == "signature-invalid"


# --- welcomes --------------------------------------------------------------------------------------------------------


def welcome_with(key: SigningKey = LEAD.key, **changes: object) -> bytes:
    return seal(open_welcome(WELCOME)[0].model_copy(update=changes), key)


def test_a_welcome_says_where_the_coordinator_is_whom_to_trust_and_who_is_there() -> None:
    welcome, roster = open_welcome(WELCOME)
    assert (welcome.federation, welcome.address, welcome.site) == ("lungs", "lead.example:443", "aachen")
    assert welcome.lead_key == LEAD.key.verify_key
    assert welcome.ca == authority_pem()
    assert roster == LEAD.roster


def test_a_welcome_holds_public_things_only() -> None:
    assert b"PRIVATE" not in WELCOME
    assert LEAD.key.pem().splitlines()[1] not in WELCOME


@given(st.integers(0, len(WELCOME) - 1), st.integers(1, 255))
def test_a_welcome_with_any_byte_changed_is_refused(place: int, change: int) -> None:
    content = bytearray(WELCOME)
    content[place] ^= change
    with pytest.raises(ProtocolError):
        open_welcome(bytes(content))


def test_a_welcome_signed_by_another_than_the_lead_it_names_is_refused() -> None:
    assert code_of(lambda: open_welcome(welcome_with(SigningKey.generate()))) == "welcome-signer"


def test_a_roster_of_another_lead_in_a_welcome_is_refused() -> None:
    other = Lead(LEAD.members)
    assert code_of(lambda: open_welcome(welcome_with(roster=seal(other.roster, other.key).decode()))) == "signer"


def test_a_roster_of_another_federation_in_a_welcome_is_refused() -> None:
    other = Lead(LEAD.members, "livers", LEAD.key)
    assert code_of(lambda: open_welcome(welcome_with(roster=seal(other.roster, LEAD.key).decode()))) == "welcome-roster"


def test_a_welcome_for_a_site_that_the_roster_does_not_hold_is_refused() -> None:
    assert code_of(lambda: open_welcome(welcome_with(site="celle"))) == "welcome-roster"


def test_a_lead_who_takes_over_the_mail_still_has_other_words() -> None:
    """A welcome made anew by somebody in between is whole in itself; the words tell."""
    between = Lead(LEAD.members)
    welcome, _ = open_welcome(between.welcome("aachen"))
    assert words_of(welcome.lead_key) != words_of(LEAD.key.verify_key)


@pytest.mark.parametrize(
    "address", ["lead.example", "lead.example:0", "https://lead.example:443", "Lead.example:443", "a b:443", ":443"]
)
def test_a_welcome_with_an_address_that_is_none_is_refused(address: str) -> None:
    assert code_of(lambda: open_welcome(welcome_with(address=address))) == "document-form"


def test_an_authority_that_may_not_issue_is_refused(tmp_path: object) -> None:
    by = authority("Somebody")
    leaf = issue(tmp_path, by).read_bytes()  # type: ignore[arg-type]
    certificate = x509.load_pem_x509_certificate(leaf).public_bytes(Encoding.PEM).decode()
    assert code_of(lambda: open_welcome(welcome_with(ca=certificate))) == "document-form"
    assert open_welcome(welcome_with(ca=by.pem.decode()))[0].ca == by.pem.decode()


@pytest.mark.parametrize("extra", ["", "\n", "-----BEGIN CERTIFICATE-----\n"])
def test_an_authority_that_is_not_one_certificate_is_refused(extra: str) -> None:
    wrong = extra + authority_pem() * 2 if extra else "nonsense"
    assert code_of(lambda: open_welcome(welcome_with(ca=wrong))) == "document-form"


def test_a_roster_that_is_no_line_of_ascii_is_refused() -> None:
    for wrong in ("", "x", "ä\n", "a\nb\n", "\n"):
        assert code_of(lambda wrong=wrong: open_welcome(welcome_with(roster=wrong))) == "document-form"  # type: ignore[misc]


def test_the_papers_of_one_federation_say_the_same_of_the_lead() -> None:
    first, second = (open_welcome(LEAD.welcome(name))[0] for name in ("aachen", "bonn"))
    assert first.model_copy(update={"site": "bonn"}) == second


def test_making_a_welcome_checks_what_it_says() -> None:
    with pytest.raises(ValidationError):
        make_welcome(LEAD.key, Coordinator("lungs", "nowhere", authority_pem()), b"x\n", "aachen", NOW)


def test_the_fields_on_the_wire_are_those_of_the_contract() -> None:
    assert set(EnrolmentRequest.model_fields) == {"site", "identity", "node", "versions", "created"}
    assert set(Welcome.model_fields) == {"federation", "address", "ca", "lead", "roster", "site", "created"}
    assert opened(WELCOME, Welcome, LEAD.key.verify_key) == open_welcome(WELCOME)[0]
