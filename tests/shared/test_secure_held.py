"""A site's answer, and the form in which it leaves: lengths are checked, numbers come back, values stay unseen."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from summed import CONTEXT, DEFINITION, code_of, held, party

from shared.messages import Masked
from shared.secure.held import Held, Shape, masked, parts
from shared.secure.holders import Threshold

SIGNATURE = "5a" * 64
"""Carried as it is: what it is over is no matter of form."""


@given(st.integers(16, 32), st.integers(0, 50), st.integers(0, 9), st.integers(0, 2**32))
def test_masked_numbers_come_back_as_they_were(bits: int, values: int, counts: int, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    residues = numbers.integers(0, 2**bits, values, np.uint64).astype(np.uint32)
    words = numbers.integers(0, 2**64, counts, np.uint64)
    message = masked(residues, words, bits, SIGNATURE)
    assert (message.values, message.counts, message.bits) == (values, counts, bits)
    assert message.signature == SIGNATURE
    back = parts(message)
    assert back[0].tolist() == residues.tolist()
    assert back[1].tolist() == words.tolist()
    assert (back[0].dtype, back[1].dtype) == (np.uint32, np.uint64)


def test_counts_are_little_endian_words_after_the_values() -> None:
    message = masked(np.array([0x0201], np.uint32), np.array([0x0807060504030201], np.uint64), 16, SIGNATURE)
    assert message.content.tolist() == [1, 2, 1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    "changes", [{"values": 4}, {"values": 2}, {"counts": 1}, {"counts": 3}, {"bits": 17}, {"bits": 32}], ids=ascii
)
def test_lengths_that_do_not_fit_the_bytes_are_refused(changes: dict[str, int]) -> None:
    message = masked(np.arange(3, dtype=np.uint32), np.arange(2, dtype=np.uint64), 16, SIGNATURE)
    assert code_of(lambda: parts(dataclasses.replace(message, **changes))) == "masked-shape"


def test_bytes_that_are_no_vector_are_refused() -> None:
    assert code_of(lambda: parts(Masked(np.zeros((2, 3), np.uint8), 16, 3, 0, SIGNATURE))) == "masked-shape"


@pytest.mark.parametrize("values", [[101], [-101], [0, 5, 200], [-(2**31)]], ids=ascii)
def test_values_beyond_the_peak_never_become_an_answer(values: list[int]) -> None:
    assert code_of(lambda: held(values, peak=100)) == "update-range"


def test_values_at_the_peak_do() -> None:
    assert held([100, -100], peak=100).shape == Shape(2, 0, 100, DEFINITION)


@pytest.mark.parametrize("weight", [0, -1, 2**31])
def test_a_weight_is_positive_and_bounded(weight: int) -> None:
    assert code_of(lambda: held([1], weight=weight)) == "update-weight"


def test_an_offer_announces_the_shape_of_the_answer() -> None:
    answer = held([1, 2, 3], [4], 5)
    offer = party("aachen", {}, Threshold()).offer(CONTEXT, answer)
    assert Shape.of(offer) == answer.shape
    assert offer.weight == 5


def test_answers_are_the_same_number_by_number() -> None:
    one = held([1, 2], [3], 4)
    assert one.same(held([1, 2], [3], 4))
    others = [held([1, 3], [3], 4), held([1, 2], [2], 4), held([1, 2], [3], 5), held([1, 2], [3], 4, peak=99)]
    others += [held([1], [3], 4), Held(one.values, one.counts, 4, 100, "ef" * 32)]
    assert not any(one.same(other) for other in others)


def test_an_answer_does_not_show_its_numbers() -> None:
    shown = repr(held([77, 88], [99]))
    assert not any(number in shown for number in ("77", "88", "99"))
