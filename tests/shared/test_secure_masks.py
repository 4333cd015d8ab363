"""Masks: the published key stream, in place, of any length, the same in one piece or in blocks."""

import hashlib
import tracemalloc

import numpy as np
import pytest
from Crypto.Cipher import AES
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.secure import masks
from shared.secure.masks import BLOCK_BYTES, Sign, Stream, add, remove

Words = NDArray[np.uint32]
LongWords = NDArray[np.uint64]

KEY = bytes(range(32))
WORDS_A_BLOCK = BLOCK_BYTES // 4
EDGES = (0, 1, 2, 3, 4, 5, 1001, WORDS_A_BLOCK - 1, WORDS_A_BLOCK, WORDS_A_BLOCK + 1, 3 * WORDS_A_BLOCK + 7)


def stream(key: bytes, size: int, counter: bytes = bytes(16)) -> bytes:
    """AES-256-CTR of another library."""
    return AES.new(key, AES.MODE_CTR, nonce=b"", initial_value=counter).encrypt(bytes(size))


def mask(key: bytes, values: int, counts: int) -> tuple[Words, LongWords]:
    """What ``add`` adds, found by adding it to zeros."""
    both = np.zeros(values, np.uint32), np.zeros(counts, np.uint64)
    add(key, 1, *both)
    return both


def vectors(values: int, counts: int, seed: int = 0) -> tuple[Words, LongWords]:
    source = np.random.default_rng(seed)
    return source.integers(0, 2**32, values, np.uint32), source.integers(0, 2**64, counts, np.uint64)


def test_the_oracle_is_aes_256_ctr_of_the_standard() -> None:
    """NIST SP 800-38A, F.5.5: four blocks of plain text and of cipher text."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    plain = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    expected = bytes.fromhex(
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )
    found = stream(key, 64, bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"))
    assert bytes(a ^ b for a, b in zip(plain, found, strict=True)) == expected


@pytest.mark.parametrize(
    ("key", "counter", "plain", "expected"),
    [
        (
            "776beff2851db06f4c8a0542c8696f6c6a81af1eec96b4d37fc1d689e6c1c104",
            "00000060db5672c97aa8f0b200000001",
            b"Single block msg",
            "145ad01dbf824ec7560863dc71e3e0c0",
        ),
        (
            "f6d66d6bd52d59bb0796365879eff886c66dd51a5b6a99744b50590c87a23884",
            "00faac24c1585ef15a43d87500000001",
            bytes(range(32)),
            "f05e231b3894612c49ee000b804eb2a9b8306b508f839d6a5530831d9344af1c",
        ),
    ],
    ids=["vector 7", "vector 8"],
)
def test_the_oracle_is_aes_256_ctr_of_ipsec(key: str, counter: str, plain: bytes, expected: str) -> None:
    """RFC 3686, section 6."""
    found = stream(bytes.fromhex(key), len(plain), bytes.fromhex(counter))
    assert bytes(a ^ b for a, b in zip(plain, found, strict=True)).hex() == expected


def test_the_mask_of_the_zero_key_is_the_published_one() -> None:
    """AES-256 under zeros of the counters 0, 1 and 2: AESAVS, and test cases 13 and 14 of the specification of GCM."""
    values, counts = mask(bytes(32), 8, 2)
    assert values.astype("<u4").tobytes().hex() == "dc95c078a2408989ad48a21492842087530f8afbc74536b9a963b4f1c4cb738b"
    assert counts.astype("<u8").tobytes().hex() == "cea7403d4d606b6e074ec5d3baf39d18"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("80" + "00" * 31, "e35a6dcb19b201a01ebcfa8aa22b5759"),
        ("c47b0294dbbbee0fec4757f22ffeee3587ca4730c3d33b691df38bab076bc558", "46f2fb342d6f0ab477476fc501242c5f"),
    ],
    ids=["VarKey 0", "KeySbox 0"],
)
def test_the_first_words_of_a_mask_are_the_published_block(key: str, expected: str) -> None:
    """AESAVS, appendices C.3 and E.3: zeros under AES-256."""
    values, _ = mask(bytes.fromhex(key), 4, 0)
    assert values.astype("<u4").tobytes().hex() == expected


@pytest.mark.parametrize("counts", [0, 1, 5])
@pytest.mark.parametrize("values", EDGES)
def test_a_mask_is_the_stream_of_another_library_with_counts_at_the_next_block(values: int, counts: int) -> None:
    first, second = mask(KEY, values, counts)
    begin = -(-4 * values // 16) * 16
    expected = stream(KEY, begin + 8 * counts)
    assert first.astype("<u4").tobytes() == expected[: 4 * values]
    assert second.astype("<u8").tobytes() == expected[begin:]


@given(st.integers(0, 70), st.integers(0, 20), st.sampled_from([1, -1]), st.integers(0, 99))
def test_adding_is_modulo_the_words_with_either_sign(values: int, counts: int, sign: Sign, seed: int) -> None:
    first, second = vectors(values, counts, seed)
    before = first.tolist(), second.tolist()
    add(KEY, sign, first, second)
    words, long_words = mask(KEY, values, counts)
    assert first.tolist() == [(a + sign * int(b)) % 2**32 for a, b in zip(before[0], words, strict=True)]
    assert second.tolist() == [(a + sign * int(b)) % 2**64 for a, b in zip(before[1], long_words, strict=True)]


@given(st.integers(0, 70), st.integers(0, 20), st.sampled_from([1, -1]), st.binary(min_size=32, max_size=32))
def test_what_was_added_is_taken_away_by_remove_and_by_the_other_sign(
    values: int, counts: int, sign: Sign, key: bytes
) -> None:
    first, second = vectors(values, counts)
    masked = first.copy(), second.copy()
    add(key, sign, *masked)
    opposite = masked[0].copy(), masked[1].copy()
    remove(key, sign, *masked)
    add(key, -1 if sign == 1 else 1, *opposite)
    for found in (masked, opposite):
        assert np.array_equal(found[0], first)
        assert np.array_equal(found[1], second)


@pytest.mark.parametrize("values", EDGES)
def test_blocks_are_seen_nowhere_in_a_mask(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = mask(KEY, values, 9)
    for size in (64, 2**24):
        monkeypatch.setattr(masks, "BLOCK_BYTES", size)
        assert all(np.array_equal(a, b) for a, b in zip(mask(KEY, values, 9), found, strict=True))


@given(st.integers(0, 40), st.integers(0, 40))
def test_a_shorter_mask_is_the_beginning_of_a_longer_one(short: int, more: int) -> None:
    assert np.array_equal(mask(KEY, short, 0)[0], mask(KEY, short + more, 0)[0][:short])


def test_another_key_is_another_mask_and_a_stream_goes_on_where_it_was() -> None:
    flipped = bytes([KEY[0] ^ 1]) + KEY[1:]
    assert not np.array_equal(mask(KEY, 4, 0)[0], mask(flipped, 4, 0)[0])
    twice, cut = Stream(KEY), np.zeros(8, np.uint32)
    twice.apply(1, cut[:4])
    twice.apply(1, cut[4:])
    assert np.array_equal(cut, mask(KEY, 8, 0)[0])


def test_masks_of_three_sites_cancel_in_any_order() -> None:
    pairs = {(a, b): hashlib.sha256(f"{a}{b}".encode()).digest() for a, b in ((0, 1), (0, 2), (1, 2))}
    sites = [vectors(1001, 7, seed) for seed in range(3)]
    plain = sum(values for values, _ in sites), sum(counts for _, counts in sites)
    for (low, high), key in reversed(pairs.items()):
        add(key, 1, *sites[low])
        add(key, -1, *sites[high])
    assert np.array_equal(sum(values for values, _ in sites), plain[0])
    assert np.array_equal(sum(counts for _, counts in sites), plain[1])


@pytest.mark.parametrize("bits", [16, 21, 31])
def test_reducing_once_at_the_end_is_reducing_every_time(bits: int) -> None:
    """Carries go up, so the low bits of a sum are the sum of the low bits."""
    most = np.uint32(2**bits - 1)
    late, _ = vectors(1000, 0)
    often = late & most
    for position in range(5):
        key = hashlib.sha256(bytes([position])).digest()
        add(key, 1, late, np.zeros(0, np.uint64))
        often = (often + (mask(key, 1000, 0)[0] & most)) & most
    assert np.array_equal(late & most, often)


def test_a_part_of_a_vector_is_masked_where_it_lies_and_nothing_beside_it() -> None:
    whole, counts = vectors(100, 3)
    before = whole.copy()
    add(KEY, 1, whole[10:51], counts)
    expected = before.copy()
    expected[10:51] += mask(KEY, 41, 0)[0]
    assert np.array_equal(whole, expected)
    gaps = before.copy()
    add(KEY, 1, gaps[::2], counts)
    assert np.array_equal(gaps[1::2], before[1::2])
    assert np.array_equal(gaps[::2], before[::2] + mask(KEY, 50, 0)[0])


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_length_is_a_mistake(size: int) -> None:
    """16 bytes would be AES-128 without a word."""
    with pytest.raises(ValueError, match=f"has 32 bytes, this one has {size}"):
        add(bytes(size), 1, np.zeros(1, np.uint32), np.zeros(0, np.uint64))


def frozen(size: int) -> LongWords:
    counts = np.zeros(size, np.uint64)
    counts.flags.writeable = False
    return counts


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        (np.zeros(2, np.int32), np.zeros(2, np.uint64)),
        (np.zeros(2, np.uint64), np.zeros(2, np.uint64)),
        (np.zeros(2, ">u4"), np.zeros(2, np.uint64)),
        (np.zeros((2, 2), np.uint32), np.zeros(2, np.uint64)),
        (np.zeros(2, np.uint32), np.zeros(2, np.int64)),
        (np.zeros(2, np.uint32), frozen(2)),
    ],
    ids=["signed", "wide", "other byte order", "two axes", "signed counts", "read-only counts"],
)
def test_vectors_of_another_kind_are_refused_before_anything_is_masked(values: Words, counts: LongWords) -> None:
    with pytest.raises(ValueError, match="writable vector"):
        add(KEY, 1, values, counts)
    assert not values.any()
    assert not counts.any()


def test_masking_takes_no_memory_of_the_size_of_the_model() -> None:
    values = np.zeros(20 * WORDS_A_BLOCK, np.uint32)
    tracemalloc.start()
    try:
        add(KEY, 1, values, np.zeros(4, np.uint64))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 3 * BLOCK_BYTES
    assert values.nbytes == 20 * BLOCK_BYTES
