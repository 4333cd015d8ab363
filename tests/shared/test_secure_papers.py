"""Papers of a secure sum: each comes back whole, has one form only, and what is broken is named, not repeated."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from summed import CONTEXT, Sum, held, names_of

from shared.errors import ProtocolError
from shared.secure.papers import (
    MOST_BYTES,
    Confirmation,
    Dealing,
    Offer,
    Offers,
    Paper,
    Received,
    Revelation,
    Survivors,
    Unmasking,
)

SITES = tuple(sorted(names_of(4)))


def papers() -> dict[str, Paper]:
    """One of each kind, of a real sum in which one site drops out."""
    sum_ = Sum({site: held([1, 2], [3]) for site in SITES}).until("deal")
    offers = sum_.round.offers()
    dealing = sum_.parties[SITES[0]].deal(CONTEXT, offers)
    sum_.mask(SITES[:3])
    received = sum_.round.received(SITES[3])
    sum_.confirm(SITES[:3])
    survivors = sum_.round.survivors()
    confirmation = sum_.parties[SITES[0]].confirm(CONTEXT, survivors)
    sum_.unmask(SITES[:3])
    unmasking, revelation = sum_.round.unmasking(), sum_.revealed[SITES[0]]
    found = (offers.offers[0], offers, dealing, received, survivors, confirmation, unmasking, revelation)
    return {one.kind: one for one in found}


PAPERS = papers()
KINDS = sorted(PAPERS)


def changed(kind: str, **fields: Any) -> bytes:
    """The paper with other fields, in the one form."""
    said = json.loads(PAPERS[kind].to_bytes()) | fields
    return json.dumps(said, sort_keys=True, separators=(",", ":")).encode()


def refused(kind: str, content: bytes) -> str:
    with pytest.raises(ProtocolError) as caught:
        type(PAPERS[kind]).from_bytes(content)
    assert caught.value.hint
    assert kind in caught.value.sentence
    return caught.value.code


def test_there_is_one_of_each_kind() -> None:
    assert {type(one) for one in PAPERS.values()} == {
        Offer,
        Offers,
        Dealing,
        Received,
        Survivors,
        Confirmation,
        Unmasking,
        Revelation,
    }
    assert set(PAPERS) == {cls.kind for cls in Paper.__subclasses__()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_paper_comes_back_whole(kind: str) -> None:
    paper = PAPERS[kind]
    assert type(paper).from_bytes(paper.to_bytes()) == paper
    assert type(paper).from_bytes(paper.to_bytes()).sha256() == paper.sha256()


@pytest.mark.parametrize("kind", KINDS)
def test_a_paper_has_one_form_only(kind: str) -> None:
    content = PAPERS[kind].to_bytes()
    said = json.loads(content)
    for other in (
        content + b"\n",
        b" " + content,
        json.dumps(said, sort_keys=True).encode(),
        json.dumps(dict(reversed(said.items())), separators=(",", ":")).encode() if len(said) > 1 else b"{}",
        content.replace(b'"', b'"\\u0061', 1),
    ):
        assert refused(kind, other) == "paper-form"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_paper_of_the_kind_is_refused(kind: str) -> None:
    for content in (b"", b"{}", b"[]", b"null", b"\xff", b"[" * 10**5, changed(kind, more=1)):
        assert refused(kind, content) == "paper-form"
    others = [one for one in KINDS if one != kind]
    assert all(refused(kind, PAPERS[other].to_bytes()) == "paper-form" for other in others)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_too_large_is_refused_before_it_is_read(kind: str) -> None:
    assert refused(kind, b"x" * (MOST_BYTES + 1)) == "paper-size"


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("site", "../aachen"),
        ("site", "aachen/1"),
        ("cipher_key", "ab" * 31),
        ("cipher_key", "AB" * 32),
        ("mask_key", "zz" * 32),
        ("commitment", ""),
        ("weight", 0),
        ("weight", -1),
        ("weight", 2**31),
        ("weight", 1.0),
        ("weight", True),
        ("weight", "1"),
        ("values", -1),
        ("values", 2**41),
        ("counts", None),
        ("peak", 2**31),
        ("definition", "a b"),
        ("definition", ""),
        ("signature", "ab" * 63),
        ("signature", None),
    ],
    ids=str,
)
def test_an_offer_with_a_wrong_field_is_refused(field: str, wrong: object) -> None:
    assert refused("offer", changed("offer", **{field: wrong})) == "paper-form"


@pytest.mark.parametrize("bits", [15, 33, 0, -16, 16.5, "16"])
def test_a_ring_has_16_to_32_bits(bits: object) -> None:
    assert refused("offers", changed("offers", bits=bits)) == "paper-form"


@pytest.mark.parametrize("name", ["busbra_ge_logiq5", "HRF", "Klinik Süd", "site.2", "0", "ä" * 63], ids=ascii)
def test_a_site_is_called_as_a_simulation_calls_it(name: str) -> None:
    survivors = Survivors(survivors=(name,), signatures={})
    assert Survivors.from_bytes(survivors.to_bytes()) == survivors


@pytest.mark.parametrize("name", ["", "-a", " a", "a\nb", "a\u202eb", "a/b", "a\x1b[31m", "a" * 64], ids=ascii)
def test_what_could_deceive_a_reader_or_fill_a_page_is_no_name(name: str) -> None:
    assert refused("survivors", changed("survivors", survivors=[name])) == "paper-form"


@pytest.mark.parametrize("names", [SITES[::-1], (*SITES, SITES[-1]), ("b", "a"), ("a", "a")], ids=ascii)
def test_names_are_sorted_and_told_once(names: tuple[str, ...]) -> None:
    assert refused("survivors", changed("survivors", survivors=list(names))) == "paper-form"
    assert refused("unmasking", changed("unmasking", dropped=list(names))) == "paper-form"
    with pytest.raises(ValidationError):
        Survivors(survivors=names, signatures={})


@pytest.mark.parametrize("signature", ["", "ab" * 63, "AB" * 64, "zz" * 64, None], ids=str)
def test_a_signature_among_the_survivors_has_64_bytes_and_one_form(signature: object) -> None:
    signatures = json.loads(PAPERS["survivors"].to_bytes())["signatures"]
    assert signatures.keys() == {*SITES[:3]}
    wrong = signatures | {SITES[0]: signature}
    assert refused("survivors", changed("survivors", signatures=wrong)) == "paper-form"
    strange = signatures | {"../aachen": signatures[SITES[0]]}
    assert refused("survivors", changed("survivors", signatures=strange)) == "paper-form"


@pytest.mark.parametrize("share", ["", "ab" * 65, "ab" * 67, "AB" * 66, "zz" * 66])
def test_a_share_has_66_bytes(share: str) -> None:
    assert refused("revelation", changed("revelation", seeds={SITES[0]: share})) == "paper-form"


@pytest.mark.parametrize("sealed", ["a", "zz", "ab" * 600])
def test_sealed_shares_are_bounded_and_in_hexadecimal_digits(sealed: str) -> None:
    dealt = json.loads(PAPERS["received"].to_bytes())["dealt"]
    dealt[0]["sealed"] = sealed
    assert refused("received", changed("received", dealt=dealt)) == "paper-form"


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(content: bytes) -> None:
    assert all(refused(kind, content) == "paper-form" for kind in KINDS)


def test_no_refusal_repeats_what_a_paper_said() -> None:
    with pytest.raises(ProtocolError) as caught:
        Offer.from_bytes(changed("offer", site="Müller, Erika"))
    assert "Erika" not in str(vars(caught.value))


def test_a_paper_does_not_change() -> None:
    with pytest.raises(ValidationError):
        PAPERS["survivors"].survivors = ()  # type: ignore[attr-defined]


def test_offers_tell_whose_they_are() -> None:
    offers = PAPERS["offers"]
    assert isinstance(offers, Offers)
    assert offers.sites == SITES
