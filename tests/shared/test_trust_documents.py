"""Signed documents: one spelling each, one kind each, and nothing is believed that the named key has not signed."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_trust import NOW, Lead, Member, code_of

from shared.crypto.signing import SigningKey, VerifyKey
from shared.errors import ConsiliumError, ProtocolError
from shared.trust import documents
from shared.trust.documents import Digest, Document, Moment, Name, moment, opened, seal, signer_of, stamp
from shared.trust.roster import Roster


class Note(Document):
    """A small kind of document."""

    kind: ClassVar[str] = "test-note"
    most_bytes: ClassVar[int] = 1000

    site: Name
    digest: Digest
    at: Moment
    count: int


class Memo(Note):
    """The same fields under another kind."""

    kind: ClassVar[str] = "test-memo"


KEY = SigningKey.generate()
NOTE = Note(site="aachen", digest="ab" * 32, at=stamp(NOW), count=7)
FILE = seal(NOTE, KEY)


def reopened(content: bytes, key: VerifyKey = KEY.verify_key) -> Note:
    return opened(content, Note, key)


def resigned(document: object, key: SigningKey = KEY, kind: str = "test-note") -> bytes:
    """A file made by hand, without any of the code under test but the signature."""
    body = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    signature = key.sign(f"consilium-{kind}-1\n".encode() + body).hex()
    envelope = {"document": document, "signature": signature, "signer": key.verify_key.hex()}
    return json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def fields(**changes: object) -> dict[str, object]:
    return {"site": "aachen", "digest": "ab" * 32, "at": "2026-11-20T12:00:00+00:00", "count": 7} | changes


# --- what is written -------------------------------------------------------------------------------------------------


def test_a_file_is_what_the_contract_says_byte_by_byte() -> None:
    assert resigned(fields()) == FILE


def test_what_was_sealed_opens_as_it_was() -> None:
    assert reopened(FILE) == NOTE


def test_the_signature_is_over_a_line_with_the_kind_and_the_canonical_json() -> None:
    held = json.loads(FILE)
    signed = b"consilium-test-note-1\n" + NOTE.canonical()
    KEY.verify_key.verify(bytes.fromhex(held["signature"]), signed)
    with pytest.raises(ProtocolError):
        KEY.verify_key.verify(bytes.fromhex(held["signature"]), signed.replace(b"note-1", b"note-2"))


def test_a_digest_is_the_sha_256_of_the_canonical_json() -> None:
    written = json.dumps(fields(), sort_keys=True, separators=(",", ":")).encode()
    assert NOTE.sha256() == hashlib.sha256(written).hexdigest()


def test_sealing_twice_gives_the_same_bytes() -> None:
    assert seal(NOTE, KEY) == FILE


@given(st.integers(min_value=-(10**30), max_value=10**30), st.datetimes(min_value=datetime(1970, 1, 1)))
def test_any_document_opens_as_it_was_sealed(count: int, at: datetime) -> None:
    note = Note(site="b", digest="0" * 64, at=stamp(at.replace(tzinfo=UTC)), count=count)
    assert reopened(seal(note, KEY)) == note


# --- any change ------------------------------------------------------------------------------------------------------


def refused(content: bytes) -> bool:
    with pytest.raises(ProtocolError):
        reopened(content)
    return True


@given(st.integers(0, len(FILE) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(place: int, change: int) -> None:
    changed = bytearray(FILE)
    changed[place] ^= change
    assert refused(bytes(changed))


def test_every_single_changed_bit_is_refused() -> None:
    for place in range(len(FILE)):
        for bit in range(8):
            changed = bytearray(FILE)
            changed[place] ^= 1 << bit
            assert refused(bytes(changed))


@given(st.integers(0, len(FILE)), st.binary(min_size=1, max_size=5))
def test_any_inserted_bytes_are_refused(place: int, more: bytes) -> None:
    inserted = FILE[:place] + more + FILE[place:]
    # A byte that repeats its neighbour can be put before or after it, but never be left unseen.
    assert inserted != FILE
    assert refused(inserted)


@given(st.integers(0, len(FILE) - 1), st.integers(1, 40))
def test_any_missing_bytes_are_refused(place: int, count: int) -> None:
    assert refused(FILE[:place] + FILE[place + count :])


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(content: bytes) -> None:
    assert refused(content)


def other_spellings() -> Iterator[bytes]:
    held = json.loads(FILE)
    yield json.dumps(held, sort_keys=True).encode() + b"\n"
    yield json.dumps(held, sort_keys=True, separators=(",", ":"), indent=0).encode() + b"\n"
    yield json.dumps(dict(reversed(held.items())), separators=(",", ":")).encode() + b"\n"
    yield FILE.rstrip(b"\n")
    yield FILE + b"\n"
    yield FILE.replace(b"\n", b"\r\n")
    yield FILE.replace(b'"aachen"', rb'"\u0061achen"')
    yield FILE.replace(b'{"at"', b'{"count":8,"at"')
    yield FILE.decode().encode("utf-16")
    yield b"\xef\xbb\xbf" + FILE
    yield FILE.replace(held["signature"].encode(), held["signature"].upper().encode())
    yield FILE.replace(held["signer"].encode(), held["signer"].upper().encode())


@pytest.mark.parametrize("place", range(12))
def test_the_same_words_in_another_spelling_are_refused(place: int) -> None:
    spelling = list(other_spellings())[place]
    assert spelling != FILE
    assert code_of(lambda: reopened(spelling)) in {"document-form", "signer"}


def test_an_equal_number_that_was_not_signed_is_refused() -> None:
    assert code_of(lambda: reopened(FILE.replace(b'"count":7', b'"count":7.0'))) == "signature-invalid"


# --- whose it is -----------------------------------------------------------------------------------------------------


def test_another_signer_is_named_by_fingerprint_and_refused() -> None:
    other = SigningKey.generate()
    with pytest.raises(ProtocolError) as caught:
        reopened(seal(NOTE, other))
    assert caught.value.code == "signer"
    assert other.verify_key.fingerprint() in caught.value.sentence
    assert KEY.verify_key.fingerprint() in caught.value.sentence


def test_a_signer_who_only_claims_to_be_the_named_one_is_refused() -> None:
    other = SigningKey.generate()
    forged = seal(NOTE, other).replace(other.verify_key.hex().encode(), KEY.verify_key.hex().encode())
    assert code_of(lambda: reopened(forged)) == "signature-invalid"


def test_the_claimed_signer_is_told_without_a_check() -> None:
    other = SigningKey.generate()
    forged = seal(NOTE, other).replace(other.verify_key.hex().encode(), KEY.verify_key.hex().encode())
    assert signer_of(forged, Note) == KEY.verify_key
    assert signer_of(FILE, Note) == KEY.verify_key


def test_a_document_of_one_kind_is_none_of_another_although_the_fields_are_the_same() -> None:
    memo = seal(Memo(**fields()), KEY)  # type: ignore[arg-type]
    assert opened(memo, Memo, KEY.verify_key).count == 7
    assert code_of(lambda: reopened(memo)) == "signature-invalid"
    assert code_of(lambda: opened(FILE, Memo, KEY.verify_key)) == "signature-invalid"


def test_a_version_of_the_kind_that_is_not_known_is_refused() -> None:
    assert reopened(resigned(fields())) == NOTE
    body = json.dumps(fields(), sort_keys=True, separators=(",", ":")).encode()
    newer = KEY.sign(b"consilium-test-note-2\n" + body).hex()
    held = json.loads(FILE)["signature"]
    assert code_of(lambda: reopened(FILE.replace(held.encode(), newer.encode()))) == "signature-invalid"


# --- what it may say: signed by the right key, and still refused -----------------------------------------------------

WRONG = {
    "unknown field": fields(colour="red"),
    "missing field": {key: value for key, value in fields().items() if key != "site"},
    "number as text": fields(count="7"),
    "text as number": fields(site=7),
    "true as number": fields(count=True),
    "float": fields(count=7.5),
    "null": fields(site=None),
    "list": fields(site=["aachen"]),
    "capitals": fields(site="Aachen"),
    "path": fields(site="../aachen"),
    "line feed": fields(site="aachen\n"),
    "empty name": fields(site=""),
    "long name": fields(site="a" * 64),
    "letters": fields(site="aächen"),
    "short digest": fields(digest="ab" * 31),
    "digest in capitals": fields(digest="AB" * 32),
    "time without zone": fields(at="2026-11-20T12:00:00"),
    "time with Z": fields(at="2026-11-20T12:00:00Z"),
    "time in another zone": fields(at="2026-11-20T12:00:00+01:00"),
    "day that is none": fields(at="2026-02-30T12:00:00+00:00"),
    "time with fractions": fields(at="2026-11-20T12:00:00.5+00:00"),
    "time without zeros": fields(at="2026-11-2T12:00:00+00:00"),
    "nothing": {},
}


@pytest.mark.parametrize("what", WRONG)
def test_a_signed_document_with_a_wrong_field_is_refused(what: str) -> None:
    assert code_of(lambda: reopened(resigned(WRONG[what]))) == "document-form"


@pytest.mark.parametrize("what", [[], "note", 7, None, [fields()]])
def test_a_signed_thing_that_is_no_document_is_refused(what: object) -> None:
    assert code_of(lambda: reopened(resigned(what))) == "document-form"


def test_no_error_repeats_what_a_file_said() -> None:
    patient = "mueller-erika"
    for wrong in (fields(site=patient.upper()), fields(**{patient: 1}), fields(at=patient)):
        with pytest.raises(ConsiliumError) as caught:
            reopened(resigned(wrong))
        assert patient not in (caught.value.sentence + caught.value.hint).lower()


def test_the_error_names_the_field_that_is_wrong() -> None:
    with pytest.raises(ProtocolError, match="its field digest"):
        reopened(resigned(fields(digest="x")))


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_a_file_that_is_too_large_is_refused_before_it_is_read_as_json() -> None:
    assert code_of(lambda: reopened(b"[" * 1001)) == "document-size"
    assert code_of(lambda: reopened(b"[" * 1000)) == "document-form"


def test_a_document_that_grew_too_large_is_not_sealed() -> None:
    assert code_of(lambda: seal(NOTE.model_copy(update={"count": 10**900}), KEY)) == "document-size"


@pytest.mark.parametrize("bomb", [b"[" * 900, b'{"a":' * 190, b"9" * 999, b"1e99999", b"NaN", b"\xff" * 50])
def test_deep_nesting_and_huge_numbers_are_refused_like_anything_else(bomb: bytes) -> None:
    assert code_of(lambda: reopened(bomb)) == "document-form"


def test_nesting_as_deep_as_the_largest_kind_allows_is_refused() -> None:
    assert code_of(lambda: opened(b"[" * Roster.most_bytes, Roster, KEY.verify_key)) == "document-form"


def test_a_roster_of_a_thousand_sites_fits() -> None:
    entry = len(Lead((Member("aachen"),)).roster.canonical()) - len(Lead().roster.canonical())
    assert entry * 1000 < Roster.most_bytes


# --- times and files -------------------------------------------------------------------------------------------------


def test_a_time_is_written_in_utc_to_the_second() -> None:
    berlin = timezone(timedelta(hours=1))
    assert stamp(datetime(2026, 11, 20, 13, 0, 0, 999, tzinfo=berlin)) == "2026-11-20T12:00:00+00:00"


@given(st.integers(0, 10**10))
def test_a_time_is_read_as_it_was_written(seconds: int) -> None:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    assert moment(stamp(at)) == at


def test_a_file_is_read_to_one_byte_beyond_its_bound_and_no_further(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(5000))
    assert len(documents.read(path, Note)) == 1001


def test_a_file_that_is_not_there_and_a_place_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    assert code_of(lambda: documents.read(tmp_path / "none", Note)) == "document-unreadable"
    assert code_of(lambda: documents.write(tmp_path / "none/out", FILE)) == "document-unwritable"


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    documents.write(tmp_path / "note", FILE)
    assert reopened(documents.read(tmp_path / "note", Note)) == NOTE
