"""Addresses: one spelling each, hosts that certificates can name, and nothing that is a URL or a mistyped number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_trust import code_of

from shared.errors import FederationError
from shared.trust.address import join_address, require_address, split_address


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("lead.example.org:443", ("lead.example.org", 443)),
        ("LEAD.example.org:443", ("lead.example.org", 443)),
        ("localhost:8443", ("localhost", 8443)),
        ("192.0.2.7:65535", ("192.0.2.7", 65535)),
        ("[2001:db8::7]:1", ("2001:db8::7", 1)),
        ("xn--mnchen-3ya.example:443", ("xn--mnchen-3ya.example", 443)),
        ("coordinator_1:9000", ("coordinator_1", 9000)),
    ],
)
def test_an_address_has_a_host_and_a_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts
    assert split_address(join_address(*parts)) == parts


@pytest.mark.parametrize(
    "address",
    [
        "",
        "lead",
        ":443",
        "lead:",
        "lead:0",
        "lead:65536",
        "lead:99999999",
        "lead:0443",
        "lead:+443",
        "lead: 443",
        "lead:\N{FULLWIDTH DIGIT FOUR}43",
        "https://lead:443",
        "lead:443/",
        "user@lead:443",
        "lead example:443",
        "lead..example:443",
        "-lead:443",
        "lead-:443",
        "münchen.example:443",
        "a" * 64 + ":443",
        "a." * 130 + "de:443",
        "192.0.2.256:443",
        "192.0.2:443",
        "2001:db8::7:443",
        "[192.0.2.7]:443",
        "[lead]:443",
        "[2001:db8::7]",
        "lead\n:443",
        "lead:443\n",
        "*.example:443",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    assert code_of(lambda: split_address(address)) == "address"
    with pytest.raises(ValueError, match="host:port"):
        require_address(address)


@pytest.mark.parametrize("address", ["Lead:443", "[2001:DB8::7]:443"])
def test_a_document_takes_one_spelling_only(address: str) -> None:
    host, port = split_address(address)
    with pytest.raises(ValueError, match="host:port"):
        require_address(address)
    assert require_address(join_address(host, port)) == join_address(host, port)


@given(st.ip_addresses(), st.integers(1, 2**16 - 1))
def test_every_ip_address_with_every_port_is_an_address(host: object, port: int) -> None:
    assert split_address(join_address(str(host), port)) == (str(host), port)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        host, port = split_address(text)
    except FederationError:
        return
    assert host
    assert 0 < port < 2**16
