"""What a coordinator sees of one site: numbers that do not depend on the model under them.

Masked vectors of two models as different as they can be are held against the uniform distribution and against each
other: chi-squared over bytes and Kolmogorov-Smirnov over residues, seeds fixed. The same tests reject, loudly, what a
weaker protocol would send: bare values, masks of 32-bit seeds for somebody who tries seeds, and masks used twice.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, chisquare, ks_2samp, kstest
from summed import CONTEXT, DEFINITION, STEPS, Sum, expected, found, names_of

from client.secure import steps
from server.secure.opening import opened
from shared.secure import masks
from shared.secure.agreement import agreed, mask_key, self_key, sign_of
from shared.secure.entropy import seeded
from shared.secure.held import Held, parts

PARAMETERS, PEAK = 100_000, 1_000
SITES = tuple(sorted(names_of(3)))
VICTIM, OTHER, COLLUDING = SITES
WEIGHT = 3

UNLIKELY = 1e-4
"""Below it, a distribution is taken to be another: seeds are fixed, so that a test passes or fails for ever."""
IMPOSSIBLE = 1e-30
"""What controls must fall below."""

Words = NDArray[np.uint32]


def models() -> dict[str, NDArray[np.int32]]:
    """Nothing at all; all at the peak; and values as training gives them."""
    trained = np.random.default_rng(5).laplace(0, PEAK / 20, PARAMETERS)
    return {
        "zero": np.zeros(PARAMETERS, np.int32),
        "peak": np.full(PARAMETERS, PEAK, np.int32),
        "trained": np.clip(np.rint(trained), -PEAK, PEAK).astype(np.int32),
    }


def masked_sum(values: NDArray[np.int32], seed: int = 0, peak: int = PEAK) -> Sum:
    """A sum in which the victim holds ``values``, and 500 counts of one number; all masked, nothing unmasked."""
    others = Held(np.ones(values.size, np.int32), np.arange(500), 1, peak, DEFINITION)
    own = Held(values, np.full(500, 7), WEIGHT, peak, DEFINITION)
    return Sum({site: own if site == VICTIM else others for site in SITES}, seed=seed).until("mask")


def view(sum_: Sum) -> tuple[Words, NDArray[np.uint64], int]:
    """What the coordinator has of the victim: residues, counts, and the width of the ring."""
    message = sum_.masked[VICTIM]
    values, counts = parts(message)
    return values.copy(), counts.copy(), message.bits


def p_values(residues: Words, bits: int) -> dict[str, float]:
    """How likely uniform residues are to look like that, by several tests."""
    low, high = residues & np.uint32(255), residues >> np.uint32(bits - 8)
    after = (residues[1:] - residues[:-1]) & np.uint32(2**bits - 1)
    return {
        "low byte": float(chisquare(np.bincount(low, minlength=256)).pvalue),
        "high byte": float(chisquare(np.bincount(high, minlength=256)).pvalue),
        "differences": float(chisquare(np.bincount(after >> np.uint32(bits - 8), minlength=256)).pvalue),
        "values": float(kstest((residues + 0.5) / 2**bits, "uniform").pvalue),
    }


@pytest.fixture(scope="module")
def seen() -> dict[str, Sum]:
    return {name: masked_sum(values, seed) for seed, (name, values) in enumerate(models().items())}


@pytest.mark.parametrize("model", ["zero", "peak", "trained"])
def test_masked_values_are_uniform_whatever_the_model(seen: dict[str, Sum], model: str) -> None:
    residues, counts, bits = view(seen[model])
    assert min(p_values(residues, bits).values()) > UNLIKELY
    assert chisquare(np.bincount(counts.view(np.uint8), minlength=256)).pvalue > UNLIKELY


@pytest.mark.parametrize("model", ["zero", "peak", "trained"])
def test_control_unmasked_values_are_told_at_once(model: str) -> None:
    bare = (models()[model] * WEIGHT).astype(np.uint32) & np.uint32(2**16 - 1)
    assert max(p_values(bare, 16).values()) < IMPOSSIBLE


@pytest.mark.parametrize("pair", [("zero", "peak"), ("zero", "trained"), ("peak", "trained")], ids="-".join)
def test_masked_values_of_two_models_cannot_be_told_apart(seen: dict[str, Sum], pair: tuple[str, str]) -> None:
    (first, _, bits), (second, _, _) = (view(seen[name]) for name in pair)
    high = [np.bincount(one >> np.uint32(bits - 8), minlength=256) for one in (first, second)]
    assert chi2_contingency(np.array(high)).pvalue > UNLIKELY
    assert ks_2samp(first, second).pvalue > UNLIKELY
    assert abs(float(np.corrcoef(first, second)[0, 1])) < 5 / PARAMETERS**0.5


def test_control_the_same_models_without_masks_can_be_told_apart() -> None:
    zero, trained = (one * WEIGHT for one in (models()["zero"], models()["trained"]))
    assert ks_2samp(zero, trained).pvalue < IMPOSSIBLE


@pytest.mark.parametrize(("peak", "bits"), [(1_000, 16), (60_000, 20), (8_388_607, 27), (2**28, 32)])
def test_masked_values_fill_rings_of_every_width(peak: int, bits: int) -> None:
    residues, _, width = view(masked_sum(models()["peak"], 7, peak))
    assert width == bits
    assert min(p_values(residues, width).values()) > UNLIKELY


def without_own_mask(sum_: Sum) -> tuple[Words, NDArray[np.uint64], int]:
    """The view after unmasking: the victim's seed is known, as everybody's who is in the sum."""
    residues, counts, bits = view(sum_)
    masks.remove(self_key(seed_of(sum_), CONTEXT, VICTIM), 1, residues, counts)
    return residues & np.uint32(2**bits - 1), counts, bits


def seed_of(sum_: Sum) -> bytes:
    """The victim's seed, put together as the coordinator does."""
    for step in STEPS[STEPS.index("confirm") :]:
        getattr(sum_, step)(SITES)
    round_ = sum_.round
    return opened(round_._sum, round_._shares["seed"], round_._shares["key"]).seeds[VICTIM]


def test_after_unmasking_one_site_is_still_hidden_by_the_others() -> None:
    residues, _, bits = without_own_mask(masked_sum(models()["peak"], 11))
    assert min(p_values(residues, bits).values()) > UNLIKELY


# --- controls: what a weaker protocol would let a coordinator find ----------------------------------------------------


CANDIDATES = range(0x5EED_0000, 0x5EED_0000 + 2**10)
"""Seeds that somebody tries; all 2**32 take one core a few hours for a few thousand parameters each."""


def short(key: bytes) -> int:
    """The seed of 32 bits that a weak generator makes of a key: of these candidates, so that a test can try all."""
    return CANDIDATES.start + int.from_bytes(key[:4], "little") % len(CANDIDATES)


def weakened(key: bytes) -> bytes:
    return stretched(short(key))


def stretched(seed: int) -> bytes:
    return hashlib.sha256(seed.to_bytes(4, "little")).digest()


def before_last_mask(sum_: Sum, seen_as: Callable[[bytes], bytes]) -> tuple[Words, int]:
    """What hides the victim is one mask more: its own seed is known, and one of the two others is with the attacker."""
    residues, counts, bits = view(sum_)
    masks.remove(seen_as(self_key(seed_of(sum_), CONTEXT, VICTIM)), 1, residues, counts)
    masks.remove(seen_as(colluding_key(sum_)), sign_of(VICTIM, COLLUDING), residues, counts)
    return residues, bits


def colluding_key(sum_: Sum) -> bytes:
    """The colluding site knows its private key; here it is drawn again from its entropy."""
    entropy = seeded(f"{COLLUDING} {SEED}".encode())
    _, private = entropy(32), entropy(32)
    public = next(one.mask_key for one in sum_.round.offers().offers if one.site == VICTIM)
    return mask_key(agreed(private, bytes.fromhex(public)), CONTEXT, *sorted((VICTIM, COLLUDING)))


SEED, FEW = 13, 2_000


def tried(residues: Words, bits: int) -> Iterator[tuple[float, Words]]:
    """For each candidate, how likely what it leaves is to be uniform, and what it leaves."""
    sign = sign_of(VICTIM, OTHER)
    for seed in CANDIDATES:
        left = residues.copy()
        masks.remove(stretched(seed), sign, left, np.zeros(0, np.uint64))
        left &= np.uint32(2**bits - 1)
        yield float(chisquare(np.bincount(left >> np.uint32(bits - 5), minlength=32)).pvalue), left


def test_nobody_finds_the_last_mask_by_trying_seeds() -> None:
    residues, bits = before_last_mask(masked_sum(models()["trained"][:FEW], SEED), lambda key: key)
    assert min(p for p, _ in tried(residues, bits)) > UNLIKELY / len(CANDIDATES)


def test_control_masks_of_32_bit_seeds_are_found_by_trying_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tries against a generator with short seeds: one stands out, and under it lies the site's model."""
    with monkeypatch.context() as weaker:
        weaker.setattr(steps.masks, "add", Weak.add)
        sum_ = masked_sum(models()["trained"][:FEW], SEED)
    residues, bits = before_last_mask(sum_, weakened)
    standing_out = [left for p, left in tried(residues, bits) if p < IMPOSSIBLE]
    assert len(standing_out) == 1
    model = (standing_out[0].astype(np.int64) + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
    assert model.tolist() == (models()["trained"][:FEW].astype(np.int64) * WEIGHT).tolist()


class Weak:
    """``masks.add`` of 32-bit seeds; the real one is bound before it is replaced."""

    real = staticmethod(masks.add)

    @staticmethod
    def add(key: bytes, sign: Literal[1, -1], values: Words, counts: NDArray[np.uint64]) -> None:
        Weak.real(weakened(key), sign, values, counts)


def rounds(seeds: tuple[int, int]) -> tuple[Words, NDArray[np.int64]]:
    """Difference of what is seen in two sums of two models, and of the models themselves."""
    before, after = models()["trained"], np.roll(models()["trained"], 1)
    (first, _, bits), (second, _, _) = (
        view(masked_sum(of, seed)) for of, seed in zip((before, after), seeds, strict=True)
    )
    difference = (second - first) & np.uint32(2**bits - 1)
    return difference, WEIGHT * (after.astype(np.int64) - before)


def test_two_rounds_together_say_no_more_than_each() -> None:
    difference, _ = rounds((21, 22))
    assert min(p_values(difference, 16).values()) > UNLIKELY


def test_control_a_mask_used_twice_reveals_the_difference_of_two_models() -> None:
    difference, of_models = rounds((21, 21))
    assert max(p_values(difference, 16).values()) < IMPOSSIBLE
    assert ((difference.astype(np.int64) + 2**15) % 2**16 - 2**15).tolist() == of_models.tolist()


def test_the_same_keys_mask_otherwise_in_another_round() -> None:
    """Should a generator ever repeat itself: what a mask is drawn from holds the question too."""
    other = dataclasses.replace(CONTEXT, round=CONTEXT.round + 1)
    answers = masked_sum(models()["zero"], 21).answers
    (first, _, bits), (second, _, _) = (
        view(Sum(answers, context=context, seed=21).until("mask")) for context in (CONTEXT, other)
    )
    difference = (second - first) & np.uint32(2**bits - 1)
    assert min(p_values(difference, bits).values()) > UNLIKELY


def test_all_of_this_is_about_sums_that_come_out_right() -> None:
    sum_ = masked_sum(models()["trained"], 3)
    sum_.confirm(SITES)
    sum_.unmask(SITES)
    assert found(sum_.round.total()) == expected(sum_.answers.values())
